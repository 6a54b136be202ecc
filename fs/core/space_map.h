// Which blocks are in use, and by what: the bitmaps and summaries of all groups, the blocks that
// are held back, and an index that finds a place in a few steps, however large the volume is.
//
// A block that is freed is held back: always until its transaction has ended; until all readers
// that began before have finished; and on an image file until the record that freed it is safe from
// a power cut, because otherwise the old file could show the new owner's data after a crash. A
// block that was metadata may become data only when no record that touches it can be replayed.
//
// Called with the volume's lock held exclusively, except for the counters.
#pragma once
#include <array>
#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <set>
#include <unordered_map>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "core/bits.h"
#include "core/change.h"
#include "core/epoch.h"
#include "core/group_set.h"
#include "journal/tx.h"
#include "media/format.h"
#include "media/geometry.h"

namespace pmfs::core {

// Where free runs of partly used chunks are searched.
enum class Side : std::uint8_t {
    data = 0,   // data, or data and metadata
    meta = 1,   // metadata only
    inode = 2,  // chunks with inodes: more of them are to come
};
inline constexpr unsigned kSides = 3;
inline constexpr unsigned kRunClasses = 9;  // class k: the longest free run has 2^k blocks or more

class SpaceMap final : public journal::TxWatcher {
public:
    // Reads the summaries (either copy of each).  EUCLEAN when both copies of one are damaged; to
    // a reader such a group is full.
    static Result<std::unique_ptr<SpaceMap>> open(journal::Journal &journal,
                                                  const media::Superblock &superblock,
                                                  bool read_only);

    struct Chunk {
        std::uint16_t free = 0;     // as on the medium, with held-back blocks
        std::uint16_t longest = 0;  // run of blocks that can be taken
        media::ChunkKind kind = media::ChunkKind::free;
        bool inodes = false;        // it has an inode map
        bool was_meta = false;      // some block of it, since the mount
        bool reserved = false;      // set by the allocator: not in the index
        std::uint8_t shelf = 0xff;  // where the index has it: see space_index.cc
    };
    // The volume is about to grow to `blocks`.  EUCLEAN: what is known of its last group cannot be
    // true of a longer one.  The second call, when the new groups are on the medium: EUCLEAN, and
    // nothing has changed.
    Result<> may_grow(std::uint64_t blocks);
    Result<> grow(std::uint64_t blocks);
    // ENOENT past the end.
    Result<const Chunk *> chunk(ChunkNo chunk);
    std::uint64_t chunk_count() const;
    ChunkNo end_chunk() const { return ChunkNo(chunk_count()); }
    std::uint64_t group_count() const { return groups_.size(); }
    GroupNo end_group() const { return GroupNo(groups_.size()); }
    // The group itself if its number is valid, otherwise the first one.
    GroupNo existing(GroupNo group) const { return group < end_group() ? group : GroupNo(0); }

    // --- finding.  Nothing: there is none.
    // A chunk of `side` whose longest run is of class `k`; in the group `near` or the next one.
    Result<std::optional<ChunkNo>> find_run(Side side, unsigned k, GroupNo near, bool for_data);
    // In the group `near` only: a chunk of class `k` whose longest run has at least `blocks`.
    Result<std::optional<ChunkNo>> find_run_here(Side side, unsigned k, GroupNo near,
                                                 unsigned blocks, bool for_data);
    // `count` chunks in a row, wholly free, the first one at a multiple of `unit`, all in one
    // bitmap block.
    Result<std::optional<ChunkNo>> find_free(GroupNo near, unsigned count, unsigned unit,
                                             bool for_data);
    // The first group at or after `from` that has a free chunk, wrapping around.
    std::optional<GroupNo> free_group(GroupNo from) const { return with_free_.next(from); }
    // The `count` chunks in a row, the first one at a multiple of `unit`, of the group that have
    // the fewest blocks in use, but `used_least`; only file data, some of it free, and none of the
    // chunks in `but`.  All in one bitmap block, unless they may lie `across` several.
    struct Wanted {
        unsigned count, unit;
        bool across = false;
    };
    struct Window {
        ChunkNo first;
        std::uint64_t used = 0;
    };
    Result<std::optional<Window>> fewest_used(GroupNo group, Wanted wanted,
                                              std::uint64_t used_least,
                                              const std::set<ChunkNo> &but);
    // The group at or after `from` that has free blocks in broken chunks, or with `whole` in any
    // others as well.  Held-back blocks count as free here.
    std::optional<GroupNo> broken_group(GroupNo from, bool whole) const;
    // Blocks of the chunk that can be taken, as the change sees it (null: no change).
    Result<Bits> available(Change *change, ChunkNo chunk);
    bool wholly_free(ChunkNo chunk);
    // It was metadata so recently that it must not get data yet.
    bool blocked(ChunkNo chunk) const {
        return bit_at(group_at(media::group_of(chunk)).blocked, media::index_in_group(chunk));
    }
    void set_reserved(ChunkNo chunk, bool reserved);

