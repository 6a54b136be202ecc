// Verifying the chain: see chain.h.
#include "journal/chain.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <iterator>
#include <memory>
#include <vector>

#include "base/bytes.h"
#include "media/geometry.h"
#include "media/verify.h"

namespace pmfs::journal {

using media::kBlockSize;
using media::kLineSize;
using media::RecordEntry;
using media::RecordHeader;
using media::RecordKind;

Homes::Homes(const media::Superblock &sb)
    : end(sb.block_count.get()),
      journal(sb.journal_start.get()),
      journal_end(journal + sb.journal_blocks.get()),
      superblock_copy(sb.copy_block.get()) {}

bool Homes::allow(BlockNo block) const {
    return block < end && (block < journal || block >= journal_end) &&
           block != media::first_block(media::group_of(block)) && block != superblock_copy;
}

Result<> apply_record(std::span<const std::byte> record, const Homes &homes, const Apply &apply) {
    const auto header = load<RecordHeader>(record);
    const std::uint64_t entries = header.entries.get();
    const auto kind = RecordKind{header.kind.get()};
    if (kind != RecordKind::transaction && kind != RecordKind::masked && kind != RecordKind::mark)
        return corrupt("a journal record has an unknown kind");
    if (entries > (kind == RecordKind::mark ? 0 : media::kTxBlocksMax))
        return corrupt("a journal record has too many entries");
    std::uint64_t at = sizeof header + align_up(entries * sizeof(RecordEntry), kLineSize);
    if (at > record.size()) return corrupt("a journal record ends inside its table");
    for (std::uint64_t i = 0; i < entries; ++i) {
        const auto entry = load<RecordEntry>(record, sizeof header + i * sizeof(RecordEntry));
        std::uint64_t lines = entry.lines.get();
        const BlockNo block(entry.block.get());
        if (!homes.allow(block))
            return corrupt("a journal record changes blocks that no record may change");
        while (lines != 0) {
            const int first = std::countr_zero(lines);
            const int run = std::countr_one(lines >> first);
            const std::uint64_t size = static_cast<std::uint64_t>(run) * kLineSize;
            if (size > record.size() - at) return corrupt("a journal record ends inside its lines");
            apply(media::byte_of(block) + static_cast<std::uint64_t>(first) * kLineSize,
                  record.subspan(at, size));
            at += size;
            lines &= run == 64 ? 0 : ~(((std::uint64_t{1} << run) - 1) << first);
        }
    }
    if (at != record.size()) return corrupt("a journal record is longer than its lines");
    return {};
}

ChainReader::ChainReader(const pm::Region &region, const RingPlace &place, const Secret &secret,
                         std::uint64_t tail_seq, std::uint64_t tail_offset,
                         std::span<std::byte> buffer)
    : region_(region),
      place_(place),
      secret_(secret),
      seq_(tail_seq),
      offset_(tail_offset),
      buffer_(buffer) {}

std::span<const std::byte> ChainReader::next() {
    const auto record = read_record(region_, place_, offset_, seq_, secret_, buffer_);
    if (record.empty() || record.size() > place_.size - read_) return {};
    read_ += record.size();
    offset_ = (offset_ + record.size()) % place_.size;
    ++seq_;
    return record;
}

namespace {

// Searches every line of the ring for records of this mount: only the record before one tells where
// it begins, and that may be the damaged one.
class RingScan {
public:
    RingScan(const pm::Region &region, const RingPlace &place, const Secret &secret,
             std::span<std::byte> buffer)
        : region_(region), place_(place), secret_(secret), buffer_(buffer) {}

    // A whole record with a greater sequence than `seq`.
    bool any_later_than(std::uint64_t seq) {
        // Records do not overlap, so the sizes in their headers, leftovers of other mounts
        // included, do not add up to much more than the ring.  If they do, the ring was forged and
        // counts as damaged.
        std::uint64_t budget = kBudget * place_.size;
        for (std::uint64_t at = 0; at < place_.size; at += kLineSize) {
            const RecordHeader header = header_at(at);
            const std::uint64_t size = header.size.get();
            if (!is_record(header) || header.seq.get() <= seq || size < kLineSize ||
                size % kLineSize != 0 || size > buffer_.size() || size > place_.size)
                continue;
            if (size > budget) return true;
            budget -= size;
            if (!read_record(region_, place_, at, header.seq.get(), secret_, buffer_).empty())
                return true;
        }
        return false;
    }

    // The greatest sequence that a whole mark covers; 0 where there is none.
    std::uint64_t covered() {
        std::uint64_t most = 0;
        for (std::uint64_t at = 0; at < place_.size; at += kLineSize) {
            const RecordHeader header = header_at(at);
            if (!is_record(header) || RecordKind{header.kind.get()} != RecordKind::mark ||
                header.size.get() != kLineSize || header.covers.get() <= most)
                continue;
            if (!read_record(region_, place_, at, header.seq.get(), secret_, buffer_).empty())
                most = header.covers.get();
        }
        return most;
    }

private:
    static constexpr std::uint64_t kBudget = 16;

    RecordHeader header_at(std::uint64_t offset) const {
        return load<RecordHeader>({region_.data() + place_.start + offset, kLineSize});
    }
    static bool is_record(const RecordHeader &header) {
        return header.magic.get() == static_cast<std::uint32_t>(media::Magic::record);
    }

