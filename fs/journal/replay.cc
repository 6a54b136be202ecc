// Reading the journal: see replay.h.
#include "journal/replay.h"

#include <fcntl.h>
#include <unistd.h>

#include <bit>
#include <cstring>
#include <memory>

#include "base/bytes.h"
#include "base/crc32c.h"
#include "media/verify.h"

namespace pmfs::journal {

using media::RecordEntry;
using media::RecordHeader;

BootId current_boot_id() {
    BootId id{};
    char text[40] = {};
    const int fd = ::open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        if (::read(fd, text, sizeof text - 1) < 0) text[0] = 0;
        ::close(fd);
    }
    std::size_t nibble = 0;
    for (const char *c = text; *c != 0 && nibble < 32; ++c) {
        if (*c == '-' || *c == '\n') continue;
        const int v = *c <= '9' ? *c - '0' : (*c | 0x20) - 'a' + 10;
        id[nibble / 2] = static_cast<std::uint8_t>(id[nibble / 2] | (v << (nibble % 2 ? 0 : 4)));
        ++nibble;
    }
    // No /proc: nothing proves that this is the boot that wrote an image, so power counts as cut.
    if (id == BootId{}) id.fill(0xff);
    return id;
}

RingPlace ring_place(const media::Superblock &sb) {
    const std::uint64_t start = sb.journal_start.get() * media::kBlockSize;
    const std::uint64_t headers = media::kRingHeaders * media::kBlockSize;
    return {start, start + headers, sb.journal_blocks.get() * media::kBlockSize - headers};
}

Result<RingState> read_ring_header(const pm::Region &region, const media::Superblock &sb) {
    const RingPlace place = ring_place(sb);
    RingState best;
    bool found = false;
    for (unsigned slot = 0; slot < media::kRingHeaders; ++slot) {
        const std::byte *at = region.data() + place.headers + slot * media::kBlockSize;
        if (!media::block_ok({at, media::kBlockSize}, media::Magic::ring_header,
                             sb.header.fsid.get(), sb.journal_start.get() + slot))
            continue;
        const auto *h = reinterpret_cast<const media::RingHeader *>(at);
        if (found && h->generation.get() < best.generation) continue;
        best.generation = h->generation.get();
        best.slot = slot;
        best.tail_seq = h->tail_seq.get();
        best.tail_offset = h->tail_offset.get();
        std::memcpy(best.secret.data(), h->secret, sizeof h->secret);
        std::memcpy(best.boot_id.data(), h->boot_id, sizeof h->boot_id);
        found = true;
    }
    if (!found) return corrupt("both journal headers are damaged");
    if (best.tail_seq == 0 || best.tail_seq >> 63 != 0)
        return corrupt("the journal counts its records from a number that cannot be");
    if (best.tail_offset >= place.size || best.tail_offset % media::kLineSize != 0)
        return corrupt("the journal's tail is not inside the ring");
    return best;
}

void read_ring(const pm::Region &region, const RingPlace &place, std::uint64_t offset,
               std::span<std::byte> out) {
    const std::uint64_t first = std::min<std::uint64_t>(out.size(), place.size - offset);
    std::memcpy(out.data(), region.data() + place.start + offset, first);
    std::memcpy(out.data() + first, region.data() + place.start, out.size() - first);
}

std::uint32_t record_checksum(const std::array<std::uint8_t, 16> &secret,
                              std::span<const std::byte> record) {
    RecordHeader header = load<RecordHeader>(record);
    header.crc32c.set(0);
    std::uint32_t crc = crc32c(0, std::as_bytes(std::span(secret)));
    crc = crc32c(crc, bytes_of(header));
    return crc32c(crc, record.subspan(sizeof header));
}

