// Everything that a user can see of a volume, as a value: what crash tests compare.
#pragma once
#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include "volume/volume.h"

namespace pmfs::test {

struct Thing {  // one inode under one name; times are left out: they are not part of any promise
                // here
    std::uint32_t mode = 0, nlink = 0, uid = 0, gid = 0;
    std::uint64_t rdev = 0, size = 0;
    std::string target;  // of a symlink
    std::map<std::string, std::string> xattrs;
    SealLevel seal = SealLevel::none;
    std::vector<std::byte> data;

    // All but the data, and the size where `size_too` is false.
    bool same_metadata(const Thing &other, bool size_too) const;
};

using World = std::map<std::string, Thing>;  // by path, "" is the root

Result<World> look_at(Volume &volume);

// How `found` may differ from `was` and `now`, the worlds before and after one operation: one of
// the two in metadata and size, each data word from one of the two (or zero where the file grew).
// With `prefix`, a file that grew may have any size in between.  Returns "" or what is wrong.
std::string judge(const World &found, const World &was, const World &now, bool prefix);
// As judge() where data may also come from any of several worlds (image files).
std::string judge(const World &found, const std::vector<const World *> &metadata_of,
                  const std::vector<const World *> &data_of, bool prefix);

}  // namespace pmfs::test
