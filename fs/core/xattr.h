// Extended attributes, and blobs: values too large for a tree entry.
//
// A blob's blocks are written before the transaction that refers to them and never change after, so
// setting a large value is as atomic as setting a small one.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "core/alloc.h"
#include "core/change.h"

namespace pmfs::core {

// Writes `value` into new data blocks and adds them to `inode`'s count.  ENOSPC.
Result<std::vector<Run>> write_blob(Change &change, media::Inode *inode, InodeNo owner,
                                    std::span<const std::byte> value, const Goal &goal = {});
Result<std::vector<std::byte>> read_blob(Core &core, InodeNo owner, std::span<const Run> runs,
                                         std::size_t size);

// ENODATA if it is not there.  Names have their prefix.
Result<std::vector<std::byte>> get_xattr(const Reader &reader, const media::Inode &inode,
                                         InodeNo ino, std::string_view name);
bool has_xattr(const Reader &reader, const media::Inode &inode, InodeNo ino, std::string_view name);
Result<> list_xattrs(const Reader &reader, const media::Inode &inode, InodeNo ino,
                     const std::function<void(std::string_view)> &each);

// The attribute with the smallest key >= `key`, and where its value is if that is large.
struct PlacedXattr {
    std::uint64_t key = 0;
    std::vector<Run> runs;
};
Result<std::optional<PlacedXattr>> next_xattr(const Reader &reader, const media::Inode &inode,
                                              InodeNo ino, std::uint64_t key);
// Writes the large value of the attribute with that key to another place, in transactions of its
// own.  Gives its blocks.  ENODATA: there is no large value with that key.
Result<std::uint64_t> move_xattr(Core &core, InodeNo ino, std::uint64_t key, const Goal &goal);
// Copies the blocks of a blob: each contains its own place.
Result<pm::Unfenced> copy_blob(Core &core, Run from, Run to);

// In transactions of its own: room for one more attribute of that name and size.
Result<> xattr_make_room(Core &core, InodeNo ino, std::string_view name, std::size_t value_size);
// Within a transaction: sets (an old value is removed) or removes.  ENODATA: nothing to remove.
Result<> set_xattr(Change &change, media::Inode *inode, InodeNo ino, std::string_view name,
                   std::span<const std::byte> value, const Goal &goal = {});
Result<> remove_xattr(Change &change, media::Inode *inode, InodeNo ino, std::string_view name);
// Removes some attribute of a file that is going away.  ENODATA when there is none.
Result<> remove_any_xattr(Change &change, media::Inode *inode, InodeNo ino);

}  // namespace pmfs::core
