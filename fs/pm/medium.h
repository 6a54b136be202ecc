// What kind of medium an open file is, how long it is, and in what units it may be mapped.
#pragma once
#include <string>

#include "pm/mapping.h"
#include "pm/region.h"

namespace pmfs::pm {

struct Medium {
    MediumKind kind = MediumKind::image;  // fsdax looks like image here: see open.cc
    std::uint64_t size = 0;               // bytes
    std::uint64_t unit = 4096;            // bytes; a power of two
    bool dax_file = false;                // a regular file that the kernel maps without page cache
    // Of the disk below a regular file: the kernel gives no other disk, nor this one when it comes
    // back, the same number before the machine restarts.  0: not known.
    std::uint64_t disk_sequence = 0;
};

// EISDIR, ENODEV, EINVAL (empty, or no kind of file that can be mapped).
Result<Medium> look_at(int fd);

// The part of look_at() that reads sysfs: `directory` is /sys/dev/char/MAJOR:MINOR.
Result<Medium> look_at_dax_device(const std::string &directory);

}  // namespace pmfs::pm
