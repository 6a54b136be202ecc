// Where new blocks are placed, and which requests may still get some.
//
// Small and medium files share chunks by best fit: the shortest free run that is long enough. Data
// behind a file's first chunk, and data of files that are known to be large, gets whole chunks,
// congruent with the file offset, which are reserved for the file while it is being written.
// Metadata has chunks of its own as long as there are any; after that, any free block is used
// (docs/decisions/0013).
//
// Called with the volume's lock held exclusively, except for the counters.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "core/change.h"
#include "core/quarantine.h"
#include "core/space_map.h"
#include "media/format.h"
#include "media/geometry.h"

namespace pmfs::core {

struct Goal {
    BlockNo near;              // the best first block; 0 = anywhere
    FileBlock file_block;      // for congruence with the file offset
    std::uint64_t owner = 0;   // inode number, for chunk reservations
    GroupNo group;             // where to look first when there is no best block
    bool large = false;        // take whole chunks
    bool privileged = false;   // may use what is reserved for root
    bool broken = false;       // do not break a free chunk for it,
    bool beside_data = false;  // and do not use metadata's chunks
    bool together = false;     // break a free chunk rather than return several pieces
};

// How much of the free space an allocation must leave.
enum class Need : std::uint8_t {
    user,       // file data: all reserves
    root,       // ... of root: the reserve of what must always work
    name,       // new files: the root reserve, and three quarters of what must always work
    root_name,  // ... of root
    growth,     // metadata that the above bring with them: half of that
    essential,  // what must always work: nothing
};

inline Need need_of_data(bool privileged) {
    return privileged ? Need::root : Need::user;
}

// Calls `f(chunk, bits)` for each chunk that the run touches, with the bits of its blocks there;
// stops at the first failure.
template <class F>
Result<> for_each_chunk(Run run, F f) {
    for (BlockNo at = run.start; at < run.end();) {
        const unsigned from = media::index_in_chunk(at);
        const std::uint64_t n = std::min(run.end() - at, media::kChunkBlocks - from);
        TRY(f(media::chunk_of(at), bit_range(from, static_cast<unsigned>(n))));
        at += n;
    }
    return {};
}

class Allocator {
public:
    // EUCLEAN: see SpaceMap.
    static Result<std::unique_ptr<Allocator>> open(journal::Journal &journal,
                                                   const media::Superblock &superblock,
                                                   bool read_only = false);
    SpaceMap &map() { return *map_; }

    // Takes up to `blocks` contiguous data blocks, fewer if there are not so many in a row.
    // ENOSPC; kParkErrno when blocks are held back that a group commit would free.
    Result<Run> take_data(Change &change, const Goal &goal, std::uint64_t blocks);
    // The same without a transaction: the blocks do not change on the medium, and are reserved in
    // memory until they are taken or cancelled.
    Result<Run> reserve_data(const Goal &goal, std::uint64_t blocks);
    // Takes what was reserved.  When the transaction does not commit, it is still reserved.
    Result<> take_reserved(Change &change, Run run);
    void cancel_reserved(Run run);
    // Whether a large file could continue in a whole chunk, if one were free.
    Result<bool> lacks_chunk(const Goal &goal);
    // Takes whole free chunks that begin at a multiple of `unit` blocks (a power of two, at least
    // 512): exactly `chunks` of them in one run.  ENOSPC if there is no such run.
    Result<Run> take_chunks(Change &change, std::uint64_t chunks, std::uint64_t unit,
                            bool privileged);
    // Keeps chunks that are being emptied from being allocated, until they are released.
    void keep_chunks(ChunkNo first, std::uint64_t chunks);
    void free_chunks(ChunkNo first, std::uint64_t chunks);
    // Takes such chunks when they are empty; all are under one bitmap block.  kParkErrno: one of
    // their blocks is still held back.
    Result<Run> take_kept(Change &change, ChunkNo first, std::uint64_t chunks);
    // Takes `blocks` contiguous metadata blocks (a few).
    Result<Run> take_meta(Change &change, BlockNo near, std::uint64_t blocks, Need need);
    // A metadata block of that chunk; ENOSPC: it has none.
    Result<Run> take_meta_in(Change &change, ChunkNo chunk);
    // A chunk for its first inodes, in or near a group: two of its blocks are free.
    Result<ChunkNo> find_inode_chunk(GroupNo group);
    // A place for what may be anywhere: the next group that has a free chunk.
    GroupNo next_group();
    // ENOSPC, or kParkErrno, when so many blocks are not available.
    Result<> check_space(std::uint64_t blocks, Need need);
    // Frees the run, which lies within one bitmap block (see piece()).
    Result<> give_back(Change &change, Run run);
    // Blocks that stay in use although they are freed.
    Quarantine &quarantine() { return quarantine_; }
    // Whether blocks are held back that will become free.
    bool space_comes() const { return map_->waits(journal_.region().is_image()); }
    // Ends the reservations of all chunks but those that are being emptied.  True: there were some.
    bool drop_reservations();
    // How many blocks that would add to the transaction: 4, or fewer if it changes some already.
    std::size_t blocks_to_give_back(Change &change, Run run);
    // The longest head of `run` that give_back takes at once; tail_piece: the longest tail.
    Run piece(Run run) const;
    Run tail_piece(Run run) const;

