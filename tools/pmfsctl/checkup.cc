// Reads a few files of sysfs and procfs, and knows the command for each thing that is wrong.
#include "checkup.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "base/units.h"

namespace pmfs::ctl {
namespace {

namespace fs = std::filesystem;
using enum Finding::Grade;

constexpr std::uint64_t kVolumeMin = 4 << 20, kUnitMax = 2 << 20;
constexpr const char *kRemake =
    "ndctl create-namespace --mode=devdax --align=2M --force --reconfig=";

// The first line of a file; empty when there is none.
std::string line_of(const std::string &path) {
    std::ifstream file(path);
    std::string line;
    std::getline(file, line);
    return line;
}

std::uint64_t number_in(const std::string &path) {
    return std::strtoull(line_of(path).c_str(), nullptr, 0);
}

bool there(const std::string &path) {
    std::error_code error;
    return fs::exists(path, error);
}

// The last component of a link's target; empty when it is not a link.
std::string target_name(const std::string &link) {
    std::error_code error;
    return fs::read_symlink(link, error).filename().string();
}

Finding check_fuse(const std::string &root) {
    if (there(root + "/dev/fuse")) return {good, "fuse", "/dev/fuse exists", ""};
    // (The kernel has it, and this is a container or a bare /dev.)
    if (there(root + "/sys/fs/fuse"))
        return {wrong, "fuse", "the kernel has FUSE, but /dev/fuse does not exist",
                "mknod -m 666 /dev/fuse c 10 229"};
    return {wrong, "fuse", "the kernel's FUSE is not loaded", "modprobe fuse"};
}

Finding check_uring(const std::string &root) {
    const std::string file = root + "/proc/sys/kernel/io_uring_disabled";
    const auto value = there(file) ? number_in(file) : 0;
    if (value == 0) return {good, "io_uring", "io_uring is allowed", ""};
    return {
        note, "io_uring",
        fmt::format("io_uring is disabled {} (kernel.io_uring_disabled is {}): no requests over "
                    "io_uring (transport=), and no registered buffers",
                    value == 1 ? "for users without CAP_SYS_ADMIN" : "for all users", value),
        "sysctl -w kernel.io_uring_disabled=0"};
}

// The soft limit of a line of /proc/PID/limits.
Finding check_memlock(const std::string &root) {
    std::ifstream limits(root + "/proc/self/limits");
    constexpr std::string_view kName = "Max locked memory";
    constexpr std::uint64_t kEnough = 64 << 20;
    for (std::string line; std::getline(limits, line);) {
        if (!line.starts_with(kName)) continue;
        const std::string value = line.substr(line.find_first_not_of(' ', kName.size()));
        const std::uint64_t bytes = std::strtoull(value.c_str(), nullptr, 10);
        if (value.starts_with("unlimited") || bytes >= kEnough) break;
        return {
            note, "memlock",
            fmt::format("a process without CAP_IPC_LOCK may pin only {} (RLIMIT_MEMLOCK): RDMA, "
                        "io_uring buffers and pins need more",
                        size_words(bytes)),
            "echo '* - memlock unlimited' > /etc/security/limits.d/pmfs.conf   (and log in again; "
            "a systemd unit: LimitMEMLOCK=infinity)"};
    }
    return {good, "memlock", "the limit on pinned memory is sufficient (RLIMIT_MEMLOCK)", ""};
}

// The namespace of ndctl that is behind a device of the NVDIMM bus; empty: none.
std::string namespace_of(const fs::path &device) {
    std::error_code error;
    const fs::path real = fs::canonical(device, error);
    if (error) return "";
    for (const fs::path &place : {real, real.parent_path()}) {
        if (place.filename().string().starts_with("namespace")) return place.filename();
        std::string name = line_of(place / "namespace");
        if (name.starts_with("namespace")) return name;
    }
    return "";
}

// The command that creates the namespace of a node again, with 2 MiB pages, which destroys all data
// on it; or, for memory that has no namespace, the one that reconfigures the node with `option`.
// (The kernel never deletes daxX.0, so `daxctl destroy-device` fails in Debian 12.)
std::string remake(const std::string &sysfs, const std::string &name, std::string_view option) {
    const std::string of_namespace = namespace_of(sysfs);
    if (!of_namespace.empty()) return kRemake + of_namespace;
    return fmt::format(
        "daxctl disable-device {0} && daxctl reconfigure-device {1} {0} && daxctl enable-device "
        "{0}",
        name, option);
}

// Which driver a device-DAX node has: that is its mode.
Finding check_mode(const std::string &sysfs, const std::string &name) {
    const std::string driver = target_name(sysfs + "/driver");
    if (driver == "device_dax") return {good, "mode", name + " is in devdax mode", ""};
    if (driver == "kmem")
        return {wrong, "mode", name + " is in system-ram mode: the kernel uses it as memory",
                "daxctl reconfigure-device --mode=devdax --force " + name};
    if (driver == "fsdev_dax")
        return {wrong, "mode",
                name + " is in famfs mode (the fsdev driver), which cannot be mapped by programs",
                fmt::format(
                    "daxctl reconfigure-device --mode=devdax {0}   (an older daxctl: echo {0} > "
                    "/sys/bus/dax/drivers/fsdev_dax/unbind; echo {0} > "
                    "/sys/bus/dax/drivers/device_dax/bind)",
                    name)};
    if (driver.empty())
        return {wrong, "mode", name + " is disabled: it has no driver",
                "daxctl enable-device " + name};
    return {wrong, "mode", fmt::format("{} has the unknown driver {}", name, driver),
            "daxctl reconfigure-device --mode=devdax --force " + name};
}

Finding check_align(const std::string &sysfs, const std::string &name) {
    std::uint64_t align = 0;
    // The attribute's place in sysfs has changed (in Linux 5.1 and 5.10).
    for (const char *place : {"/align", "/device/align", "/dax_region/align"})
        if (align == 0) align = number_in(sysfs + place);
    const std::string what = fmt::format("it is mapped in pages of {}", size_words(align));
    if (align == 0) return {note, "align", "the kernel does not report its alignment", ""};
    if (align > kUnitMax)
        return {wrong, "align",
                what +
                    ", but pmfs requires 4 KiB or 2 MiB (if it is a namespace, the command "
                    "destroys all data on it)",
                remake(sysfs, name, "--align=2M")};
    if (align < kUnitMax)
        return {note, "align",
                what +
                    ": 512 times the page faults of 2 MiB (if it is a namespace, the command "
                    "destroys all data on it)",
                remake(sysfs, name, "--align=2M")};
    return {good, "align", what, ""};
}

Finding check_size(const std::string &sysfs, const std::string &name) {
    const std::uint64_t size = number_in(sysfs + "/size");
    if (size >= kVolumeMin) return {good, "size", "it has " + size_words(size), ""};
    return {wrong, "size",
            fmt::format(
                "it has {}, but a volume needs at least 4 MiB (if it is a namespace, the command "
                "destroys all data on it; otherwise `daxctl list -R` shows the SIZE of its region)",
                size_words(size)),
            remake(sysfs, name, "--size=SIZE")};
}

std::vector<Finding> check_node(const std::string &root, const std::string &name) {
    const std::string sysfs = root + "/sys/bus/dax/devices/" + name;
    if (!there(sysfs))
        return {{wrong, "device",
                 "there is no device-DAX node " + name +
                     " (ndctl list -N and daxctl list "
                     "show what there is)",
                 "ndctl create-namespace --mode=devdax --align=2M"}};
    std::vector<Finding> found{check_mode(sysfs, name)};
    if (found.front().grade == wrong) return found;
    if (!there(root + "/dev/" + name))
        found.push_back({wrong, "device",
                         "the kernel has " + name + ", but /dev/" + name + " does not exist",
                         fmt::format("mknod -m 600 /dev/{} c {}", name, [&] {
                             std::string number = line_of(sysfs + "/dev");
                             std::ranges::replace(number, ':', ' ');
                             return number;
                         }())});
    found.push_back(check_align(sysfs, name));
    found.push_back(check_size(sysfs, name));
    return found;
}

Finding check_disk(const std::string &root, const std::string &name) {
    const std::string sysfs = root + "/sys/class/block/" + name;
    const std::string of_namespace = namespace_of(sysfs + "/device");
    if (of_namespace.empty())
        return {wrong, "mode",
                name +
                    " is a disk, not persistent memory: use an image file on a filesystem there, "
                    "or a device-DAX node",
                "daxctl list"};
    return {wrong, "mode",
            name +
                " is a disk: its namespace is in fsdax, sector or raw mode, but pmfs needs devdax "
                "(the command destroys all data on it)",
            kRemake + of_namespace};
}

}  // namespace

std::vector<Finding> check_machine(const std::string &root) {
    return {check_fuse(root), check_uring(root), check_memlock(root)};
}

std::vector<Finding> check_device(const std::string &root, const std::string &device) {
    const std::string name = fs::path(device).filename();
    if (name.starts_with("dax")) return check_node(root, name);
    if (there(root + "/sys/class/block/" + name)) return {check_disk(root, name)};
    return {};
}

}  // namespace pmfs::ctl
