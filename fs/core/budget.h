// How many blocks a transaction may change: the parts, and the transactions that are composed of
// them.
//
// Each part is counted as if it shared no block with the others, next to the name of the function
// that makes these changes; if you change that function, change its line here. A transaction that
// would change more than media::kTxBlocksMax blocks is refused as damage (journal/tx.h), so the
// compiler checks the sums. Operations that take as much as fits ask Change::has_room() with the
// same constants.
#pragma once
#include <algorithm>
#include <cstddef>

#include "media/format.h"

namespace pmfs::core::budget {

// --- parts
inline constexpr std::size_t kInode = 1;                       // edit_inode()
inline constexpr std::size_t kInodeMap = 1;                    // of a chunk
inline constexpr std::size_t kSummaries = 2;                   // SpaceMap::edit_summary(): copies
inline constexpr std::size_t kBitmap = 1, kClasses = 1;        // of 63 chunks
inline constexpr std::size_t kDataRun = kBitmap + kSummaries;  // taken or given back
inline constexpr std::size_t kMetaRun = kDataRun + kClasses;   // likewise
inline constexpr std::size_t kNewInode = kInode + kInodeMap + kSummaries;  // take_inode()
inline constexpr std::size_t kFreeInode = kInodeMap + kMetaRun;  // free_inode(), beside the inode
inline constexpr std::size_t kListChange =  // push_inode(), unlink_inode(): neighbours or the head
    kInode + std::max(kInode, kSummaries);
inline constexpr std::size_t kLeaf = 1;                      // an entry of a tree
inline constexpr std::size_t kFirstLeaf = kMetaRun + kLeaf;  // tree_begin()
inline constexpr std::size_t kNodes = 3;                     // two neighbours and what is above
inline constexpr std::size_t kMapInsert = 2 * kLeaf;         // map_insert(): joins a neighbour
inline constexpr std::size_t kMapRemove = 2 * kLeaf;         // map_remove(): head and tail stay

// The most runs of a large value that one transaction can free, and so the most that it may consist
// of.  (One that consists of so many cannot be replaced by another large one in the same
// transaction: ENOSPC.)
inline constexpr std::size_t kBlobRunsMax = (media::kTxBlocksMax - kInode - kLeaf) / kDataRun;
// A symlink is made in one transaction, however its target's blocks are scattered.
inline constexpr std::size_t kSymlinkRuns = media::blob_blocks(media::kSymlinkMax);
static_assert(kSymlinkRuns <= kBlobRunsMax);

// --- transactions
inline constexpr std::size_t kLargest = std::max({
    kInode + kNewInode + kFirstLeaf,                      // a new name with a new inode
    kInode + kNewInode + kLeaf + kSymlinkRuns *kDataRun,  // ... of a symlink: dir_make_leaf()
    2 * kInode + kFirstLeaf + kListChange,                // a link, the first one
    2 * kInode + kLeaf + kListChange,                     // the last name is removed
    5 * kInode + 2 * kLeaf + kListChange,                 // a rename that replaces; a whiteout
    4 * kInode + kFirstLeaf + kLeaf,                      // ... to a new name
    kInode + kFirstLeaf + kDataRun,                       // an attribute, with its first leaf
    kInode + kLeaf + kBlobRunsMax *kDataRun,              // an attribute is removed
    kInode + kMapInsert + kDataRun,                       // a piece of a write, or of fallocate
    kInode + kMapRemove + kMapInsert,                     // blocks become written
    kInode + kMapRemove + kDataRun,                       // a piece of a hole
    kInode + kLeaf + kMetaRun + kListChange,              // the first piece of a truncation
    kInode + kMapInsert + kDataRun + kListChange,         // a donor range
    kInode + 2 * kMapRemove + kMapInsert + kDataRun,      // ... takes the place of a piece
    kInode + kMapRemove + kMapInsert + 2 * kDataRun,      // a piece is moved out of a chunk
    kInode + kFirstLeaf,                                  // a map outgrows its inode
    kInode + kMetaRun + kNodes,                           // a split, a merge
    kMetaRun + kInodeMap + kInode,                        // eight more inodes, in one chunk
    kInode + kListChange + kFreeInode,                    // an inode or a grant's record is freed
    kNewInode + kListChange,                              // a grant's record, or a nameless inode
});
static_assert(kLargest <= media::kTxBlocksMax);
// (That the smallest journal holds four of the largest records is asserted in media/format.h.)

}  // namespace pmfs::core::budget
