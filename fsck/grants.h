// Grant records: which processes map the device, and which blocks must therefore not be reused
// (media/format.h, GrantHolder).
//
// A record's blocks belong to its file as long as the file maps them, and to the record afterwards.
// Which is the case is known only when every other owner has claimed its blocks.
#pragma once
#include <cstdint>
#include <vector>

#include "fsck/context.h"
#include "fsck/file_map.h"
#include "fsck/space.h"

namespace pmfs::fsck {

class Inodes;

// A record whose `atime` and `mtime` are a GrantPlace.
bool is_placed_record(const media::Inode &inode);

struct GrantRecord {
    std::uint64_t inode = 0;          // the record's own
    std::uint64_t file = 0;           // the file that its holder maps
    std::uint64_t generation = 0;     // of that file
    std::vector<FileExtent> extents;  // those that are plausible
    Owned owned;                      // the nodes of its map
    bool sure = true;                 // that there is or was such a file
};

// Checks the record itself, and claims the nodes of its map.
GrantRecord walk_grant_record(Context &context, Space &space, std::uint64_t number,
                              const media::Inode &inode);

// Compares what the records claim with what their files map, and claims for them blocks without an
// owner.  After all other claims.  Errors: ENOMEM.
Result<> check_grants(Context &context, Space &space, Inodes &inodes);

}  // namespace pmfs::fsck
