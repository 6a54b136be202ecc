// Seals: the permit to change a block map, digests, and what may be mapped. The legal moves are a
// table of their own (seal_table.h).
//
// A function that changes an extent map takes a MapPermit, and only permit() makes one, so no path
// to the map can forget to ask. tests/lint lists the callers of the few functions that recovery
// uses without one.
#pragma once
#include <sodium.h>

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "core/change.h"
#include "core/extent.h"
#include "core/seal_table.h"

namespace pmfs::core {

enum class GrantKind : std::uint8_t { temporary = 1, breakable = 2, pin = 3 };
class MapPermit {
public:
    MapPermit(const MapPermit &) = default;
    MapPermit &operator=(const MapPermit &) = default;

private:
    friend Result<MapPermit> permit(const media::Inode &, Standing, Move);
    MapPermit() = default;
};

// The table's answer to `move`, as an error: ETXTBSY, EINVAL, EBUSY; kBreakErrno if leases must be
// broken first.  `standing` is the grants' part; the inode says whether the file is sealed.
Result<> ask(const media::Inode &inode, Standing standing, Move move);
// The same for a change of the map.
Result<MapPermit> permit(const media::Inode &inode, Standing standing, Move move);

// BLAKE2b-256 of the size and the extents (docs/format.md "Digest").  O(extents).
using Digest = std::array<std::uint8_t, 32>;

// Reads a whole map in portions, between which the map and the size stay as they are (the inode is
// claimed, volume/claims.h): the results are valid when the last portion is read.
class MapScan {
public:
    explicit MapScan(const media::Inode &inode);
    // Reads at most so many more extents.  True: all are read.
    Result<bool> scan(const Reader &reader, const media::Inode &inode, InodeNo ino,
                      unsigned extents_max);
    std::uint64_t extents() const { return extents_; }
    // Whether a store inside the file could need a block: it is not dense to its end.
    bool gaps() const { return gaps_; }
    Digest digest();  // once

private:
    void add(const Extent &e);

    crypto_generichash_state state_;
    FileBlock at_, end_;
    std::uint64_t extents_ = 0;
    bool gaps_ = false, in_donor_ = false;
    Extent joined_;
};

// What a full seal, a grant or a direct mapping requires of file blocks [first, end): every block
// allocated, written, private, and in whole units of `unit` blocks congruent with the device.
// EINVAL: *bad_block is the first one that is not.
Result<> check_mappable(const Reader &reader, const media::Inode &inode, InodeNo ino,
                        FileBlock first, FileBlock end, std::uint64_t unit, FileBlock *bad_block);

// How far the file is dense (allocated, written, private) from block `from` on.  Does not look
// beyond `end`, nor at more than so many extents.
Result<FileBlock> dense_until(const Reader &reader, const media::Inode &inode, InodeNo ino,
                              FileBlock from, FileBlock end, unsigned extents_max);

}  // namespace pmfs::core
