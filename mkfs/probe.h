// Finds out what is on a region already, before mkfs overwrites it.
#pragma once
#include <string>

#include "base/result.h"
#include "pm/region.h"

namespace pmfs::mkfs {

// A few words on the filesystem, partition table or other signature that libblkid or our own magic
// finds ("an ext4 filesystem"); empty when there is none.
// EIO: it could not be read.
Result<std::string> what_is_on(const pm::Region &region, const std::string &path);

// Erases signatures that libblkid finds, so that they are not found later beside the new volume.
Result<> wipe_signatures(pm::Region &region, const std::string &path);

}  // namespace pmfs::mkfs
