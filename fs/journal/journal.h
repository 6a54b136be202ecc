// The redo journal: a ring of checksummed records, each one transaction.
//
// DAX media.  commit: [fence, if the record refers to new data] record, fence = the commit point;
// then the lines are stored home and flushed.  The journal owns those flushes until it moves the
// tail, after a fence on every CPU (docs/decisions/0002).  A crash replays from the tail.
//
// Image files.  The same, but homes are stores into private memory.  A group commit syncs data and
// records, appends a mark, syncs again: all that the mark covers is safe from a power cut.  A
// checkpoint then stores the covered records home, syncs and moves the tail.
//
// Locks: commits come one at a time (the volume's lock).  group_commit() runs beside them, on one
// thread at a time; what both touch is guarded by mutex_.
#pragma once
#include <atomic>
#include <functional>
#include <memory>
#include <vector>

#include "base/errors.h"
#include "base/ids.h"
#include "base/mutex.h"
#include "base/pieces.h"
#include "base/result.h"
#include "base/unchecked.h"
#include "journal/blocks.h"
#include "journal/chain.h"
#include "journal/ring.h"
#include "media/format.h"
#include "pm/region.h"

namespace pmfs::journal {

class Tx;

class Journal {
public:
    enum class Use {
        write,  // replays what a crash left, and begins a new epoch (a new secret, an empty ring)
        read,   // the replay goes into the region's private memory, and nothing is written
        read_unreplayed,  // to rescue files: the ring is not looked at
    };
    static Result<std::unique_ptr<Journal>> open(pm::Region &region,
                                                 const media::Superblock &superblock,
                                                 const BootId &boot_id, Use use);
    ~Journal();

    // Makes everything durable, stores it home, and marks the ring clean.  No commit may follow.
    Result<> close();

    Blocks &blocks() { return blocks_; }
    pm::Region &region() { return region_; }
    std::uint64_t records_replayed() const { return replayed_; }
    // A sync failed, or the medium failed after a commit point: the volume must become read-only.
    bool failed() const { return failed_.load(std::memory_order_acquire) || region_.failed(); }

    // Writes file data or blobs to a place that nothing else reads.  The obligation goes to
    // Tx::after or persist.
    pm::Unfenced write_data(std::uint64_t offset, std::span<const std::byte> bytes) {
        const UncheckedStores data;
        return region_.write(offset, bytes);
    }
    // ... bytes [from, from + size) of those that are given.
    pm::Unfenced write_data(std::uint64_t offset, const Pieces &bytes, std::size_t from,
                            std::size_t size) {
        pm::Unfenced unfenced;
        bytes.each(from, size, [&](ConstBytes piece) {
            unfenced.add(write_data(offset, piece));
            offset += piece.size();
        });
        return unfenced;
    }
    pm::Unfenced zero_data(std::uint64_t offset, std::uint64_t size) {
        const UncheckedStores data;
        return region_.zero(offset, size);
    }
    void persist(pm::Unfenced unfenced) { region_.fence(std::move(unfenced)); }

    TxSeq last() const { return TxSeq(last_seq_.load(std::memory_order_acquire)); }
    // A power cut loses nothing up to this one (on memory there is no such guarantee).
    TxSeq durable() const {
        return region_.is_image() ? TxSeq(durable_seq_.load(std::memory_order_acquire)) : last();
    }
    // Records up to this one will never be replayed.
    TxSeq checkpointed() const { return TxSeq(checkpointed_seq_.load(std::memory_order_acquire)); }

    // Image files: everything committed so far is made safe from a power cut and, if the ring is
    // filling (or `checkpoint`), stored home.  Blocks; call without any lock.  A failure is final.
    Result<> group_commit(bool checkpoint);
    // More than half of the ring or of the bound on dirty blocks is used: a checkpoint is due.
    bool checkpoint_due() const;
    // Gives back the private pages that a checkpoint made superfluous, a batch a call; the caller
    // holds the volume's lock.  False when none is left.
    bool drop_clean_pages();
    // The block is no metadata any more: nothing cached of it counts (volume's lock held).
    void forget_block(BlockNo block);
    // Tests, on image files: whether a transaction that begins has to wait as if the ring were
    // full.
    void set_park_hook(std::function<bool()> hook) { park_hook_ = std::move(hook); }
    // Before the volume gets so many blocks: ENOMEM, and nothing has changed.  Then, with the
    // volume's lock held and no group_commit() running, when it has them.
    Result<> reserve(std::uint64_t blocks) { return blocks_.reserve(blocks); }
    void grow(std::uint64_t blocks) {
        blocks_.grow(blocks);
        homes_.end = BlockNo(blocks);
    }
    // DAX: moves the tail up to the last record now (frees held-back chunks).
    void settle_tail();

private:
    friend class Tx;
    Journal(pm::Region &region, const media::Superblock &superblock);

    Result<> start_epoch(const Chain &chain, const BootId &boot_id);
    Result<> make_room();
    Result<TxSeq> commit(Tx &tx);
    std::size_t build_record(const Tx &tx, std::uint64_t seq);
    // EIO: the medium did not store it.  Then nothing is ever appended again.
    Result<> append_locked(std::span<std::byte> record) REQUIRES(mutex_);
    void apply_home(const Tx &tx);
    Result<> write_headers(std::uint64_t tail_seq, std::uint64_t tail_offset,
                           const BootId &boot_id);
    Result<> sync();
    void sync_failed();
    Result<> mark_covered(std::uint64_t covered);
    Result<> checkpoint(std::uint64_t up_to);
    Result<> store_homes(ChainReader &reader, std::uint64_t end_seq);
    std::uint64_t free_locked() const REQUIRES(mutex_);

    pm::Region &region_;
    const RingPlace place_;
    Homes homes_;
    Blocks blocks_;
    std::uint64_t replayed_ = 0;

    std::unique_ptr<std::byte[]> shadows_;        // the one Tx's copies
    std::unique_ptr<std::byte[]> record_buffer_;  // the record being built
    std::unique_ptr<std::byte[]> read_buffer_;    // the checkpoint's

    Secret secret_{};
    BootId boot_id_{};
    // Of the ring headers; touched at open, and where the tail moves.
    std::uint64_t generation_ = 0;
    bool distrusted_ = false;  // a header says that the page cache has lost something

    mutable Mutex mutex_;
    std::atomic<std::uint64_t> last_seq_{0};  // of the last transaction
    // The sequence of the next record; marks count too.  Changed only under mutex_; a commit reads
    // it before it has the mutex, because locking would wait for the stores of its data.
    std::atomic<std::uint64_t> next_seq_{1};
    std::atomic<std::uint64_t> durable_seq_{0};
    std::atomic<std::uint64_t> checkpointed_seq_{0};

    std::uint64_t head_offset_ GUARDED_BY(mutex_) = 0;  // where the next record goes
    std::uint64_t tail_offset_ GUARDED_BY(mutex_) = 0;
    std::uint64_t tail_seq_ GUARDED_BY(mutex_) = 1;
    std::uint64_t tx_offset_end_ GUARDED_BY(mutex_) = 0;  // behind the last transaction's record
    std::atomic<bool> failed_{false};                     // a sync failed: nothing can be promised

    std::function<bool()> park_hook_;
    std::vector<BlockNo> dropping_;  // blocks stored home, whose private pages may go
};

}  // namespace pmfs::journal
