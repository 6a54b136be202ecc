// mount(2) and umount2(2), in all mount namespaces that have the mount.
#include "front/mount/mount_point.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#include <cstring>

namespace pmfs::front {
namespace {

constexpr const char *kType = "fuse.pmfs";

// The number of the filesystem that is mounted on `directory`.  Without asking its server, which
// does not answer yet.
int device_of(const char *directory, dev_t *device) {
    struct statx found {};
    if (::statx(AT_FDCWD, directory, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, 0, &found) != 0)
        return errno;
    *device = makedev(found.stx_dev_major, found.stx_dev_minor);
    return 0;
}

}  // namespace

std::optional<std::string> MountPoint::objection(const std::string &directory) {
    struct stat st {};
    struct statfs fs {};
    // (statfs always asks the server; for one that has died the kernel may still answer stat.)
    if (::stat(directory.c_str(), &st) == 0 && ::statfs(directory.c_str(), &fs) == 0) {
        if (S_ISDIR(st.st_mode)) return {};
        return fmt::format("{}: not a directory", directory);
    }
    switch (errno) {
        case ENOENT:
            return fmt::format("{}: there is no such directory (create it with mkdir)", directory);
        case ENOTCONN:
            return fmt::format(
                "{0}: a mount whose server has died is still there: run "
                "`umount -l {0}` and mount again",
                directory);
        default:
            return fmt::format("{}: {}", directory, std::strerror(errno));
    }
}

Result<FileDescriptor> MountPoint::open_device() {
    FileDescriptor device(::open("/dev/fuse", O_RDWR | O_CLOEXEC));
    if (device.ok()) return device;
    if (errno == ENOENT || errno == ENODEV || errno == ENXIO)
        return Error(errno,
                     "/dev/fuse does not exist: load the kernel's FUSE with `modprobe fuse`");
    return Error(errno, "cannot open /dev/fuse (only root can mount)");
}

Error MountPoint::refusal(int error) {
    switch (error) {
        case EPERM:
            return Error(error, "only root can mount a volume");
        case ENODEV:
            return Error(error, "this kernel has no FUSE (load it with `modprobe fuse`)");
        case ECHILD:
            return Error(error, "the process that was to mount the volume was killed; try again");
        default:
            return Error(error, "the kernel refused the mount");
    }
}

Result<MountPoint> MountPoint::make(const ServeOptions &options, const Surroundings &where,
                                    const FileDescriptor &device) {
    const std::string data = fmt::format(
        "fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions", device.get());
    // The child that mounts reports its result in shared memory.
    void *shared =
        ::mmap(nullptr, sizeof(dev_t), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        return Error(errno, "not enough memory for a page that is shared with a child process");
    auto *number = static_cast<dev_t *>(shared);
    const int error = act_in(where, [&] {
        const int done = ::mount(options.source.c_str(), options.directory.c_str(), kType,
                                 options.mount_flags, data.c_str());
        return done == 0 ? device_of(options.directory.c_str(), number) : errno;
    });
    MountPoint made;
    made.number_ = *number;
    ::munmap(shared, sizeof(dev_t));
    if (error != 0) return refusal(error);
    return made;
}

unsigned MountPoint::connection() const {
    return minor(number_);
}

Result<> MountPoint::remount(const ServeOptions &options) {
    Surroundings where;
    if (!options.mount_namespace.empty()) where = TRY(Surroundings::of(options.mount_namespace));
    const int error = act_in(where, [&] {
        const int done = ::mount(options.source.c_str(), options.directory.c_str(), kType,
                                 options.mount_flags, nullptr);
        return done == 0 ? 0 : errno;
    });
    if (error != 0) return Error(error, "the kernel refused to change the mount");
    return {};
}

// Wherever it is mounted by now: a mount may have been moved, or copied to other namespaces.
Result<> MountPoint::everywhere(const std::function<int(const char *point)> &act) const {
    int failure = 0;
    for (const MountPlace &place :
         find_mounts([this](const Mount &mount) { return mount.device == number_; })) {
        Surroundings where;
        if (!place.here) {
            auto there = Surroundings::of(place.process);
            if (!there.ok()) continue;  // its last process has just ended
            where = std::move(there).take();
        }
        const int error = act_in(where, [&] { return act(place.mount.point.c_str()); });
        // (It was removed together with another one that it was copied from.)
        if (error != 0 && error != EINVAL && error != ENOENT) failure = error;
    }
    if (failure != 0) return Error(failure, "cannot unmount");
    return {};
}

void MountPoint::write_back() const {
    (void)everywhere([](const char *point) {
        const FileDescriptor root(::open(point, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        return root.ok() && ::syncfs(root.get()) == 0 ? 0 : errno;
    }).ok();
}

void MountPoint::force() {
    (void)everywhere([](const char *point) {
        return ::umount2(point, UMOUNT_NOFOLLOW | MNT_FORCE) == 0 ? 0 : errno;
    }).ok();
}

Result<> MountPoint::unmount(bool detach) {
    return everywhere([detach](const char *point) {
        const int flags = UMOUNT_NOFOLLOW | (detach ? MNT_DETACH : 0);
        return ::umount2(point, flags) == 0 ? 0 : errno;
    });
}

}  // namespace pmfs::front
