// What a new allocation group consists of: mkfs makes all groups of a volume, and a growing volume
// makes the new ones.
#pragma once
#include <functional>

#include "base/bytes.h"
#include "media/format.h"

namespace pmfs::media {

// Writes one block, whose checksum is already set.
using PutBlock = std::function<void(std::uint64_t block, ConstBytes bytes)>;

// The group's own blocks, but for the superblock's copy.  In group 0 the journal and the root's
// block of inodes are in use as well, and `copy_block` where there is one.
void make_group(const Superblock &sb, std::uint64_t group, const PutBlock &put);

// An inode map: of inodes of the root's block, if that is its chunk's, and of none in all others.
void make_inode_map(const Superblock &sb, std::uint64_t block, const PutBlock &put);

// The block with the inode map of the root's chunk: behind the root's block, unless that is in
// chunk 0, whose map has a place of its own.
std::uint64_t root_map_of(const Superblock &sb);

// The superblock as it stands in `block`, sealed.
Superblock superblock_for(const Superblock &sb, std::uint64_t block);

}  // namespace pmfs::media
