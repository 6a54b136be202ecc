// Looks for data that would be lost, with libblkid.
#include "mkfs/probe.h"

#include <blkid/blkid.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "base/bytes.h"
#include "base/file_descriptor.h"
#include "media/verify.h"
#include "pm/advise.h"

namespace pmfs::mkfs {
namespace {

// As much of a device-DAX device as signatures at its start need.
constexpr std::uint64_t kHeadSize = 2 * kMiB;

struct FreeProbe {
    void operator()(blkid_probe probe) const { blkid_free_probe(probe); }
};
using Probe = std::unique_ptr<std::remove_pointer_t<blkid_probe>, FreeProbe>;

Probe probe_of(int fd) {
    Probe probe(blkid_new_probe());
    if (probe == nullptr || blkid_probe_set_device(probe.get(), fd, 0, 0) != 0) return nullptr;
    blkid_probe_enable_superblocks(probe.get(), 1);
    blkid_probe_set_superblocks_flags(probe.get(), BLKID_SUBLKS_TYPE | BLKID_SUBLKS_MAGIC);
    blkid_probe_enable_partitions(probe.get(), 1);
    blkid_probe_set_partitions_flags(probe.get(), BLKID_PARTS_MAGIC);
    return probe;
}

// A device-DAX has no read(2); libblkid gets a copy of its start.
Result<FileDescriptor> copy_of_head(const pm::Region &region) {
    FileDescriptor copy(::memfd_create("pmfs-probe", MFD_CLOEXEC));
    if (!copy.ok()) return Error(EIO, "not enough memory to examine the device");
    const std::size_t size = std::min(region.size(), kHeadSize);
    for (std::size_t at = 0; at < size;) {
        const ssize_t written = ::write(copy.get(), region.data() + at, size - at);
        if (written <= 0) return Error(EIO, "the device cannot be read");
        at += static_cast<std::size_t>(written);
    }
    return copy;
}

Result<FileDescriptor> readable_fd(const pm::Region &region, const std::string &path) {
    if (region.kind() == pm::MediumKind::devdax) return copy_of_head(region);
    FileDescriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd.ok()) return Error(EIO, "it cannot be read");
    return fd;
}

}  // namespace

Result<std::string> what_is_on(const pm::Region &region, const std::string &path) {
    const ConstBytes bytes(region.data(), region.size());
    const pm::ScatteredAccess scattered(region);
    const auto volume = media::find_superblock(bytes);
    if (volume.ok()) {
        const auto *label = reinterpret_cast<const char *>(volume.value().sb.label);
        const std::string text(label, ::strnlen(label, sizeof volume.value().sb.label));
        return fmt::format("a pmfs volume{}{}",
                           text.empty() ? "" : fmt::format(" with the label \"{}\"", text),
                           volume.value().block == 0 ? "" : " (its superblock is damaged)");
    }
    if (volume.error().errno_value() == ENOTSUP)
        return std::string("a pmfs volume of another version of the format");
    if (media::looks_like_superblock(bytes.first(media::kBlockSize)))
        return std::string("a pmfs volume that is damaged");

    const FileDescriptor fd = TRY(readable_fd(region, path));
    const Probe probe = probe_of(fd.get());
    if (probe == nullptr) return Error(EIO, "libblkid cannot examine it");
    const int found = blkid_do_fullprobe(probe.get());
    if (found == 1) return std::string();
    if (found < 0) return std::string("several signatures, or one that cannot be read");
    const char *name = nullptr;
    if (blkid_probe_lookup_value(probe.get(), "TYPE", &name, nullptr) == 0)
        return fmt::format("a filesystem or other signature: {}", name);
    if (blkid_probe_lookup_value(probe.get(), "PTTYPE", &name, nullptr) == 0)
        return fmt::format("a partition table: {}", name);
    return std::string("a signature that libblkid recognizes");
}

Result<> wipe_signatures(pm::Region &region, const std::string &path) {
    // Device-DAX and hugetlbfs have no write(2).
    if (region.kind() == pm::MediumKind::devdax || region.kind() == pm::MediumKind::memory) {
        region.fence(region.zero(0, std::min(region.size(), kHeadSize)));
        return {};
    }
    const FileDescriptor fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    const Probe probe = fd.ok() ? probe_of(fd.get()) : nullptr;
    if (probe == nullptr) return Error(EIO, "libblkid cannot examine it");
    while (blkid_do_probe(probe.get()) == 0)
        if (blkid_do_wipe(probe.get(), 0) != 0)
            return Error(EIO, "an old signature cannot be erased");
    return {};
}

}  // namespace pmfs::mkfs