    // A file was closed for the last time: its reserved chunks may be shared.
    void release_reservation(std::uint64_t owner);
    // Without the lock: whether no file has any.  Exact for a file that is not being written.
    bool nothing_reserved() const { return reservations_.load(std::memory_order_acquire) == 0; }

    void release_held() { map_->release_held(); }
    bool nothing_held() const { return map_->nothing_held(); }
    void set_readers(Epochs &readers) { map_->set_readers(readers); }

    // --- counters; without the lock
    std::uint64_t free_blocks() const { return map_->free_blocks(); }
    // What files can get.
    std::uint64_t available_blocks(bool privileged) const;
    // How many more inodes there can be, assuming names of a usual length.
    std::uint64_t available_inodes(bool privileged) const;

    // For the picture: one chunk's kind and used blocks.
    Result<> chunk_info(ChunkNo chunk, std::uint8_t *kind, std::uint16_t *used);

private:
    Allocator(journal::Journal &journal, const media::Superblock &superblock)
        : journal_(journal), superblock_(superblock) {}

    std::uint64_t essential_reserve(std::uint64_t inodes) const;
    std::uint64_t reserve_of(Need need) const;
    std::uint64_t within_reserve(std::uint64_t blocks, Need need) const;
    Error no_space() const;
    Result<Run> place_data(Change *change, const Goal &goal, std::uint64_t blocks);
    Result<Run> place_near(Change *change, const Goal &goal, std::uint64_t blocks);
    Result<Run> place_fresh(Change *change, const Goal &goal, std::uint64_t blocks);
    Result<Run> place_shared(Change *change, const Goal &goal, std::uint64_t blocks);
    unsigned shortest_piece(unsigned wanted_class) const;
    Result<Run> place_anywhere(Change *change, const Goal &goal, std::uint64_t blocks);
    Result<Run> place_meta(Change &change, GroupNo group, unsigned blocks);
    Result<Run> best_run(Change *change, ChunkNo chunk, std::uint64_t blocks);
    Result<Run> extend(Change *change, BlockNo block, std::uint64_t blocks, const Goal &goal);
    Result<> take_run(Change &change, Run run, SpaceMap::Use use);
    bool mine(ChunkNo chunk, std::uint64_t owner) const;
    void reserve_chunk(ChunkNo chunk, std::uint64_t owner);
    GroupNo group_for(const Goal &goal) const;

    journal::Journal &journal_;
    const media::Superblock &superblock_;
    std::unique_ptr<SpaceMap> map_;
    std::unordered_map<std::uint64_t, std::vector<ChunkNo>> reserved_;  // by owner
    std::unordered_map<ChunkNo, std::uint64_t> owner_of_;
    static constexpr std::uint64_t kKept = ~std::uint64_t{0};  // an owner: keep_chunks()
    GroupNo spread_;
    std::atomic<std::uint64_t> reservations_{0};  // owners
    Quarantine quarantine_;
};

}  // namespace pmfs::core
