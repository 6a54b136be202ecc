// Mount tables: what is mounted where, in this mount namespace and in others.
#pragma once
#include <sys/types.h>

#include <functional>
#include <string>
#include <vector>

namespace pmfs {

struct Mount {  // a row of /proc/PID/mountinfo, unescaped
    dev_t device = 0;
    std::string point;  // as the process sees it, from its root
    std::string type, source;
};
// What a process sees; 0: this one.  Empty when that is not known.
std::vector<Mount> mounts_of(pid_t process);

struct MountPlace {
    pid_t process = 0;  // one that lives there
    bool here = false;  // in the mount namespace of the caller
    Mount mount;
};
// The mounts that are `wanted`, in every mount namespace in which a process lives, the caller's
// first.  (A namespace that has no process, or none that /proc shows, is not examined.)
std::vector<MountPlace> find_mounts(const std::function<bool(const Mount &)> &wanted);

// True when another process lives in the caller's mount namespace.
bool shares_mount_namespace();

}  // namespace pmfs