    const pm::Region &region_;
    const RingPlace place_;
    const Secret &secret_;
    std::span<std::byte> buffer_;
};

// As the medium says, which may be behind the records.  A block that is metadata becomes data only
// when no record that changes it can be replayed.
bool is_metadata_at_home(const pm::Region &region, BlockNo block) {
    const BlockNo classes =
        media::bitmap_of(media::chunk_of(block), media::layout_of(media::group_of(block)).classes);
    const std::byte *at = region.data() + media::byte_of(classes);
    return media::bit_of(*reinterpret_cast<const media::BitmapBlock *>(at), block);
}

// A whole block, or an inode in it, that a transaction later than `seq` wrote.  A transaction with
// a torn record never reaches a home, so its record was whole once.
bool home_later_than(const pm::Region &region, const media::Superblock &sb, BlockNo block,
                     std::uint64_t seq) {
    const ConstBytes bytes(region.data() + media::byte_of(block), kBlockSize);
    const auto later = [&](ConstBytes piece) {
        const auto header = load<media::BlockHeader>(piece);
        return header.tx.get() > seq && header.fsid.get() == sb.header.fsid.get() &&
               media::checksum_ok(piece);
    };
    const auto magic = media::Magic{load<media::le32>(bytes).get()};
    if (magic != media::Magic::inode)
        return load<media::BlockHeader>(bytes).self.get() == block.value() && later(bytes);
    for (std::uint64_t slot = 0; slot < media::kInodesPerBlock; ++slot)
        if (later(bytes.subspan(slot * media::kInodeSize, media::kInodeSize))) return true;
    return false;
}

// The blocks that records change.  One that a record makes, and so has whole, is not asked for a
// later home: until its home is stored it has what a user left there, who can write what looks like
// a block; and a replay stores all of it.
class ChangedBlocks {
public:
    void add(BlockNo block, bool whole) {
        auto &list = whole ? made_ : changed_;
        if (list.empty() || list.back() != block) list.push_back(block);
    }
    std::vector<BlockNo> old_ones() {
        std::vector<BlockNo> old;
        for (auto *list : {&changed_, &made_}) {
            std::ranges::sort(*list);
            list->erase(std::unique(list->begin(), list->end()), list->end());
        }
        std::ranges::set_difference(changed_, made_, std::back_inserter(old));
        return old;
    }

private:
    std::vector<BlockNo> changed_, made_;
};

// The blocks that the record at `offset` changes, as far as its contents are plausible: it is not
// whole.
void add_claimed(const pm::Region &region, const RingPlace &place, std::uint64_t offset,
                 const Homes &homes, ChangedBlocks &blocks) {
    std::array<std::byte, kLineSize + media::kTxBlocksMax * sizeof(RecordEntry)> record;
    read_ring(region, place, offset, record);
    unmask_record(record);
    for (std::size_t at = kLineSize; at < record.size(); at += sizeof(RecordEntry)) {
        const auto entry = load<RecordEntry>(record, at);
        if (const BlockNo block(entry.block.get()); homes.allow(block))
            blocks.add(block, entry.lines.get() == ~std::uint64_t{0});
    }
}

constexpr char kBroken[] =
    "a record of the journal is damaged and later ones are not; nothing was written (fsck.pmfs "
    "says which; -o ro,norecovery mounts the volume without its journal)";

}  // namespace

Result<Chain> verify_chain(const pm::Region &region, const media::Superblock &sb,
                           const BootId &boot_id) {
    pm::FaultScope faults;
    Chain chain;
    chain.ring = TRY(read_ring_header(region, sb));
    chain.last_seq = chain.ring.tail_seq - 1;
    if (chain.ring.clean()) return chain;
    chain.power_was_cut = region.is_image() && !same_cache(chain.ring.boot_id, boot_id, region);

    const RingPlace place = ring_place(sb);
    const Homes homes(sb);
    const auto memory = std::make_unique<std::byte[]>(media::kRecordSizeMax);
    const std::span<std::byte> buffer(memory.get(), media::kRecordSizeMax);
    RingScan scan(region, place, chain.ring.secret, buffer);
    const std::uint64_t last =
        chain.power_was_cut ? std::max(scan.covered(), chain.ring.covers) : ~std::uint64_t{0};

    ChangedBlocks changed;
    const auto note = [&](std::uint64_t at, auto lines) {
        changed.add(media::block_of(at), lines.size() == kBlockSize);
    };
    ChainReader reader(region, place, chain.ring.secret, chain.ring.tail_seq,
                       chain.ring.tail_offset, buffer);
    const auto flaw = [&](Flaw::Kind kind, std::uint64_t seq, std::uint64_t offset,
                          const char *sentence) {
        chain.flaw = {kind, seq, media::block_of(place.start + offset), sentence};
    };
    while (reader.seq() <= last) {
        const std::uint64_t seq = reader.seq(), offset = reader.offset();
        const auto record = reader.next();
        if (record.empty()) break;
        if (const auto possible = apply_record(record, homes, note); !possible.ok()) {
            flaw(Flaw::Kind::impossible, seq, offset, possible.error().what());
            return chain;
        }
        chain.last_seq = seq;
        ++chain.records;
    }
    if (faults.met())
        return Error(EIO,
                     "a part of the journal cannot be read from the medium (-o ro,norecovery "
                     "mounts the volume without it)");
    const std::uint64_t end = reader.seq();
    bool broken = chain.power_was_cut ? end <= last : scan.any_later_than(end);
    if (!broken) {
        add_claimed(region, place, reader.offset(), homes, changed);
        broken = std::ranges::any_of(changed.old_ones(), [&](BlockNo block) {
            return is_metadata_at_home(region, block) &&
                   home_later_than(region, sb, block, chain.last_seq);
        });
    }
    if (broken) flaw(Flaw::Kind::broken, end, reader.offset(), kBroken);
    return chain;
}

}  // namespace pmfs::journal
