// The mount namespace in which the server lives, and how it acts in another one.
//
// A process keeps its mount namespace alive, and with it all mounts in there. A server that stayed
// in the namespace in which it was started would keep filesystems busy that it does not use, and
// the whole tree of a container, even after the container's last process has ended. So the server
// moves to a namespace of its own, which has only a few mounts, and enters the other one in a child
// process when it has to mount or unmount.
#pragma once
#include <string>
#include <vector>

#include "base/file_descriptor.h"
#include "base/mounts.h"
#include "base/result.h"

namespace pmfs::front {

// A mount namespace and a root directory in it, for as long as this lives.  Without descriptors:
// where the caller is.
struct Surroundings {
    FileDescriptor mount_namespace;
    FileDescriptor root;  // none: the namespace's own

    // `path` of a namespace; empty: that of the caller, with its root.
    static Result<Surroundings> of(const std::string &path);
    static Result<Surroundings> of(pid_t process);
};

// Calls `act` there, in a child process: a process with threads cannot enter a namespace.  `act`
// gives 0 or an errno value, which is returned, and consists of system calls only.  ECHILD: the
// child was killed.
int act_in(const Surroundings &there, const std::function<int()> &act);

// Leaves: only the mounts that lead to `kept` paths stay.  Before any thread is started.  False
// when it stayed where it is, because no other process keeps that namespace (for instance, if the
// server is the only process of a container): a mount there would disappear at once.
Result<bool> leave_mount_namespace(const std::vector<std::string> &kept);

}  // namespace pmfs::front
