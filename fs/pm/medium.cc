// Asks the kernel what a file is.  libpmem2 cannot tell memory from disk (it says PAGE granularity
// for both), so fstatfs decides that; a device's size and alignment are only in sysfs.
#include "pm/medium.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <cstdlib>
#include <initializer_list>
#include <string_view>

#include "base/sysfs.h"
#include "pm/advice.h"

namespace pmfs::pm {

const char *name_of(MediumKind kind) {
    switch (kind) {
        case MediumKind::devdax:
            return "device-DAX";
        case MediumKind::fsdax:
            return "file on fsdax";
        case MediumKind::memory:
            return "memory";
        case MediumKind::image:
            return "image file";
    }
    return "unknown medium";
}

namespace {

constexpr Error kNotDax(ENODEV,
                        "a character device, but not a device-DAX node (see daxctl list, or "
                        "ndctl create-namespace --mode=devdax)");

// The number in a sysfs file; 0 when there is none.
std::uint64_t number_in(const std::string &path) {
    const FileDescriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd.ok()) return 0;
    char text[32] = {};
    if (::read(fd.get(), text, sizeof text - 1) <= 0) return 0;
    return std::strtoull(text, nullptr, 0);
}

// The smallest volume (mkfs), and the largest unit that one can be mapped in (docs/format.md).
constexpr std::uint64_t kSizeMin = 4 << 20;
constexpr std::uint64_t kUnitMax = 2 << 20;

bool is_dax_subsystem(const std::string &directory) {
    char target[4096];
    const ssize_t length = ::readlink((directory + "/subsystem").c_str(), target, sizeof target);
    if (length <= 0) return false;
    const std::string_view link(target, static_cast<std::size_t>(length));
    return link.substr(link.rfind('/') + 1) == "dax";
}

// Documentation/ABI/stable/sysfs-block: only whole disks have the number.
std::uint64_t disk_sequence_of(dev_t device) {
    const std::string directory = sysfs_of("block", device);
    const std::uint64_t whole = number_in(directory + "/diskseq");
    return whole != 0 ? whole : number_in(directory + "/../diskseq");
}

}  // namespace

Result<Medium> look_at_dax_device(const std::string &directory) {
    if (!is_dax_subsystem(directory)) return kNotDax;
    Medium medium;
    medium.kind = MediumKind::devdax;
    medium.size = number_in(directory + "/size");
    if (medium.size == 0) return Error(EINVAL, "the device-DAX namespace is empty or disabled");
    medium.unit = 0;
    // The attribute's place in sysfs has changed (in Linux 5.1 and 5.10).
    for (const char *name : {"/align", "/device/align", "/device/dax_region/align"}) {
        medium.unit = number_in(directory + name);
        if (medium.unit != 0) break;
    }
    if (medium.unit < 4096 || (medium.unit & (medium.unit - 1)) != 0)
        return Error(EINVAL, "sysfs does not show the alignment of the device-DAX node");
    if (medium.unit > kUnitMax) return advice_for_align(directory, medium.unit);
    if (medium.size < kSizeMin) return advice_for_size(directory, medium.size);
    return medium;
}

Result<Medium> look_at(int fd) {
    struct statx st {};
    struct statfs fs {};
    if (::statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &st) != 0 || ::fstatfs(fd, &fs) != 0)
        return Error(errno, "cannot determine the type of the medium");
    const dev_t device = makedev(st.stx_rdev_major, st.stx_rdev_minor);
    if (S_ISCHR(st.stx_mode)) return look_at_dax_device(sysfs_of("char", device));
    if (S_ISDIR(st.stx_mode)) return Error(EISDIR, "a directory, not a device or file");
    if (S_ISBLK(st.stx_mode)) return advice_for_block(sysfs_of("block", device));
    if (!S_ISREG(st.stx_mode)) return Error(EINVAL, "neither a device nor a regular file");
    if (st.stx_size == 0)
        return Error(EINVAL, "the file is empty: give it a size with mkfs.pmfs --size");

    Medium medium;
    medium.size = st.stx_size;
    medium.dax_file = (st.stx_attributes & STATX_ATTR_DAX) != 0;
    medium.disk_sequence = disk_sequence_of(makedev(st.stx_dev_major, st.stx_dev_minor));
    if (fs.f_type == HUGETLBFS_MAGIC) {
        medium.kind = MediumKind::memory;
        medium.unit = static_cast<std::uint64_t>(fs.f_bsize);
    } else if (fs.f_type == TMPFS_MAGIC) {  // memfd_create(2) too
        medium.kind = MediumKind::memory;
    }
    return medium;
}

}  // namespace pmfs::pm
