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
// its capabilities, but has no filter, and may be looked at.
#ifdef PMFS_INSTRUMENTED
inline constexpr bool kInstrumented = true;
#else
inline constexpr bool kInstrumented = false;
#endif

// Of this process: every capability but these (CAP_*), in all five sets; and no program that it
// executes gets any (no new privileges).  Before any thread is started, for each has its own sets.
// Those that it does not have are no error.
Result<> keep_capabilities(std::span<const int> kept);

// No core dump, and no other process may look at this one's memory (ptrace(2), /proc/PID/mem, a
// copy of a descriptor) unless it may look at every process's.
Result<> forbid_dumps();

// Which files this thread, and those that it starts, may open by their names from now on: these and
// what is below them, and no others.  What is open stays open.  After keep_capabilities().
// EOPNOTSUPP: the kernel has no Landlock (Linux 5.13, or it is off); nothing has changed then.
struct KeptFiles {
    enum class For { reading, writing, sockets } use;  // sockets: to be made and removed there
    std::string path;                                  // one that is not there is no error
};
Result<> keep_files(std::span<const KeptFiles> kept);

// What a server needs for as long as it lives, where the medium is not its own user's or /proc
// hides others: empty on most machines.
std::vector<int> capabilities_to_keep(int medium);

}  // namespace pmfs::front
