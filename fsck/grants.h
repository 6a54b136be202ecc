// Grant records: who maps the device, and which blocks may therefore go to nobody else
// (media/format.h, GrantHolder).
//
// A record's blocks are its file's as long as the file maps them, and the record's own once nobody
// does.  Which is which can only be told when every other owner has claimed what it has.
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
    std::uint64_t file = 0;           // that its holder maps
    std::uint64_t generation = 0;     // of that file
    std::vector<FileExtent> extents;  // those that can be believed
    bool sure = true;                 // that there is or was such a file
};

// Checks the record itself, and claims the nodes of its map.
GrantRecord walk_grant_record(Context &context, Space &space, std::uint64_t number,
                              const media::Inode &inode);

// Compares what the records claim with what their files map, and claims for them what nobody has.
// After all else that claims.  Errors: ENOMEM.
Result<> check_grants(Context &context, Space &space, Inodes &inodes);

}  // namespace pmfs::fsck
