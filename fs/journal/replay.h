// Reading the journal: which records count, and what they say.  Used by a mount and by fsck, who
// store what it hands them; it writes nothing itself, so it may be cut and run again.
#pragma once
#include <array>
#include <cstdint>
#include <functional>
#include <span>

#include "base/result.h"
#include "media/format.h"
#include "pm/region.h"

namespace pmfs::journal {

using BootId = std::array<std::uint8_t, 16>;
BootId current_boot_id();  // /proc/sys/kernel/random/boot_id

// The part of the ring header that counts, decoded.
struct RingState {
    std::uint64_t generation = 0;
    unsigned slot = 0;  // which of the two headers it came from
    std::uint64_t tail_seq = 1;
    std::uint64_t tail_offset = 0;
    std::array<std::uint8_t, 16> secret{};
    BootId boot_id{};
    bool clean() const { return boot_id == BootId{}; }
};

// The ring's place in the region, in bytes.
struct RingPlace {
    std::uint64_t headers, start, size;
};
RingPlace ring_place(const media::Superblock &superblock);

// EUCLEAN: neither header is whole.
Result<RingState> read_ring_header(const pm::Region &region, const media::Superblock &superblock);

struct ReplayReport {
    RingState ring;
    std::uint64_t records = 0;   // applied
    std::uint64_t last_seq = 0;  // of the last one applied, or before the tail
    bool power_was_cut = false;  // an image whose page cache did not survive
};

// Hands each logged run of lines of each record that counts, oldest first, to `apply`
// (offset in the region, bytes).  On an image file that another boot wrote, records after the last
// group mark do not count: their data may never have reached the disk.
using Apply = std::function<void(std::uint64_t offset, std::span<const std::byte> bytes)>;
Result<ReplayReport> replay(const pm::Region &region, const media::Superblock &superblock,
                            const BootId &boot_id, const Apply &apply);

// --- for replay and for the checkpoint, which reads the same records while the ring is in use

// Copies `size` bytes from `offset` of the ring, round its end.
void read_ring(const pm::Region &region, const RingPlace &place, std::uint64_t offset,
               std::span<std::byte> out);
// The record at `offset`, if it is whole and carries `seq`: its bytes in `buffer`, else empty.
std::span<const std::byte> read_record(const pm::Region &region, const RingPlace &place,
                                       std::uint64_t offset, std::uint64_t seq,
                                       const std::array<std::uint8_t, 16> &secret,
                                       std::span<std::byte> buffer);
std::uint32_t record_checksum(const std::array<std::uint8_t, 16> &secret,
                              std::span<const std::byte> record);
// Calls `apply` for each run of lines of a whole record.  `blocks`: the volume's size; a record
// that points past it is EUCLEAN.
Result<> apply_record(std::span<const std::byte> record, std::uint64_t blocks, const Apply &apply);

}  // namespace pmfs::journal
