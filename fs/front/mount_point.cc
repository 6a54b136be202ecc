// mount(2) and umount2(2), in the mount namespace that was asked for.
#include "front/mount_point.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cstring>

namespace pmfs::front {
namespace {

constexpr const char *kType = "fuse.pmfs";

// Calls `act` (which returns 0 or an errno value) in another mount namespace, in a child process: a
// process with threads cannot enter one.  Only system calls happen in the child.
template <class Act>
int act_in(const std::string &mount_namespace, Act act) {
    if (mount_namespace.empty()) return act();
    const pid_t child = ::fork();
    if (child < 0) return errno;
    if (child == 0) {
        const int fd = ::open(mount_namespace.c_str(), O_RDONLY | O_CLOEXEC);
        if (fd < 0 || ::setns(fd, CLONE_NEWNS) != 0) ::_exit(errno & 0xff);
        ::_exit(act() & 0xff);
    }
    int status = 0;
    while (::waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
    return WIFEXITED(status) ? WEXITSTATUS(status) : EIO;
}

}  // namespace

std::optional<std::string> MountPoint::objection(const std::string &directory) {
    struct stat st {};
    if (::stat(directory.c_str(), &st) == 0) {
        if (S_ISDIR(st.st_mode)) return {};
        return fmt::format("{}: is not a directory", directory);
    }
    switch (errno) {
        case ENOENT:
            return fmt::format("{}: there is no such directory (mkdir makes it)", directory);
        case ENOTCONN:
            return fmt::format(
                "{0}: a mount whose server has died is still there: run "
                "`umount -l {0}` and mount again",
                directory);
        default:
            return fmt::format("{}: {}", directory, std::strerror(errno));
    }
}

Result<MountPoint> MountPoint::make(const ServeOptions &options) {
    MountPoint made;
    made.directory_ = options.directory;
    made.mount_namespace_ = options.mount_namespace;
    made.device_ = FileDescriptor(::open("/dev/fuse", O_RDWR | O_CLOEXEC));
    if (!made.device_.ok()) {
        if (errno == ENOENT || errno == ENODEV || errno == ENXIO)
            return Error(errno,
                         "there is no /dev/fuse: the kernel's FUSE is missing (`modprobe "
                         "fuse` loads it)");
        return Error(errno, "cannot open /dev/fuse (mounting is for root)");
    }
    const std::string data =
        fmt::format("fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions",
                    made.device_.get());
    const int error = act_in(options.mount_namespace, [&] {
        const int done = ::mount(options.source.c_str(), options.directory.c_str(), kType,
                                 options.mount_flags, data.c_str());
        return done == 0 ? 0 : errno;
    });
    switch (error) {
        case 0:
            return made;
        case EPERM:
            return Error(error, "mounting is for root");
        case ENODEV:
            return Error(error, "this kernel has no FUSE (`modprobe fuse` loads it)");
        default:
            return Error(error, "the kernel refused the mount");
    }
}

Result<> MountPoint::remount(const ServeOptions &options) {
    const int error = act_in(options.mount_namespace, [&] {
        const int done = ::mount(options.source.c_str(), options.directory.c_str(), kType,
                                 options.mount_flags, nullptr);
        return done == 0 ? 0 : errno;
    });
    if (error != 0) return Error(error, "the kernel refused to change the mount");
    return {};
}

void MountPoint::write_back() const {
    act_in(mount_namespace_, [&] {
        const FileDescriptor root(::open(directory_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        return root.ok() && ::syncfs(root.get()) == 0 ? 0 : errno;
    });
}

Result<> MountPoint::unmount(bool detach) {
    const int error = act_in(mount_namespace_, [&] {
        const int flags = UMOUNT_NOFOLLOW | (detach ? MNT_DETACH : 0);
        return ::umount2(directory_.c_str(), flags) == 0 ? 0 : errno;
    });
    if (error != 0) return Error(error, "cannot unmount");
    return {};
}

}  // namespace pmfs::front
