// A file's block map: a few extents inline in the inode, then a tree.
//
// Neighbours that are contiguous in file and device, with equal flags, are merged when one is
// inserted.  Functions that change a map take a MapPermit (core/seal.h).  Each change fits one
// transaction if map_make_room() was called for the file blocks where an extent may begin anew.
#pragma once
#include <cstdint>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "core/alloc.h"
#include "core/change.h"
#include "core/extent.h"
#include "core/seal.h"

namespace pmfs::core {

// Behind the last block of every map.
inline constexpr FileBlock kLastBlock(~std::uint64_t{0} >> 1);
inline constexpr FileBlock kDonorRange(media::kDonorBase);

// The extent that covers `file_block`, whole; or the hole around it, from `file_block` on to the
// next extent (to the end of all files if there is none).
Result<Extent> find_extent(const Reader &reader, const media::Inode &inode, InodeNo ino,
                           FileBlock file_block);
// The first extent that ends behind `file_block`; a hole if there is none.
Result<Extent> next_extent(const Reader &reader, const media::Inode &inode, InodeNo ino,
                           FileBlock file_block);
// The last extent that begins at or before `file_block`; a hole if there is none.
Result<Extent> last_extent(const Reader &reader, const media::Inode &inode, InodeNo ino,
                           FileBlock file_block);

// In transactions of its own: room for `extents` more at `file_block`.
Result<> map_make_room(Core &core, InodeNo ino, FileBlock file_block, unsigned extents);
// After removals at `file_block`: merges sparse nodes.
Result<> map_tidy(Core &core, InodeNo ino, FileBlock file_block);

// --- within a transaction; `inode` is its copy there

// Maps a hole.  Merges with its neighbours.
Result<> map_insert(Change &change, media::Inode *inode, InodeNo ino, const Extent &extent,
                    const MapPermit &permit);
// Unmaps [first, end) of the one extent that covers both, and returns the device blocks, which are
// still in use: the caller frees them or maps them elsewhere.
Result<Run> map_remove(Change &change, media::Inode *inode, InodeNo ino, FileBlock first,
                       FileBlock end, const MapPermit &permit);
// Makes [first, end) of the one unwritten extent that covers both written.
Result<> map_set_written(Change &change, media::Inode *inode, InodeNo ino, FileBlock first,
                         FileBlock end, const MapPermit &permit);
// Frees blocks at and behind `from`, last first: as many extents as fit into this transaction and
// into the time of a step.  True when none is left.
inline constexpr unsigned kTrimExtentsMax = 32;
Result<bool> map_trim(Change &change, media::Inode *inode, InodeNo ino, FileBlock from,
                      const MapPermit &permit);

}  // namespace pmfs::core
