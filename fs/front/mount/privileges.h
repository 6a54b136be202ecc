// What a server gives up before it reads a byte of the medium, and before it serves clients.
//
// docs/security.md says what is left, and decision 18 why.
#pragma once
#include <span>
#include <string>
#include <vector>

#include "base/result.h"

namespace pmfs::front {

// Programs that are built with sanitizers or to count lines need more than a server does: leak
// checks attach to the process, counters are written to files when it ends.  Such a build gives up
// its capabilities, but has no filter, and may be traced.
#ifdef PMFS_INSTRUMENTED
inline constexpr bool kInstrumented = true;
#else
inline constexpr bool kInstrumented = false;
#endif

// Drops every capability of this process but these (CAP_*), in all five sets; and programs that it
// executes get none (no new privileges).  Before any thread is started, for each has its own sets.
// It is no error if it lacks one of them.
Result<> keep_capabilities(std::span<const int> kept);

// Forbids core dumps, and keeps other processes from reading this one's memory (ptrace(2),
// /proc/PID/mem, a copy of a descriptor) unless it may look at every process's.
Result<> forbid_dumps();

// From now on this thread, and those that it starts, may open only these files by name, and what is
// below them.  Open files stay open.  After keep_capabilities().  EOPNOTSUPP: the kernel has no
// Landlock (Linux 5.13, or it is off); nothing has changed then.
struct KeptFiles {
    enum class For { reading, writing, sockets } use;  // sockets: to be made and removed there
    std::string path;                                  // it need not exist
};
Result<> keep_files(std::span<const KeptFiles> kept);

// The capabilities that a server must keep, if the medium belongs to another user or /proc hides
// other users' processes: none on most machines.
std::vector<int> capabilities_to_keep(int medium);

}  // namespace pmfs::front
