// Asks and tells sysfs.
#include "mkfs/device.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cstdlib>
#include <fstream>
#include <memory>

#include "base/file_descriptor.h"
#include "base/sysfs.h"

namespace pmfs::mkfs {
namespace {

// Empty: the path is no character device.
std::string folder_of(const std::string &path) {
    struct stat st {};
    if (::stat(path.c_str(), &st) != 0 || !S_ISCHR(st.st_mode)) return "";
    return sysfs_of("char", st.st_rdev);
}

}  // namespace

Result<> require_volatile(const std::string &path) {
    const std::string directory = folder_of(path);
    if (directory.empty()) return Error(EINVAL, "--volatile is only for device-DAX nodes");
    return require_volatile_dax(directory);
}

// Persistent memory is on an NVDIMM bus, whoever made it known (ACPI, CXL, a device tree); volatile
// memory that is not RAM (CXL, HBM) is on none.  Only memmap= makes a bus for memory of any kind.
Result<> require_volatile_dax(const std::string &directory) {
    const std::unique_ptr<char, decltype(&std::free)> real(::realpath(directory.c_str(), nullptr),
                                                           &std::free);
    if (!real) return Error(ENODEV, "sysfs does not show the device");
    const std::string node = real.get();
    const std::size_t bus = node.find("/ndbus");
    if (bus == std::string::npos) return {};
    std::string provider;
    std::ifstream(node.substr(0, node.find('/', bus + 1)) + "/provider") >> provider;
    if (provider == "e820") return {};
    return Error(EINVAL,
                 "it is persistent memory, and --volatile was given (has the number of the device "
                 "changed? see daxctl list and ndctl list -NR)");
}

void announce(const std::string &path) {
    const std::string directory = folder_of(path);
    if (directory.empty()) return;
    const FileDescriptor event(::open((directory + "/uevent").c_str(), O_WRONLY | O_CLOEXEC));
    if (event.ok()) (void)!::write(event.get(), "change", 6);
}

}  // namespace pmfs::mkfs
