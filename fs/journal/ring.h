// The ring: where it is, its two headers, and how a record is read from it.
//
// The headers say the same, so that damage to one of them hides nothing.  They are written one
// after the other, and so at every moment one of them is whole.
#pragma once
#include <array>
#include <cstdint>
#include <span>

#include "base/result.h"
#include "media/format.h"
#include "pm/region.h"

namespace pmfs::journal {

using BootId = std::array<std::uint8_t, 16>;
BootId current_boot_id();  // /proc/sys/kernel/random/boot_id

// What a header of an image says of the page cache that its mount writes to: the boot, and the disk
// below.
BootId cache_id(const BootId &boot, const pm::Region &region);
// Whether `region` has that page cache: the boot is the same, and the disk has not been away, as
// far as both mounts could see.
bool same_cache(const BootId &id, const BootId &boot, const pm::Region &region);
// Of a page cache that lost something: no other has it.
inline constexpr BootId kLostCache = [] {
    BootId id{};
    id.fill(0xff);
    return id;
}();

using Secret = std::array<std::uint8_t, 16>;
Result<Secret> random_secret();  // EIO: the kernel gives no random numbers

// What a ring header says, decoded.
struct RingState {
    std::uint64_t generation = 0;
    std::uint64_t tail_seq = 1;
    std::uint64_t tail_offset = 0;
    std::uint64_t covers = 0;
    Secret secret{};
    BootId boot_id{};
    bool clean() const { return boot_id == BootId{}; }
};

// The ring's place in the region, in bytes.
struct RingPlace {
    std::uint64_t headers, start, size;
};
RingPlace ring_place(const media::Superblock &superblock);

// The newest whole header.  EUCLEAN: neither is whole, or its values are impossible.
Result<RingState> read_ring_header(const pm::Region &region, const media::Superblock &superblock);
// Makes `ring` what the headers say.  On an image file the first one is synced when this returns,
// and the second one with the next sync.  EIO: the medium failed; what the headers say is unknown.
Result<> write_ring_headers(pm::Region &region, const RingPlace &place, std::uint64_t fsid,
                            const RingState &ring);
// For the first write of a mount: EROFS when the medium accepts stores and drops them.
Result<> check_ring_headers_kept(const pm::Region &region, const RingPlace &place,
                                 std::uint64_t fsid, const RingState &ring);

// Copies `size` bytes from `offset` of the ring, round its end.
void read_ring(const pm::Region &region, const RingPlace &place, std::uint64_t offset,
               std::span<std::byte> out);
// The record at `offset`, if it is whole and carries `seq`: its bytes in `buffer`, unmasked, else
// empty.
std::span<const std::byte> read_record(const pm::Region &region, const RingPlace &place,
                                       std::uint64_t offset, std::uint64_t seq,
                                       const Secret &secret, std::span<std::byte> buffer);
std::uint32_t record_checksum(const Secret &secret, std::span<const std::byte> record);
// Before the checksum: no line of a transaction but its header looks like the header of a record.
// Whoever may read the medium knows the secret, and could store lines that recovery takes for a
// record when the ring comes round.  (As JBD2 escapes blocks with its magic: fs/jbd2/commit.c.)
void mask_record(std::span<std::byte> record);
void unmask_record(std::span<std::byte> record);

}  // namespace pmfs::journal
