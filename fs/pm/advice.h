// Advice for a user who gave something that is almost a device-DAX node: one sentence with the
// exact ndctl or daxctl command. pmfs never runs such a command, because it destroys all data on
// the namespace.
#pragma once
#include <cstdint>
#include <optional>
#include <string>

#include "base/result.h"
#include "pm/region.h"

namespace pmfs::pm {

// A path that does not exist.  Only for names such as /dev/dax0.0: the device may be system RAM, or
// disabled.
std::optional<Error> advice_for_missing(const std::string &path, const std::string &sysfs = "/sys");

// A block device: a namespace in fsdax, sector or raw mode, or none at all.  `directory` is
// /sys/dev/block/MAJOR:MINOR.
Error advice_for_block(const std::string &directory);

// A device-DAX node with pages of `align` bytes, which is more than a volume can be mapped in.
// `directory` is /sys/dev/char/MAJOR:MINOR, here and below.
Error advice_for_align(const std::string &directory, std::uint64_t align);

// A device-DAX node of `size` bytes, too small for a volume.
Error advice_for_size(const std::string &directory, std::uint64_t size);

// A volume that is to be mapped in units of `unit` bytes, on an open region with larger pages: no
// file of it could be mapped.
Error advice_for_unit(const Region &region, std::uint64_t unit);

}  // namespace pmfs::pm
