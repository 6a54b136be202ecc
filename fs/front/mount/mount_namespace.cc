// setns(2), unshare(2), and taking away the copies of mounts that unshare makes.
#include "front/mount/mount_namespace.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

namespace pmfs::front {
namespace {

constexpr const char *kOwnNamespace = "/proc/self/ns/mnt";

FileDescriptor open_path(const std::string &path, int flags) {
    return FileDescriptor(::open(path.c_str(), flags | O_CLOEXEC));
}

// In the child.  0 or errno.
int enter(const Surroundings &there) {
    // (The kernel refuses setns(2) where a root directory is shared, as with a sanitizer's thread.)
    if (::unshare(CLONE_FS) != 0) return errno;
    if (::setns(there.mount_namespace.get(), CLONE_NEWNS) != 0) return errno;
    if (!there.root.ok()) return 0;
    return ::fchdir(there.root.get()) == 0 && ::chroot(".") == 0 ? 0 : errno;
}

// `path` is `base`, or below it.
bool is_in(const std::string &path, const std::string &base) {
    if (base == "/") return true;
    return path.starts_with(base) && (path.size() == base.size() || path[base.size()] == '/');
}

// One pass over the table: from the top, so that no path leads through a filesystem that may hang.
// True when something was taken away.
bool detach_once(const std::vector<std::string> &kept) {
    std::vector<Mount> mounts = mounts_of(0);
    std::ranges::stable_sort(mounts, {}, [](const Mount &mount) { return mount.point.size(); });
    std::vector<std::string> gone;
    for (const Mount &mount : mounts) {
        const std::string &point = mount.point;
        const auto leads_there = [&point](const std::string &path) { return is_in(path, point); };
        const auto took_along = [&point](const std::string &taken) {
            return point != taken && is_in(point, taken);
        };
        if (std::ranges::any_of(kept, leads_there) || std::ranges::any_of(gone, took_along))
            continue;
        if (::umount2(point.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) == 0) gone.push_back(point);
    }
    return !gone.empty();
}

}  // namespace

Result<Surroundings> Surroundings::of(const std::string &path) {
    Surroundings there;
    const bool own = path.empty();
    there.mount_namespace = open_path(own ? kOwnNamespace : path, O_RDONLY);
    if (!there.mount_namespace.ok())
        return Error(errno, "cannot open the mount namespace (is /proc mounted?)");
    if (!own) return there;
    there.root = open_path("/", O_PATH | O_DIRECTORY);
    if (!there.root.ok()) return Error(errno, "cannot open the root directory");
    return there;
}

Result<Surroundings> Surroundings::of(pid_t process) {
    const std::string proc = "/proc/" + std::to_string(process);
    Surroundings there;
    there.mount_namespace = open_path(proc + "/ns/mnt", O_RDONLY);
    there.root = open_path(proc + "/root", O_PATH | O_DIRECTORY);
    if (!there.mount_namespace.ok() || !there.root.ok())
        return Error(errno, "cannot enter the mount namespace of another process");
    return there;
}

int act_in(const Surroundings &there, const std::function<int()> &act) {
    if (!there.mount_namespace.ok()) return act();
    const pid_t child = ::fork();
    if (child < 0) return errno;
    if (child == 0) {
        const int error = enter(there);
        ::_exit((error != 0 ? error : act()) & 0xff);
    }
    int status = 0;
    while (::waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
    return WIFEXITED(status) ? WEXITSTATUS(status) : ECHILD;
}

Result<bool> leave_mount_namespace(const std::vector<std::string> &kept) {
    if (::getpid() == 1 || !shares_mount_namespace()) return false;
    if (::unshare(CLONE_NEWNS) != 0) return Error(errno, "cannot leave the mount namespace");
    // Also outside of a chroot: mounts beside it were copied, too.
    const FileDescriptor own = open_path(kOwnNamespace, O_RDONLY);
    if (!own.ok() || ::setns(own.get(), CLONE_NEWNS) != 0 ||
        ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)
        return Error(errno, "cannot make the mount namespace private");
    constexpr int kPasses = 16;  // one for each mount that another one covers
    for (int i = 0; i < kPasses && detach_once(kept); ++i) continue;
    return true;
}

}  // namespace pmfs::front