std::span<const std::byte> read_record(const pm::Region &region, const RingPlace &place,
                                       std::uint64_t offset, std::uint64_t seq,
                                       const std::array<std::uint8_t, 16> &secret,
                                       std::span<std::byte> buffer) {
    RecordHeader header;
    read_ring(region, place, offset, writable_bytes_of(header));
    const std::uint64_t size = header.size.get();
    if (header.magic.get() != static_cast<std::uint32_t>(media::Magic::record) ||
        header.seq.get() != seq || size < sizeof header || size % media::kLineSize != 0 ||
        size > buffer.size() || size > place.size)
        return {};
    const auto record = buffer.first(size);
    read_ring(region, place, offset, record);
    if (record_checksum(secret, record) != header.crc32c.get()) return {};
    return record;
}

Result<> apply_record(std::span<const std::byte> record, std::uint64_t blocks, const Apply &apply) {
    const auto header = load<RecordHeader>(record);
    const std::uint64_t entries = header.entries.get();
    if (entries > media::kTxBlocksMax) return corrupt("a journal record has too many entries");
    std::uint64_t at = sizeof header + align_up(entries * sizeof(RecordEntry), media::kLineSize);
    if (at > record.size()) return corrupt("a journal record ends inside its table");
    for (std::uint64_t i = 0; i < entries; ++i) {
        const auto entry = load<RecordEntry>(record, sizeof header + i * sizeof(RecordEntry));
        std::uint64_t lines = entry.lines.get();
        if (entry.block.get() >= blocks) return corrupt("a journal record points past the end");
        while (lines != 0) {
            const int first = std::countr_zero(lines);
            const int run = std::countr_one(lines >> first);
            const std::uint64_t size = static_cast<std::uint64_t>(run) * media::kLineSize;
            if (size > record.size() - at) return corrupt("a journal record ends inside its lines");
            apply(entry.block.get() * media::kBlockSize +
                      static_cast<std::uint64_t>(first) * media::kLineSize,
                  record.subspan(at, size));
            at += size;
            lines &= run == 64 ? 0 : ~(((std::uint64_t{1} << run) - 1) << first);
        }
    }
    return {};
}

namespace {

// The last record that counts after a power cut on an image file: what the last mark covers.
std::uint64_t last_covered(const pm::Region &region, const RingPlace &place, const RingState &ring,
                           std::span<std::byte> buffer) {
    std::uint64_t covered = ring.tail_seq - 1, offset = ring.tail_offset;
    for (std::uint64_t seq = ring.tail_seq;; ++seq) {
        const auto record = read_record(region, place, offset, seq, ring.secret, buffer);
        if (record.empty()) return covered;
        const auto header = load<RecordHeader>(record);
        if (header.kind.get() == static_cast<std::uint32_t>(media::RecordKind::mark))
            covered = header.covers.get();
        offset = (offset + record.size()) % place.size;
    }
}

}  // namespace

Result<ReplayReport> replay(const pm::Region &region, const media::Superblock &sb,
                            const BootId &boot_id, const Apply &apply) {
    ReplayReport report;
    report.ring = TRY(read_ring_header(region, sb));
    report.last_seq = report.ring.tail_seq - 1;
    if (report.ring.clean()) return report;
    report.power_was_cut = region.is_image() && report.ring.boot_id != boot_id;

    const RingPlace place = ring_place(sb);
    const auto buffer = std::make_unique<std::byte[]>(media::kRecordSizeMax);
    const std::span<std::byte> space(buffer.get(), media::kRecordSizeMax);
    std::uint64_t last = ~std::uint64_t{0};
    if (report.power_was_cut) last = last_covered(region, place, report.ring, space);

    std::uint64_t offset = report.ring.tail_offset;
    for (std::uint64_t seq = report.ring.tail_seq; seq <= last; ++seq) {
        const auto record = read_record(region, place, offset, seq, report.ring.secret, space);
        if (record.empty()) break;
        TRY(apply_record(record, sb.block_count.get(), apply));
        report.last_seq = seq;
        ++report.records;
        offset = (offset + record.size()) % place.size;
    }
    return report;
}

}  // namespace pmfs::journal
