// open_region(): which kind of region a path is, with the volume's lock held round it.
#include <fcntl.h>
#include <sys/stat.h>

#include "base/blocking.h"
#include "pm/advice.h"
#include "pm/dax_region.h"
#include "pm/image_region.h"
#include "pm/lock.h"
#include "pm/medium.h"
#include "pm/private_region.h"

namespace pmfs::pm {

namespace {

Error open_error(int error, bool write) {
    switch (error) {
        case ENOENT:
            return Error(ENOENT, "no such file or device");
        case EACCES:
        case EPERM:
            return write ? Error(EACCES, "no permission to write to it")
                         : Error(EACCES, "no permission to read it");
        case EROFS:
            return Error(EROFS, "is on a filesystem that is mounted read-only");
        case EISDIR:
            return Error(EISDIR, "a directory, not a device or file");
        case ENXIO:
        case ENODEV:
            return Error(ENODEV, "the device no longer exists");
        case ETXTBSY:
            return Error(ETXTBSY, "is being executed as a program");
        default:
            return Error(error, "cannot be opened");
    }
}

Result<FileDescriptor> open_path(const std::string &path, bool write) {
    // Non-blocking: a pipe without a writer must not block the server, and a lease holder can only
    // delay it.
    FileDescriptor fd(::open(path.c_str(), (write ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK));
    if (fd.ok()) return fd;
    const Error error = open_error(errno, write);
    const bool missing = error.errno_value() == ENOENT || error.errno_value() == ENODEV;
    return missing ? advice_for_missing(path).value_or(error) : error;
}

// Another description of the same file.  Opened through /proc, since the path may name another file
// by now; without /proc by the path, and then only if it still names the same file.
Result<FileDescriptor> open_again(const FileDescriptor &fd, const std::string &path, bool write) {
    if (auto again = open_path("/proc/self/fd/" + std::to_string(fd.get()), write); again.ok())
        return again;
    FileDescriptor again = TRY(open_path(path, write));
    struct stat was {
    }, is{};
    if (::fstat(fd.get(), &was) != 0 || ::fstat(again.get(), &is) != 0 || was.st_dev != is.st_dev ||
        was.st_ino != is.st_ino)
        return Error(EAGAIN, "was replaced by another file meanwhile; try again");
    return again;
}

// Maps a file that is neither memory nor a device: with DAX if the filesystem can, otherwise as an
// image.
MappedResult open_file(FileDescriptor fd, const Medium &medium, const std::string &path,
                       const OpenOptions &options) {
    const bool write = !options.read_only && !options.private_copy;
    MediumKind kind = MediumKind::image;
    if (medium.dax_file) {
        FileDescriptor again = TRY(open_again(fd, path, write));
        auto region = DaxRegion::persistent(MediumKind::fsdax, std::move(again), medium, !write);
        if (!region.ok() && region.error().errno_value() != ENOTSUP) return region.error();
        if (region.ok()) {
            if (!options.private_copy) return region;
            kind = MediumKind::fsdax;
        }
    }
    if (options.private_copy) return PrivateRegion::make(kind, std::move(fd), medium);
    return ImageRegion::make(std::move(fd), medium, options.read_only);
}

MappedResult open_medium(FileDescriptor fd, const Medium &medium, const std::string &path,
                         const OpenOptions &options) {
    if (medium.kind == MediumKind::image) return open_file(std::move(fd), medium, path, options);
    if (options.private_copy) return PrivateRegion::make(medium.kind, std::move(fd), medium);
    if (medium.kind == MediumKind::devdax)
        return options.read_only ? DaxRegion::device_for_reading(std::move(fd), medium)
                                 : DaxRegion::persistent(medium.kind, std::move(fd), medium, false);
    return DaxRegion::volatile_memory(std::move(fd), medium, options.read_only);
}

}  // namespace

Result<FileDescriptor> open_anew(int fd, bool writable) {
    const std::string path = "/proc/self/fd/" + std::to_string(fd);
    FileDescriptor again(::open(path.c_str(), (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC));
    if (!again.ok()) return Error(errno, "cannot open the medium again");
    return again;
}

Result<FileDescriptor> Region::open_again(bool writable) const {
    may_block("open of the medium");
    return opener_ ? opener_(writable) : open_anew(mapping_fd(), writable);
}

Result<> MappedRegion::extend(std::uint64_t size) {
    if (size <= this->size()) return {};
    if (size > TRY(medium_size()))
        return Error(EINVAL, "the medium is smaller than the requested size");
    TRY(extend_views(size));
    size_.store(size, std::memory_order_release);
    return {};
}

Result<std::unique_ptr<Region>> open_region(const std::string &path, const OpenOptions &options) {
    const bool write = !options.read_only && !options.private_copy;
    FileDescriptor lock = TRY(open_path(path, write));
    FileDescriptor fd;
    if (options.exclusive) {
        TRY(options.patient ? lock_volume_patiently(lock.get(), path) : lock_volume(lock.get()));
        fd = TRY(open_again(lock, path, write));
    } else {
        fd = std::exchange(lock, FileDescriptor());
    }
    const Medium medium = TRY(look_at(fd.get()));
    auto region = TRY(open_medium(std::move(fd), medium, path, options));
    region->keep(std::move(lock), path, medium.disk_sequence);
    return region;
}

Result<std::unique_ptr<Region>> memory_region(std::uint64_t size) {
    const FileDescriptor fd(::memfd_create("pmfs", MFD_CLOEXEC));
    if (!fd.ok() || ::ftruncate(fd.get(), static_cast<off_t>(size)) != 0)
        return Error(errno, "cannot create a memory region");
    return open_region("/proc/self/fd/" + std::to_string(fd.get()), {});
}

}  // namespace pmfs::pm