    // --- changing.  EUCLEAN: taken while in use, or freed twice.
    enum class Use : std::uint8_t { data, meta, reserved };  // reserved: data that was held for it
    Result<> take(Change &change, ChunkNo chunk, const Bits &bits, Use use);
    Result<> give(Change &change, ChunkNo chunk, const Bits &bits);
    // How many blocks that would add to the transaction.
    std::size_t blocks_to_give(Change &change, ChunkNo chunk);
    // Held only in memory, for a later change; Use::reserved ends that when the change commits.
    void hold(ChunkNo chunk, const Bits &bits);
    void unhold(ChunkNo chunk, const Bits &bits);

    // Calls f(media::Summary *) for both copies of a group's summary.  It may touch the counts and
    // the heads of lists, and in `lines` the fields of a chunk.
    static constexpr journal::Lines kSummaryHead =
        journal::lines_of(0, offsetof(media::Summary, reserved));
    template <class F>
    Result<> edit_summary(Change &change, GroupNo group, journal::Lines lines, F f) {
        const auto layout = media::layout_of(group);
        const BlockNo place[2] = {layout.summary_a, layout.summary_b};
        media::Summary *copies[2];  // both first: one may be restored from the other
        for (int i = 0; i < 2; ++i)
            copies[i] = TRY(change.edit_copy<media::Summary>(
                place[i], place[1 - i], media::Magic::summary, kSummaryHead | lines));
        for (media::Summary *copy : copies) f(copy);
        return {};
    }
    // From now on the chunk has an inode map, at that block of it (or has none any more).
    Result<> set_inode_map(Change &change, ChunkNo chunk, std::optional<unsigned> at);
    // More (or fewer) inodes are in use, or have a place.
    Result<> count_inodes(Change &change, GroupNo group, std::int32_t used, std::int32_t made);

    // Chunks and groups that may have a free inode with a place of its own, until a search found
    // none.
    std::optional<ChunkNo> inode_hint(GroupNo group) const;
    std::optional<GroupNo> inode_group_hint(GroupNo from) const { return with_inodes_.next(from); }
    void has_free_inode(ChunkNo chunk, bool has);
    void group_has_no_free_inode(GroupNo group) { with_inodes_.set(group, false); }
    // Groups whose lists of orphans or of grant records may have something.
    const GroupSet &listed(bool orphans) const { return orphans ? with_orphans_ : with_grants_; }
    // What the open transaction changes about that: a group whose list is empty is removed when it
    // commits.
    void set_listed(GroupNo group, bool orphans, bool listed);

    void tx_committed(TxSeq seq) override;
    void tx_aborted() override;
    // The journal's durable() or checkpointed() moved, or readers left: held-back blocks may have
    // become free.
    void release_held();
    // Whether freed blocks are waiting for a group commit, a checkpoint or the end of a read.
    bool waits(bool image) const { return !held_queue_.empty() || (image && !meta_freed_.empty()); }
    // On DAX media: former metadata blocks may become data from now on.  True: there were some.
    bool settle_meta();

    // The readers that may still access freed blocks: those are held back until they have left.
    void set_readers(Epochs &readers) { readers_ = &readers; }
    // Without the lock, a hint.
    bool nothing_held() const { return held_count_.load(std::memory_order_relaxed) == 0; }

    // The number of blocks that were ever freed: tells whether something has changed.
    std::uint64_t freed() const { return freed_; }

    // --- counters; without the lock
    std::uint64_t free_blocks() const { return free_.load(std::memory_order_relaxed); }
    std::uint64_t held_blocks() const { return held_total_.load(std::memory_order_relaxed); }
    std::uint64_t free_chunks() const { return free_chunks_.load(std::memory_order_relaxed); }
    std::uint64_t inodes_used() const { return inodes_used_.load(std::memory_order_relaxed); }
    std::uint64_t inodes_made() const { return inodes_made_.load(std::memory_order_relaxed); }

