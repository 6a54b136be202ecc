// Finds the namespace behind a node in sysfs.
#include "pm/advice.h"

#include <sys/stat.h>
#include <unistd.h>

#include <climits>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <set>
#include <string_view>

#include "base/mutex.h"
#include "base/sysfs.h"
#include "base/units.h"

namespace pmfs::pm {

namespace {

constexpr std::string_view kReconfigure =
    "ndctl create-namespace --mode=devdax --align=2M --force --reconfig=";

// The sentence of an Error must live for ever (result.h), and these contain names, so they are
// kept.  They are few.
Error forever(int error, std::string sentence) {
    static Mutex mutex;
    static auto &sentences = *new std::set<std::string>;
    const Lock lock(mutex);
    return Error(error, sentences.insert(std::move(sentence)).first->c_str());
}

std::string last_part(const std::string &path) {
    return path.substr(path.rfind('/') + 1);
}

// Where a link of sysfs leads; empty when there is nothing.
std::string real_path(const std::string &path) {
    const std::unique_ptr<char, decltype(&std::free)> real(::realpath(path.c_str(), nullptr),
                                                           &std::free);
    return real ? real.get() : "";
}

bool is_namespace(const std::string &name) {
    return name.rfind("namespace", 0) == 0;
}

// The name of the namespace that a device of the NVDIMM bus belongs to; empty when it is none.
// namespace0.0 itself, or pfn0.1 (fsdax), btt0.1 (sector) and dax0.1 (devdax), which name theirs.
std::string namespace_of(const std::string &device) {
    if (is_namespace(last_part(device))) return last_part(device);
    std::string name;
    std::ifstream(device + "/namespace") >> name;
    return is_namespace(name) ? name : "";
}

// The mode of such a device, as ndctl calls it.
const char *mode_of(const std::string &device) {
    const std::string name = last_part(device);
    if (name.rfind("pfn", 0) == 0) return "fsdax";
    if (name.rfind("btt", 0) == 0) return "sector";
    return "raw";
}

// The namespace that a device-DAX node is; empty when it is none.
std::string namespace_behind(const std::string &directory) {
    const std::string node = real_path(directory);
    return namespace_of(node.substr(0, node.rfind('/')));
}

constexpr const char *kDestroys = " (this destroys all data on it)";

// The command that creates the namespace of a device-DAX node again or, for memory that has none
// (CXL, hmem), reconfigures the node with `option`.  (The kernel never deletes daxX.0, so
// `daxctl destroy-device` fails in Debian 12.)
std::string command_for(const std::string &directory, const std::string &option) {
    const std::string name = namespace_behind(directory);
    if (!name.empty()) return std::string(kReconfigure) + name + kDestroys;
    const std::string device = last_part(real_path(directory));
    return "daxctl disable-device " + device + " && daxctl reconfigure-device " + option + " " +
           device + " && daxctl enable-device " + device;
}

}  // namespace

std::optional<Error> advice_for_missing(const std::string &path, const std::string &sysfs) {
    constexpr std::string_view kPrefix = "/dev/dax";
    if (path.compare(0, kPrefix.size(), kPrefix) != 0) return std::nullopt;
    const std::string device = last_part(path);
    const std::string directory = sysfs + "/bus/dax/devices/" + device;
    if (::access(directory.c_str(), F_OK) != 0)
        return Error(
            ENOENT,
            "there is no such device-DAX node (ndctl list -N shows the namespaces, and ndctl "
            "create-namespace --mode=devdax --align=2M creates one if there is space)");
    const std::string driver = last_part(real_path(directory + "/driver"));
    if (driver == "kmem")
        return forever(ENODEV,
                       "is in use as system RAM, but pmfs needs device-DAX: daxctl "
                       "reconfigure-device --mode=devdax --force " +
                           device);
    return forever(ENODEV, "is disabled: daxctl enable-device " + device);
}

Error advice_for_block(const std::string &directory) {
    const std::string device = real_path(directory + "/device");
    const std::string name = namespace_of(device);
    if (name.empty())
        return Error(
            ENODEV,
            "a block device, not persistent memory: use a device-DAX node (daxctl list) or an "
            "image file");
    return forever(ENODEV, std::string("a namespace in ") + mode_of(device) +
                               " mode, but pmfs needs device-DAX: " + std::string(kReconfigure) +
                               name + kDestroys);
}

Error advice_for_align(const std::string &directory, std::uint64_t align) {
    return forever(
        EINVAL, "is aligned to " + size_words(align) +
                    ", but pmfs requires 4 KiB or 2 MiB: " + command_for(directory, "--align=2M"));
}

Error advice_for_size(const std::string &directory, std::uint64_t size) {
    return forever(EINVAL, "has " + size_words(size) + ", but a volume needs at least 4 MiB: " +
                               command_for(directory, "--size=SIZE"));
}

Error advice_for_unit(const Region &region, std::uint64_t unit) {
    std::string sentence = "has a mapping unit of " + size_words(unit) +
                           ", but is now on a medium with pages of " +
                           size_words(region.mapping_unit());
    struct stat st {};
    if (region.kind() == MediumKind::devdax && ::stat(region.path().c_str(), &st) == 0) {
        const std::string name = namespace_behind(sysfs_of("char", st.st_rdev));
        if (!name.empty())
            sentence +=
                ": copy its files (mount -o ro), or restore the namespace's alignment: ndctl "
                "create-namespace --mode=devdax --align=4K --force --reconfig=" +
                name;
    }
    return forever(EINVAL, std::move(sentence));
}

}  // namespace pmfs::pm
