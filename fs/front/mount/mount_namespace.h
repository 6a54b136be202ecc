// In which mount namespace the server lives, and how it acts in another one.
//
// A process holds its mount namespace alive, and with it everything that is mounted there.  A
// server that lived where it was started would pin filesystems that have nothing to do with it, and
// a container's whole tree, also after the last process of the container.  So it leaves: it goes
// on in a namespace of its own, which holds a few mounts only, and enters the other one as a child
// process when there is something to mount or to unmount.
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
// gives 0 or an errno value, which is returned, and consists of system calls only.
int act_in(const Surroundings &there, const std::function<int()> &act);

// Leaves: nothing stays but the mounts that lead to `kept` paths.  Before any thread is started.
// False when it stayed where it is, because nobody else keeps that namespace (a server that is all
// there is in a container, say): a mount there would be gone at once.
Result<bool> leave_mount_namespace(const std::vector<std::string> &kept);

}  // namespace pmfs::front
