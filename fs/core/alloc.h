// Which blocks are free, and where the next ones should go.
//
// The region is cut into groups of 1 GiB and chunks of 2 MiB (media/format.h).  A chunk holds
// either metadata or data, so that whole chunks stay whole for large files and fsck knows where
// metadata can be.  Data of files that are large or grow large takes whole free chunks, congruent
// with the file offset; small data fills chunks that are broken already.
//
// A freed block is held back: within its transaction always; on an image file until the record that
// freed it is safe from a power cut, for else another file's bytes could be found under the old
// name.  A metadata chunk that became empty turns to data only when no replayable record can touch
// it.
//
// Called with the volume's lock held exclusively, but for the counters.
#pragma once
#include <array>
#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <unordered_map>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "core/change.h"
#include "core/epoch.h"
#include "core/quarantine.h"
#include "journal/tx.h"
#include "media/format.h"

namespace pmfs::core {

struct Goal {
    std::uint64_t near = 0;        // the best first block; 0 = anywhere
    std::uint64_t file_block = 0;  // for congruence with the file offset
    std::uint64_t owner = 0;       // inode number, for chunk reservations
    bool large = false;            // take whole chunks
};

class Allocator final : public journal::TxWatcher {
public:
    // Reads the summaries (either copy of each).  EUCLEAN when both copies of one are damaged.
    static Result<std::unique_ptr<Allocator>> open(journal::Journal &journal,
                                                   const media::Superblock &superblock);

    // Takes up to `blocks` contiguous data blocks, fewer if the place has no more.  ENOSPC;
    // kParkErrno when blocks are held back that a group commit would free.
    Result<Run> take_data(Change &change, const Goal &goal, std::uint64_t blocks);
    // The same without a transaction: the blocks stay as they are on the medium, and are kept from
    // everybody else in memory, until they are taken or cancelled.
    Result<Run> reserve_data(const Goal &goal, std::uint64_t blocks);
    // Takes what was reserved.  When the transaction does not commit, it is still reserved.
    Result<> take_reserved(Change &change, Run run);
    void cancel_reserved(Run run);
    // Takes whole free chunks that begin at a multiple of `unit` blocks (a power of two, at least
    // 512): exactly `chunks` of them in one run.  ENOSPC if there is no such run.
    Result<Run> take_chunks(Change &change, std::uint64_t chunks, std::uint64_t unit);
    // Takes `blocks` contiguous metadata blocks (a few).
    Result<Run> take_meta(Change &change, std::uint64_t near, std::uint64_t blocks);
    // Frees the run, which lies within one bitmap block (see piece()).
    Result<> give_back(Change &change, Run run);
    // Blocks that stay in use although they are given back.
    Quarantine &quarantine() { return quarantine_; }
    // How many blocks that would add to the transaction: 3, or 0 where it changes them already.
    std::size_t blocks_to_give_back(Change &change, Run run) const;
    // The longest head of `run` that give_back takes at once; tail_piece: the longest tail.
    Run piece(Run run) const;
    Run tail_piece(Run run) const;

    // A file was closed for the last time: its reserved chunks may be shared.
    void release_reservation(std::uint64_t owner);
    // Without the lock: no file has any.  Who asks for a file that nobody writes gets the truth.
    bool nothing_reserved() const { return reservations_.load(std::memory_order_acquire) == 0; }

    void tx_committed(TxSeq seq) override;
    void tx_aborted() override;
    // The journal's durable() moved: held-back blocks may be free now.
    void release_held();
    // Without the lock, a hint.
    bool nothing_held() const { return held_count_.load(std::memory_order_relaxed) == 0; }
    // Who may still look at blocks that are freed: until they have left, those are held back.
    void set_readers(Epochs &readers) { readers_ = &readers; }

    std::uint64_t free_blocks() const {
        return data_free_ + meta_free_ + free_chunks_ * media::kChunkBlocks;
    }
    // What files can get: without the metadata chunks, but for those known to be empty.
    std::uint64_t available_blocks() const {
        return data_free_ + (free_chunks_ + empty_meta_chunks_) * media::kChunkBlocks;
    }
    // Reads the bitmaps of every group that may have empty metadata chunks; when space runs out.
    void find_empty_meta();

