// The image file under a volume: made, sized and given its blocks before anything is written.
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
// ENOENT is no error here; EACCES and the like are.
Result<ImageState> look_at(const std::string &path);

// Gives the regular file at `path`, which it makes if needed, `size` bytes (or leaves its size)
// and, unless `sparse`, all its blocks: a hole on a full disk would be a SIGBUS later. ENOSPC,
// EFBIG, EACCES; EOPNOTSUPP: the filesystem below cannot preallocate (use --sparse).
Result<> provide_image(const std::string &path, std::optional<std::uint64_t> size, bool sparse);

}  // namespace pmfs::mkfs
