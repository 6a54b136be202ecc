// Block maps: extents, seals, long symlinks; and xattrs, the other thing that every inode may own.
#pragma once
#include <cstdint>
#include <string_view>
#include <vector>

#include "fsck/context.h"
#include "fsck/space.h"

namespace pmfs::fsck {

struct Owned {
    std::uint64_t blocks = 0;  // that the inode owns through this: nodes and what they refer to
    bool complete = true;      // false: the figure may be too small
    void add(const Owned &other) {
        blocks += other.blocks;
        complete &= other.complete;
    }
};

struct FileExtent {
    std::uint64_t file_block, start, blocks;
    std::uint32_t flags;
};

// The owner of a map: a regular file; or a grant record, of whose blocks only check_grants() can
// say whether they are its own, so only its nodes are claimed and counted here.
enum class MapOf : std::uint8_t { file, grant_record };

// Claims and checks the extents of an inode.  Those that are plausible are added to `out`, if it is
// given.
Owned walk_map(Context &context, Space &space, std::uint64_t number, const media::Inode &inode,
               MapOf of, std::vector<FileExtent> *out);

// Checks a symlink's target; claims its blocks if it is long.
Owned walk_symlink(Context &context, Space &space, std::uint64_t number, const media::Inode &inode);

Owned walk_xattrs(Context &context, Space &space, std::uint64_t number, const media::Inode &inode);

// Checks the attribute of that name if it is an access control list.  `value` is null if it has
// blocks of its own, which no list needs.
void check_acl(Context &context, std::uint64_t number, const media::Inode &inode,
               std::string_view name, const ConstBytes *value);

// Claims `blocks` blob blocks from `start` on and checks them: pieces of a value of `size` bytes,
// of which `*offset` come before.
Owned walk_blobs(Context &context, Space &space, std::uint64_t number, std::uint64_t start,
                 std::uint64_t blocks, std::uint64_t size, std::uint64_t *offset);

}  // namespace pmfs::fsck