    Result<> load(GroupNo group);

private:
    struct Group {
        std::uint32_t chunk_count = 0, free_chunks = 0, partial_free = 0;
        std::unique_ptr<Chunk[]> chunks;  // null until first used
        // Sets of chunks: by side and class of the longest run; wholly free; once metadata.
        std::array<std::array<Bits, kRunClasses>, kSides> runs{};
        Bits free{}, blocked{}, free_inodes{};
    };
    struct Undo {
        ChunkNo chunk;
        std::int32_t free;
        media::ChunkKind old_kind;
        bool old_inodes, freed_meta;
        Bits held;      // added to the held bits
        Bits reserved;  // to be no longer held when it commits
    };
    struct Listed {
        GroupNo group;
        bool orphans, before, listed;
    };
    struct Held {
        TxSeq seq;
        std::uint64_t epoch;
        ChunkNo chunk;
        Bits bits;
    };

    SpaceMap(journal::Journal &journal, const media::Superblock &superblock)
        : journal_(journal), superblock_(superblock) {}

    void set_groups(std::uint64_t groups);
    Group &group_at(GroupNo group) { return groups_[group.value()]; }
    const Group &group_at(GroupNo group) const { return groups_[group.value()]; }
    GroupSet &list_groups(bool orphans) { return orphans ? with_orphans_ : with_grants_; }
    void add_group(GroupNo group, const media::Summary &summary, std::uint64_t blocks);
    void lengthen_group(GroupNo group, std::uint32_t chunks);
    void note_counts(GroupNo group);
    Chunk &chunk_at(ChunkNo chunk);
    Result<const media::Summary *> read_summary(GroupNo group);
    Result<Bits> home_bits(ChunkNo chunk, bool classes);
    static Result<Bits> bits_in(Change &change, ChunkNo chunk, bool classes);
    Result<> check_fixed(GroupNo group, const media::Summary &summary);
    Result<> edit_bits(Change &change, ChunkNo chunk, const Bits &bits, bool take);
    Result<bool> clear_classes(Change &change, ChunkNo chunk, const Bits &bits);
    Result<media::ChunkKind> kind_without(Change &change, ChunkNo chunk, const Bits &bits);
    void account(ChunkNo chunk, std::int32_t free, media::ChunkKind kind);
    Result<> write_summary(Change &change, ChunkNo chunk);
    void hold_bits(ChunkNo chunk, const Bits &bits);
    const Bits *held_of(ChunkNo chunk) const;
    void index(ChunkNo chunk, const Bits &available);
    void index_home(ChunkNo chunk);
    void put_on_shelf(ChunkNo chunk, std::uint8_t shelf);
    void index_group(GroupNo group);
    template <class F>
    Result<std::optional<ChunkNo>> in_groups(const GroupSet &set, GroupNo near, F look);
    std::uint8_t shelf_of(ChunkNo chunk);

    journal::Journal &journal_;
    const media::Superblock &superblock_;
    std::vector<Group> groups_;
    std::array<std::array<GroupSet, kRunClasses>, kSides> by_run_;
    GroupSet with_free_, with_inodes_, with_orphans_, with_grants_;
    GroupSet with_partial_, with_whole_;             // by the counts: what is held back is free
    std::unordered_map<ChunkNo, Bits> held_;         // by chunk
    std::deque<Held> held_queue_;                    // in order of seq
    std::vector<Undo> undo_;                         // of the open transaction,
    std::vector<Listed> relisted_;                   // and of it as well
    std::unordered_map<ChunkNo, TxSeq> meta_freed_;  // chunk -> its last transaction
    std::uint64_t freed_ = 0;
    TxSeq unblocked_;  // what was freed until then is not in meta_freed_ any more
    std::int64_t pending_used_ = 0, pending_made_ = 0;  // of the open transaction
    Epochs *readers_ = nullptr;
    std::atomic<std::size_t> held_count_{0};  // length of held_queue_
    std::atomic<std::uint64_t> free_{0}, held_total_{0}, free_chunks_{0};
    std::atomic<std::uint64_t> inodes_used_{0}, inodes_made_{0};
};

}  // namespace pmfs::core
