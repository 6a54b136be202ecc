// What mkfs has to know about a device itself, beside what is on it, and whom it tells.
#pragma once
#include <string>

#include "base/result.h"

namespace pmfs::mkfs {

// EINVAL unless `path` is a device-DAX node whose memory is volatile (--volatile).  Memory that
// `memmap=` set aside counts as volatile, although the kernel calls it a persistent region.
Result<> require_volatile(const std::string &path);

// The part that reads sysfs: `directory` is /sys/dev/char/MAJOR:MINOR.
Result<> require_volatile_dax(const std::string &directory);

// Has udevd look at a device-DAX node again, since its links by label and UUID are old now.  (It
// watches block devices by itself, but no character devices.)  Without udevd nothing happens.
void announce(const std::string &path);

}  // namespace pmfs::mkfs
