// Directories: a tree from hashed names to inode numbers.
//
// The key is a keyed hash of the name with a collision index in its low byte (media/format.h); it
// is also the readdir cookie, so it never changes while the entry lives, whatever happens around
// it.
#pragma once
#include <cstdint>
#include <string_view>

#include "base/ids.h"
#include "base/result.h"
#include "core/btree.h"
#include "core/change.h"

namespace pmfs::core {

// The hash part of a name's key: its collision index is 0.
std::uint64_t name_hash(const media::Superblock &superblock, std::string_view name);

struct Name {
    std::uint64_t key = 0;
    InodeNo ino;
    std::uint8_t type = 0;  // DT_*
    std::string_view text;  // points into the node
};

// 1 to 255 bytes, no '/' and no zero byte, not "." or "..".  ENAMETOOLONG, EINVAL.
Result<> check_name(std::string_view name);

// ENOENT if it is not there.
Result<Name> find_name(const Reader &reader, const media::Inode &dir, InodeNo dir_ino,
                       std::string_view name);
// The entry under the cursor.
Result<Name> decode_name(const Cursor &at);

// In transactions of its own: room for one more name.
Result<> dir_make_room(Core &core, InodeNo dir, std::string_view name, Need need);
// Gives a directory that has none its first leaf, for a change that would be too large with it.
Result<> dir_make_leaf(Core &core, InodeNo dir);
// Within a transaction; `dir` is its copy.  The name is not there, and there is room.
Result<> dir_insert(Change &change, media::Inode *dir, InodeNo dir_ino, std::string_view name,
                    InodeNo ino, std::uint8_t type);
Result<> dir_remove(Change &change, media::Inode *dir, InodeNo dir_ino, std::uint64_t key);
// Another inode under the same name.
Result<> dir_replace(Change &change, media::Inode *dir, InodeNo dir_ino, const Name &name,
                     InodeNo ino, std::uint8_t type);

}  // namespace pmfs::core
