// Where sysfs shows a device.
#pragma once
#include <sys/sysmacros.h>

#include <string>

namespace pmfs {

// The folder of a device; `kind` is char or block.
inline std::string sysfs_of(const char *kind, dev_t device) {
    return std::string("/sys/dev/") + kind + "/" + std::to_string(major(device)) + ":" +
           std::to_string(minor(device));
}

}  // namespace pmfs
