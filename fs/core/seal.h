// The legal moves on a file's block map: one table (docs/seal.md), and the only maker of permits.
//
// Whoever changes an extent map shows a MapPermit, and only permit() gives one: so no path to
// the map can forget to ask.  Lint holds the list of those who may call the few functions that the
// inode table and recovery use without one.
#pragma once
#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "core/change.h"
#include "core/extent.h"

namespace pmfs::core {

// What somebody wants to do to a file's block map.
enum class MapMove {
    grow,      // the size, without allocating
    allocate,  // holes and unwritten blocks become written, or blocks are added
    truncate,  // in either direction
    punch,     // holes or zeroes where data was
    relocate,  // other blocks for the same bytes (prepare, defragment)
    reap,      // the last name is gone, nobody has it open
};

enum class GrantKind : std::uint8_t { temporary = 1, breakable = 2, pin = 3 };
struct Grant {
    std::uint64_t id = 0;
    std::uint64_t handle = 0;
    GrantKind kind = GrantKind::temporary;
    bool may_store = false;
    std::uint32_t pid = 0, uid = 0;
    std::uint64_t first = 0, end = 0;  // file blocks
};

class MapPermit {
public:
    MapPermit(const MapPermit &) = default;

private:
    friend Result<MapPermit> permit(const media::Inode &, std::span<const Grant>, MapMove,
                                    std::uint64_t, std::uint64_t);
    MapPermit() = default;
};

// May `move` change the map of this inode in file blocks [first, end)?  ETXTBSY when a seal or a
// grant forbids it; EINVAL for relocate (seal.md: "defragment, relocate").
Result<MapPermit> permit(const media::Inode &inode, std::span<const Grant> grants, MapMove move,
                         std::uint64_t first, std::uint64_t end);

// BLAKE2b-256 of the size and the extents (docs/format.md "Digest").  O(extents).
using Digest = std::array<std::uint8_t, 32>;
Result<Digest> map_digest(const Reader &reader, const media::Inode &inode, InodeNo ino);

// What a full seal, a grant or a direct mapping asks of file blocks [first, end): every block
// allocated, written, private, and in whole units of `unit` blocks congruent with the device.
// EINVAL: *bad_block is the first one that is not.
Result<> check_mappable(const Reader &reader, const media::Inode &inode, InodeNo ino,
                        std::uint64_t first, std::uint64_t end, std::uint64_t unit,
                        std::uint64_t *bad_block);

}  // namespace pmfs::core
