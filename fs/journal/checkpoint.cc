// Group commits and checkpoints of image files: see journal.h.
//
//   sync                data and records up to S are on the disk, in no known order among them
//   mark(S), sync       now recovery knows that S and all before it are whole
//   homes, sync         the covered records' lines, stored home
//   header, sync        the tail moves: the ring's space is free
#include <algorithm>
#include <cstring>
#include <utility>

#include "base/bytes.h"
#include "journal/journal.h"
#include "journal/replay.h"

namespace pmfs::journal {

using media::kBlockSize;
using media::RecordHeader;

Result<> Journal::sync() {
    if (!region_.is_image()) return {};
    auto synced = region_.sync();
    if (!synced.ok()) sync_failed();
    return synced;
}

// The page cache is not what the disk has, and no later sync would tell: the next mount shall count
// only what marks cover, as after a power cut.  As far as the disk takes it.
void Journal::sync_failed() {
    failed_.store(true, std::memory_order_release);
    if (!region_.is_image() || std::exchange(distrusted_, true)) return;
    RingState ring{++generation_, 0, 0, 0, secret_, kLostCache};
    {
        Lock lock(mutex_);
        ring.tail_seq = tail_seq_;
        ring.tail_offset = tail_offset_;
    }
    static_cast<void>(write_ring_headers(region_, place_, blocks_.fsid(), ring));
}

Result<> Journal::group_commit(bool force_checkpoint) {
    if (!region_.is_image()) return {};
    if (failed()) return Error(EIO, "an earlier sync failed; nothing can be made durable");
    const std::uint64_t covered = last_seq_.load(std::memory_order_acquire);
    TRY(sync());
    if (covered > durable_seq_.load(std::memory_order_relaxed)) {
        TRY(mark_covered(covered));
        durable_seq_.store(covered, std::memory_order_release);
    }
    const bool behind = covered > checkpointed_seq_.load(std::memory_order_relaxed);
    if (behind && (force_checkpoint || checkpoint_due())) return checkpoint(covered);
    return {};
}

// Twice, because damage to a single mark would hide what it covers.
Result<> Journal::mark_covered(std::uint64_t covered) {
    for (int copy = 0; copy < 2; ++copy) {
        Lock lock(mutex_);
        RecordHeader header{};
        header.magic.set(static_cast<std::uint32_t>(media::Magic::record));
        header.seq.set(next_seq_);
        header.size.set(sizeof header);
        header.kind.set(static_cast<std::uint32_t>(media::RecordKind::mark));
        header.covers.set(covered);
        PMFS_ASSERT(free_locked() >= sizeof header);
        TRY(append_locked(writable_bytes_of(header)));
    }
    return sync();
}

Result<> Journal::checkpoint(std::uint64_t up_to) {
    std::uint64_t seq, offset;
    {
        Lock lock(mutex_);
        seq = tail_seq_;
        offset = tail_offset_;
    }
    ChainReader reader(region_, place_, secret_, seq, offset,
                       {read_buffer_.get(), media::kRecordSizeMax});
    ChainReader check = reader;
    // No line is stored home before all are known to be sound.
    const auto sound = apply_chain(check, up_to + 1, homes_, [](auto, auto) {});
    const auto stored = sound.ok() ? store_homes(reader, up_to + 1) : sound;
    if (!stored.ok()) {
        failed_.store(true, std::memory_order_release);
        return stored;
    }
    TRY(sync());
    TRY(write_headers(reader.seq(), reader.offset(), boot_id_));
    Lock lock(mutex_);
    tail_seq_ = reader.seq();
    tail_offset_ = reader.offset();
    checkpointed_seq_.store(up_to, std::memory_order_release);
    return {};
}

Result<> Journal::store_homes(ChainReader &reader, std::uint64_t end_seq) {
    TRY(apply_chain(reader, end_seq, homes_, [&](std::uint64_t at, auto bytes) {
        region_.store_home(at, bytes);
        dropping_.push_back(media::block_of(at));
    }));
    std::ranges::sort(dropping_);
    dropping_.erase(std::unique(dropping_.begin(), dropping_.end()), dropping_.end());
    return {};
}

void Journal::forget_block(BlockNo block) {
    blocks_.forget(block);
    if (region_.is_image()) region_.drop_private(media::byte_of(block));
}

bool Journal::drop_clean_pages() {
    constexpr std::size_t kBatch = 256;
    for (std::size_t i = 0; i < kBatch && !dropping_.empty(); ++i) {
        const std::uint64_t at = media::byte_of(dropping_.back());
        dropping_.pop_back();
        if (std::memcmp(region_.meta() + at, region_.data() + at, kBlockSize) == 0)
            region_.drop_private(at);
    }
    return !dropping_.empty();
}

}  // namespace pmfs::journal
