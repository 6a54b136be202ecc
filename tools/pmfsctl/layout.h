// The place of a sealed file on the device, as a virtual machine needs it: pieces of whole 2 MiB,
// each a virtio-pmem device.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "file.h"

namespace pmfs::ctl {

struct Slice {  // bytes of the device
    std::uint64_t offset = 0, length = 0;
};

// Slices of the file, in its order: one, or one for each PMFS_CONTIGUOUS_MAX of a longer file.
// False: it cannot be given to a virtual machine, or not be read; a sentence was printed.
bool find_slices(const File &file, std::vector<Slice> *out);

// QEMU's options for them: "-object", its argument, "-device", its argument, for each.  `path` is
// the device's, or leads to a descriptor of it; devices are numbered from `number` on.
std::vector<std::string> qemu_words(const std::string &path, const std::vector<Slice> &slices,
                                    unsigned *number);

}  // namespace pmfs::ctl
