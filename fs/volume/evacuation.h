// Makes chunks whole by moving other files' small data out of them (docs/decisions/0013).
//
// Works in steps, for an operation or a job that calls them in turn.  Data is moved piece by piece,
// each in a transaction: a file reads the same before, between and after.  It never moves metadata,
// nor blocks that are sealed, granted, pinned or quarantined, nor files that another operation is
// changing.  Chunks with such blocks are given up, and others are tried.
#pragma once
#include <optional>
#include <set>

#include "core/alloc.h"
#include "core/owners.h"
#include "volume/claims.h"
#include "volume/engine.h"
#include "volume/operation.h"

namespace pmfs {

class Evacuation {
public:
    // needed: the last resort of an operation that needs the chunks, and which waits for blocks to
    // be freed.  in_a_row: the same for chunks that must be contiguous: up to as many as a group
    // has, and moved data may break other free chunks.  useful: metadata keeps its chunks, and no
    // operation waits.
    enum class Worth : std::uint8_t { needed, in_a_row, useful };

    // `chunks` in a row, the first one at a multiple of `unit`.  `own`: the claim of the calling
    // operation, whose file's data may be moved as well.
    Evacuation(Engine &engine, unsigned chunks, unsigned unit, Worth worth, Claim *own);
    // Without the volume's lock.
    ~Evacuation();
    Evacuation(const Evacuation &) = delete;
    Evacuation &operator=(const Evacuation &) = delete;

    // Whether a useful one is worth trying: since the last failure at least a chunk's blocks were
    // freed.
    static bool may_help(const Engine &engine) REQUIRES(engine.lock) {
        return engine.allocator->map().freed() >= engine.evacuation_helps_at;
    }
    static void was_vain(Engine &engine) REQUIRES(engine.lock) {
        engine.evacuation_helps_at = engine.allocator->map().freed() + media::kChunkBlocks;
    }

    Hold hold() const;
    // True: the chunks are empty and reserved, until this object is destroyed or they are taken
    // (take()).  ENOSPC: none can be emptied.  kParkErrno: as for an operation.  kClaimErrno:
    // another evacuation is running; there is only one at a time.  All results but kParkErrno and
    // kAbsentErrno (run the step again: pm/no_waiting.h) are returned with the lock held
    // exclusively.
    Result<bool> step();
    // Within a transaction of the caller.  kParkErrno: not all of them are available yet.  None:
    // another operation took a block of them, and other chunks must be emptied (step()).
    Result<core::Run> take(core::Change &change);
    // The same for `chunks` of them, from `from` on, under one bitmap block: for in_a_row.
    Result<core::Run> take_part(core::Change &change, unsigned from, unsigned chunks);
    core::Run place() const;  // where they are, from step() on
    // Releases the chunks, if there are any.  With the lock held exclusively.
    void finish();
    // Chunks with more than so many blocks in use are not worth emptying. As long as there is such
    // a limit, no operation waits for them.
    void at_most(std::uint64_t used) { used_max_ = used; }
    static constexpr std::uint64_t kNoLimit = ~std::uint64_t{0};
    // Limits it to these groups; the next step begins in the first one.
    void within(GroupNo group, GroupNo end);
    GroupNo group() const { return group_; }        // where it is
    std::uint64_t moved() const { return moved_; }  // blocks

private:
    // index, pick: from the second window of a group on, instead of scan.
    enum class Stage : std::uint8_t {
        choose,
        index,
        pick,
        scan,
        check,
        plan,
        wait,
        copy,
        commit,
        done
    };
    // How often it waits for blocks to become free when nothing could be emptied.
    static constexpr unsigned kWaitsMax = 16;

    Result<> choose();
    Result<> none();
    Result<> index();
    void pick();
    void search(std::uint64_t used);
    void forget_owners();
    void keep_owners(std::vector<core::Owned> owned);
    Result<> scan();
    Result<> check();
    Result<> plan();
    Result<bool> is_there(const core::Reader &reader, const media::Inode &inode) const;
    std::optional<ChunkNo> hopeless();
    ChunkNo unknown_chunk() const;
    void copy();
    Result<> commit();
    Result<> exchange();
    Result<bool> plan_piece(const core::Reader &reader, const core::Owned &owned);
    core::Goal goal() const;
    Result<> reserve();
    Result<bool> move_attribute(const core::Reader &reader, const core::Owned &owned);
    bool may_move(const media::Inode &inode);
    void give_up_window(ChunkNo because);
    void give_up_piece() { give_up_window(media::chunk_of(piece_.start)); }
    Result<> claim(InodeNo ino);
    void leave_inode();
    void cancel();

    Engine &e_;
    const unsigned chunks_, unit_;
    const Worth worth_;
    Claim *const own_;
    Claim turn_;
    Stage stage_ = Stage::choose;
    std::uint64_t used_max_ = kNoLimit, moved_ = 0;
    GroupNo first_group_, group_, end_group_{~std::uint64_t{0}};
    unsigned waits_ = 0;
    std::set<ChunkNo> stuck_;  // chunks that a window failed for
    std::optional<core::SpaceMap::Window> window_;
    std::optional<core::OwnerScan> scan_;
    std::optional<core::GroupOwners> index_;
    GroupNo searched_{~std::uint64_t{0}};  // where a window's owners were searched for last
    std::vector<core::Owned> owned_;       // what is in the window
    bool from_index_ = false;              // so it may be outdated
    std::size_t next_ = 0;                 // in owned_,
    std::uint64_t offset_ = 0;             // and in that
    std::uint64_t known_ = 0;              // blocks of that one and of those behind it
    std::optional<Claim> claim_;           // on an inode that is being changed
    InodeNo claimed_;
    std::optional<std::size_t> attribute_moved_;  // in owned_: its value was moved
    core::Owned piece_;                           // being moved, into run_
    core::Run run_;
    bool reserved_ = false, unwritten_ = false, blob_ = false;
    std::optional<ChunkNo> failed_;  // the window cannot be emptied, because of this chunk
};

}  // namespace pmfs
