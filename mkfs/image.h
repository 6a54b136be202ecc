// The image file under a volume: created, sized and allocated before anything is written.
#pragma once
#include <cstdint>
#include <optional>
#include <string>

#include "base/result.h"

namespace pmfs::mkfs {

struct ImageState {
    bool exists = false;
    bool regular = false;    // else a device
    std::uint64_t size = 0;  // of a regular file
};
// ENOENT is not an error here; EACCES and the like are.
Result<ImageState> look_at(const std::string &path);

// Sets the size of the regular file at `path` to `size` (or keeps its size), creates it if
// necessary, and, unless `sparse`, allocates all its blocks: a hole on a full disk would be a
// SIGBUS later. ENOSPC, EFBIG, EACCES; EOPNOTSUPP: the filesystem below cannot preallocate (use
// --sparse).
Result<> provide_image(const std::string &path, std::optional<std::uint64_t> size, bool sparse);

}  // namespace pmfs::mkfs
