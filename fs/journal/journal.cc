// Commits, epochs and the tail: see journal.h.  Group commits are in checkpoint.cc.
#include "journal/journal.h"

#include <bit>
#include <cstring>

#include "base/bytes.h"
#include "journal/replay.h"
#include "journal/tx.h"
#include "media/verify.h"

namespace pmfs::journal {

using media::kBlockSize;
using media::kLineSize;
using media::RecordEntry;
using media::RecordHeader;

namespace {

// Kept free beside the largest record: for the marks of the two group commits that can come before
// a checkpoint, one while a transaction is open and one behind it, each with its copy.
constexpr std::uint64_t kMarkReserve = 4 * kLineSize;
static_assert(media::kRecordSizeMax + kMarkReserve <=
              media::kJournalSizeMin - media::kRingHeaders * kBlockSize);

// Into the region's private memory.
Result<Chain> replay_privately(pm::Region &region, const media::Superblock &sb,
                               const BootId &boot_id) {
    pm::Unfenced owed;
    auto replayed = replay(region, sb, boot_id, [&](std::uint64_t at, auto bytes) {
        owed.add(region.store_meta(at, bytes));
    });
    if (owed.owed()) region.fence(std::move(owed));
    return replayed;
}

}  // namespace

Journal::Journal(pm::Region &region, const media::Superblock &sb)
    : region_(region),
      place_(ring_place(sb)),
      homes_(sb),
      blocks_(region, sb),
      shadows_(std::make_unique<std::byte[]>(media::kTxBlocksMax * kBlockSize)),
      record_buffer_(std::make_unique<std::byte[]>(media::kRecordSizeMax)),
      read_buffer_(std::make_unique<std::byte[]>(media::kRecordSizeMax)) {}

Journal::~Journal() = default;

Result<std::unique_ptr<Journal>> Journal::open(pm::Region &region, const media::Superblock &sb,
                                               const BootId &boot_id, Use use) {
    std::unique_ptr<Journal> journal(new Journal(region, sb));
    if (!journal->blocks_.ok()) return Error(ENOMEM, "no memory for the map of known blocks");
    if (use == Use::read_unreplayed) return journal;
    const auto chain = TRY(use == Use::write ? replay_home(region, sb, boot_id)
                                             : replay_privately(region, sb, boot_id));
    journal->replayed_ = chain.records;
    journal->generation_ = chain.ring.generation;
    journal->last_seq_ = journal->durable_seq_ = journal->checkpointed_seq_ = chain.last_seq;
    if (use == Use::write) TRY(journal->start_epoch(chain, boot_id));
    return journal;
}

// From here on the old records do not parse: they carry another secret.
Result<> Journal::start_epoch(const Chain &chain, const BootId &boot_id) {
    secret_ = TRY(random_secret());
    boot_id_ = cache_id(boot_id, region_);
    const std::uint64_t seq = chain.last_seq + 1;
    {
        Lock lock(mutex_);
        next_seq_ = seq;
        tail_seq_ = seq;
        head_offset_ = tail_offset_ = tx_offset_end_ = 0;
    }
    TRY(write_headers(seq, 0, boot_id_));
    return check_ring_headers_kept(region_, place_, blocks_.fsid(),
                                   {generation_, seq, 0, 0, secret_, boot_id_});
}

Result<> Journal::close() {
    if (failed()) return Error(EIO, "the medium failed; the journal is kept for the next mount");
    if (region_.is_image()) TRY(group_commit(true));
    region_.fence_everywhere();
    std::uint64_t seq;
    {
        Lock lock(mutex_);
        seq = next_seq_;
    }
    TRY(write_headers(seq, 0, BootId{}));
    return sync();
}

Result<> Journal::write_headers(std::uint64_t tail_seq, std::uint64_t tail_offset,
                                const BootId &boot_id) {
    const auto written =
        write_ring_headers(region_, place_, blocks_.fsid(),
                           {++generation_, tail_seq, tail_offset, 0, secret_, boot_id});
    if (!written.ok()) sync_failed();
    return written;
}

std::uint64_t Journal::free_locked() const {
    const std::uint64_t used = head_offset_ >= tail_offset_
                                   ? head_offset_ - tail_offset_
                                   : place_.size - tail_offset_ + head_offset_;
    return place_.size - used - kLineSize;  // never quite full: head == tail means empty
}

Result<> Journal::make_room() {
    if (failed()) return Error(EROFS, "the medium failed; the volume is read-only until remounted");
    {
        Lock lock(mutex_);
        const bool waits = park_hook_ && region_.is_image() && park_hook_();
        if (free_locked() >= media::kRecordSizeMax + kMarkReserve && !waits) return {};
    }
    if (region_.is_image())
        return Error(kParkErrno, "the journal is full until the next checkpoint");
    settle_tail();
    if (failed()) return Error(EIO, "the medium failed; the volume is read-only until remounted");
    return {};
}

void Journal::settle_tail() {
    // What could not be stored home is only in the ring.
    if (region_.is_image() || failed()) return;
    region_.fence_everywhere();  // what any thread applied is durable at home now
    Lock lock(mutex_);
    if (!write_headers(next_seq_, head_offset_, boot_id_).ok()) return;
    tail_seq_ = next_seq_;
    tail_offset_ = head_offset_;
    checkpointed_seq_.store(last_seq_.load(std::memory_order_relaxed), std::memory_order_release);
}

bool Journal::checkpoint_due() const {
    Lock lock(mutex_);
    return free_locked() < place_.size / 2;
}

// Lays the record of `tx` out in record_buffer_ and returns its size; the checksum comes last.
std::size_t Journal::build_record(const Tx &tx, std::uint64_t seq) {
    std::byte *const record = record_buffer_.get();
    RecordHeader header{};
    std::size_t entries = 0;
    for (std::size_t i = 0; i < tx.used_; ++i) entries += tx.shadows_[i].lines != 0;
    std::size_t at = sizeof header + align_up(entries * sizeof(RecordEntry), kLineSize);
    std::memset(record + sizeof header, 0, at - sizeof header);

    std::size_t entry_at = sizeof header;
    for (std::size_t i = 0; i < tx.used_; ++i) {
        const Tx::Shadow &shadow = tx.shadows_[i];
        if (shadow.lines == 0) continue;
        const RecordEntry entry{media::le64(shadow.block.value()), media::le64(shadow.lines)};
        std::memcpy(record + entry_at, &entry, sizeof entry);
        entry_at += sizeof entry;
        for (std::uint64_t lines = shadow.lines; lines != 0; lines &= lines - 1) {
            const auto line = static_cast<std::size_t>(std::countr_zero(lines));
            std::memcpy(record + at, shadow.bytes + line * kLineSize, kLineSize);
            at += kLineSize;
        }
    }
    header.magic.set(static_cast<std::uint32_t>(media::Magic::record));
    header.seq.set(seq);
    header.size.set(static_cast<std::uint32_t>(at));
    header.kind.set(static_cast<std::uint32_t>(media::RecordKind::transaction));
    header.entries.set(static_cast<std::uint32_t>(entries));
    std::memcpy(record, &header, sizeof header);
    mask_record({record, at});
    return at;
}

Result<> Journal::append_locked(std::span<std::byte> record) {
    // With a record behind it, one that failed would look damaged instead of torn.
    if (failed()) return Error(EIO, "the medium failed; the volume is read-only until remounted");
    const media::le32 crc(record_checksum(secret_, record));
    std::memcpy(record.data() + offsetof(RecordHeader, crc32c), &crc, sizeof crc);
    const std::uint64_t first = std::min<std::uint64_t>(record.size(), place_.size - head_offset_);
    pm::FaultScope faults;
    pm::Unfenced unfenced = region_.write(place_.start + head_offset_, record.first(first));
    if (first < record.size()) unfenced.add(region_.write(place_.start, record.subspan(first)));
    region_.fence(std::move(unfenced));
    if (faults.met()) {
        failed_.store(true, std::memory_order_release);
        return Error(EIO, "the medium did not store a record of the journal");
    }
    head_offset_ = (head_offset_ + record.size()) % place_.size;
    ++next_seq_;
    return {};
}

Result<TxSeq> Journal::commit(Tx &tx) {
    if (pm::take_fault()) return Error(EIO, "the medium failed while an operation was prepared");
    if (pm::take_client_fault())
        return Error(EFAULT, "the client's memory went away while an operation was prepared");
    std::uint64_t seq = next_seq_.load(std::memory_order_relaxed);
    tx.finish_blocks(seq);
    const std::size_t size = build_record(tx, seq);
    if (tx.data_.owed()) region_.fence(std::move(tx.data_));
    {
        Lock lock(mutex_);
        // A group mark was written meanwhile.
        if (const auto next = next_seq_.load(); next != seq) {
            seq = next;
            tx.finish_blocks(seq);
            build_record(tx, seq);
        }
        TRY(append_locked({record_buffer_.get(), size}));
        tx_offset_end_ = head_offset_;
        last_seq_.store(seq, std::memory_order_release);
    }
    apply_home(tx);
    if (pm::take_fault()) failed_.store(true, std::memory_order_release);
    return TxSeq(seq);
}

void Journal::apply_home(const Tx &tx) {
    for (std::size_t i = 0; i < tx.used_; ++i) {
        const Tx::Shadow &shadow = tx.shadows_[i];
        std::uint64_t lines = shadow.lines;
        while (lines != 0) {
            const int first = std::countr_zero(lines);
            const int run = std::countr_one(lines >> first);
            const std::uint64_t at = static_cast<std::uint64_t>(first) * kLineSize;
            region_.defer(
                region_.store_meta(media::byte_of(shadow.block) + at,
                                   {shadow.bytes + at, static_cast<std::size_t>(run) * kLineSize}));
            lines &= run == 64 ? 0 : ~(((std::uint64_t{1} << run) - 1) << first);
        }
        blocks_.mark_verified(shadow.block, shadow.inodes() ? shadow.slots() : Blocks::kWhole);
    }
}

}  // namespace pmfs::journal