    // For the picture: one chunk's kind and used blocks.
    Result<> chunk_info(std::uint64_t chunk, std::uint8_t *kind, std::uint16_t *used);

private:
    using Bits = std::array<std::uint64_t, 8>;
    struct Chunk {
        std::uint16_t free = 0;  // by the media, held-back blocks included
        std::uint16_t held = 0;  // freed but not to be given out yet
        media::ChunkKind kind = media::ChunkKind::free;
        std::uint64_t reserved_for = 0;
    };
    struct Group {
        std::uint32_t chunk_count = 0;
        std::uint32_t free_chunks = 0, meta_free = 0, data_free = 0;
        std::unique_ptr<Chunk[]> chunks;  // null until first used
    };
    struct Undo {
        std::uint64_t chunk;
        std::int32_t free;
        media::ChunkKind old_kind;
        Bits held;      // added to the held bits
        Bits reserved;  // to be no longer held when it commits
    };
    struct Held {
        TxSeq seq;
        std::uint64_t epoch;  // in which it was freed
        std::uint64_t chunk;
        Bits bits;
    };

    Allocator(journal::Journal &journal, const media::Superblock &superblock);

    Result<Group *> load(std::uint64_t group);
    Result<> check_fixed(std::uint64_t group, const media::Summary &summary);
    Chunk &chunk_of(std::uint64_t chunk);
    Result<Bits> available_bits(Change &change, std::uint64_t chunk);
    Result<Run> take_at(Change &change, std::uint64_t block, std::uint64_t blocks,
                        media::ChunkKind kind);
    Result<Run> take_somewhere(Change &change, const Goal &goal, std::uint64_t blocks);
    Result<Run> take_near(Change &change, const Goal &goal, std::uint64_t blocks);
    Result<Run> take_fresh(Change &change, const Goal &goal, std::uint64_t blocks);
    Error no_space() const;
    bool usable(const Chunk &chunk, media::ChunkKind kind, std::uint64_t owner,
                bool desperate) const;
    Result<Run> take_in_group(Change &change, std::uint64_t group, media::ChunkKind kind,
                              std::uint64_t owner, std::uint64_t blocks, bool whole,
                              bool desperate);
    Result<Run> search(Change &change, std::uint64_t near, media::ChunkKind kind,
                       std::uint64_t owner, std::uint64_t blocks, bool whole, bool desperate);
    // 0 = none (chunk 0 is never free).
    Result<std::uint64_t> find_free_chunks(std::uint64_t near_group, std::uint64_t count,
                                           std::uint64_t unit_chunks);
    Result<bool> reclaim_meta_chunk(Change &change);
    // A metadata chunk of which nothing is in use; by the media, held-back blocks included.
    static bool empty_meta(const Chunk &chunk) {
        return chunk.kind == media::ChunkKind::meta && chunk.free == media::kChunkBlocks;
    }
    bool wholly_free(const Chunk &chunk) const {
        return chunk.kind == media::ChunkKind::free && chunk.held == 0;
    }
    Result<> edit_bits(Change &change, std::uint64_t chunk, const Bits &bits, bool take,
                       media::ChunkKind kind);
    void account(std::uint64_t chunk, std::int64_t free, media::ChunkKind kind);
    Result<> write_summary(Change &change, std::uint64_t chunk);
    void hold(std::uint64_t chunk, const Bits &bits);
    void unhold(std::uint64_t chunk, const Bits &bits);
    template <class F>
    Result<> by_chunk(Run run, F what);
    std::uint64_t group_of(std::uint64_t block) const { return block / media::kGroupBlocks; }

    journal::Journal &journal_;
    const media::Superblock &superblock_;
    std::vector<Group> groups_;
    std::unordered_map<std::uint64_t, Bits> held_;           // by chunk
    std::deque<Held> held_queue_;                            // in order of seq
    std::atomic<std::size_t> held_count_{0};                 // its length
    std::vector<Undo> undo_;                                 // of the open transaction
    std::unordered_map<std::uint64_t, TxSeq> emptied_meta_;  // chunk -> transaction
    std::unordered_map<std::uint64_t, std::vector<std::uint64_t>> reserved_;  // owner -> chunks
    Quarantine quarantine_;
    Epochs *readers_ = nullptr;
    // Of reservations: the owner whose chunks they began (release_reservation()).
    std::unordered_map<std::uint64_t, std::uint64_t> begun_;  // first block -> owner
    std::atomic<std::uint64_t> reservations_{0};              // owners in reserved_
    std::uint64_t cursor_ = 0;                                // group where the last search ended
    std::atomic<std::uint64_t> data_free_{0}, meta_free_{0}, free_chunks_{0};
    std::atomic<std::uint64_t> empty_meta_chunks_{0};  // of the groups that were loaded
};

}  // namespace pmfs::core
