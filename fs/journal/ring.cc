// Headers and records, as bytes: see ring.h.
#include "journal/ring.h"

#include <fcntl.h>
#include <sys/random.h>
#include <unistd.h>

#include <bitset>
#include <cstring>

#include "base/bytes.h"
#include "base/crc32c.h"
#include "media/verify.h"

namespace pmfs::journal {

using media::RecordHeader;
using media::RecordKind;

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
    return id == BootId{} ? kLostCache : id;
}

BootId cache_id(const BootId &boot, const pm::Region &region) {
    if (boot == kLostCache) return boot;
    BootId id = boot;
    const media::le64 disk(load<media::le64>(std::as_bytes(std::span(id)), 8).get() ^
                           region.disk_sequence());
    std::memcpy(id.data() + 8, &disk, sizeof disk);
    return id;
}

bool same_cache(const BootId &id, const BootId &boot, const pm::Region &region) {
    if (id == kLostCache || boot == kLostCache) return false;
    const auto half = [](const BootId &of, std::size_t at) {
        return load<media::le64>(std::as_bytes(std::span(of)), at).get();
    };
    const std::uint64_t was = half(id, 8) ^ half(boot, 8), is = region.disk_sequence();
    return half(id, 0) == half(boot, 0) && (was == is || was == 0 || is == 0);
}

Result<Secret> random_secret() {
    Secret secret;
    if (::getrandom(secret.data(), secret.size(), 0) != static_cast<ssize_t>(secret.size()))
        return Error(EIO, "the kernel provides no random numbers");
    return secret;
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
        const ConstBytes block(at, media::kBlockSize);
        if (!media::block_ok(block, media::Magic::ring_header, sb.header.fsid.get(),
                             sb.journal_start.get() + slot) ||
            (media::knows_all_fields(sb) &&
             !media::reserved_zero(block, media::Magic::ring_header)))
            continue;
        const auto *h = reinterpret_cast<const media::RingHeader *>(at);
        if (found && h->generation.get() <= best.generation) continue;
        best.generation = h->generation.get();
        best.tail_seq = h->tail_seq.get();
        best.tail_offset = h->tail_offset.get();
        best.covers = h->covers.get();
        std::memcpy(best.secret.data(), h->secret, sizeof h->secret);
        std::memcpy(best.boot_id.data(), h->boot_id, sizeof h->boot_id);
        found = true;
    }
    if (!found)
        return corrupt(
            "both headers of the journal are damaged (-o ro,norecovery mounts the volume without "
            "its journal)");
    if (best.tail_seq == 0 || best.tail_seq >> 63 != 0)
        return corrupt(
            "the journal's first record number is impossible (-o ro,norecovery mounts the volume "
            "without its journal)");
    if (best.tail_offset >= place.size || best.tail_offset % media::kLineSize != 0)
        return corrupt(
            "the journal's tail is not inside the ring (-o ro,norecovery mounts the volume without "
            "its journal)");
    return best;
}

namespace {

media::RingHeader header_at(std::uint64_t at, std::uint64_t fsid, const RingState &ring) {
    media::RingHeader header{};
    header.header = media::header_of(media::Magic::ring_header, fsid, at / media::kBlockSize, 0);
    header.generation.set(ring.generation);
    header.tail_seq.set(ring.tail_seq);
    header.tail_offset.set(ring.tail_offset);
    header.covers.set(ring.covers);
    std::memcpy(header.secret, ring.secret.data(), ring.secret.size());
    std::memcpy(header.boot_id, ring.boot_id.data(), ring.boot_id.size());
    media::seal_block(header);
    return header;
}

}  // namespace

Result<> write_ring_headers(pm::Region &region, const RingPlace &place, std::uint64_t fsid,
                            const RingState &ring) {
    pm::FaultScope faults;
    for (unsigned slot = 0; slot < media::kRingHeaders; ++slot) {
        const std::uint64_t at = place.headers + slot * media::kBlockSize;
        region.fence(region.write(at, bytes_of(header_at(at, fsid, ring))));
        if (faults.met()) return Error(EIO, "the medium cannot keep the journal's header");
        if (slot == 0 && region.is_image()) TRY(region.sync());
    }
    return {};
}

Result<> check_ring_headers_kept(const pm::Region &region, const RingPlace &place,
                                 std::uint64_t fsid, const RingState &ring) {
    for (unsigned slot = 0; slot < media::kRingHeaders; ++slot) {
        const std::uint64_t at = place.headers + slot * media::kBlockSize;
        if (!region.keeps(at, bytes_of(header_at(at, fsid, ring))))
            return Error(EROFS,
                         "the medium does not keep what is stored to it: is it read-only for this "
                         "machine?  (-o ro mounts it, fsck.pmfs -n checks it)");
    }
    return {};
}

void read_ring(const pm::Region &region, const RingPlace &place, std::uint64_t offset,
               std::span<std::byte> out) {
    const std::uint64_t first = std::min<std::uint64_t>(out.size(), place.size - offset);
    std::memcpy(out.data(), region.data() + place.start + offset, first);
    std::memcpy(out.data() + first, region.data() + place.start, out.size() - first);
}

std::uint32_t record_checksum(const Secret &secret, std::span<const std::byte> record) {
    RecordHeader header = load<RecordHeader>(record);
    header.crc32c.set(0);
    std::uint32_t crc = crc32c(0, std::as_bytes(std::span(secret)));
    crc = crc32c(crc, bytes_of(header));
    return crc32c(crc, record.subspan(sizeof header));
}

namespace {

constexpr std::size_t kRecordLines = media::kRecordSizeMax / media::kLineSize;

void apply_mask(std::span<std::byte> record, std::uint32_t mask) {
    for (std::size_t at = sizeof(RecordHeader); at < record.size(); at += media::kLineSize) {
        const media::le32 word(load<media::le32>(record, at).get() ^ mask);
        std::memcpy(record.data() + at, &word, sizeof word);
    }
}

}  // namespace

void mask_record(std::span<std::byte> record) {
    // What a line begins with rules out one mask, so one of the first kRecordLines is free.
    std::bitset<kRecordLines> taken;
    for (std::size_t at = sizeof(RecordHeader); at < record.size(); at += media::kLineSize) {
        const std::uint32_t rules_out =
            load<media::le32>(record, at).get() ^ static_cast<std::uint32_t>(media::Magic::record);
        if (rules_out < taken.size()) taken.set(rules_out);
    }
    if (!taken[0]) return;
    std::uint32_t mask = 1;
    while (taken[mask]) ++mask;
    apply_mask(record, mask);
    auto header = load<RecordHeader>(record);
    header.kind.set(static_cast<std::uint32_t>(RecordKind::masked));
    header.mask.set(mask);
    std::memcpy(record.data(), &header, sizeof header);
}

void unmask_record(std::span<std::byte> record) {
    const auto header = load<RecordHeader>(record);
    if (RecordKind{header.kind.get()} == RecordKind::masked) apply_mask(record, header.mask.get());
}

std::span<const std::byte> read_record(const pm::Region &region, const RingPlace &place,
                                       std::uint64_t offset, std::uint64_t seq,
                                       const Secret &secret, std::span<std::byte> buffer) {
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
    unmask_record(record);
    return record;
}

}  // namespace pmfs::journal
