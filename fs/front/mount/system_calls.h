// The system calls that a server makes while it serves, and what happens to all others (seccomp).
#pragma once
#include <optional>
#include <string_view>

#include "base/result.h"

namespace pmfs::front {

// What happens to a call that is not on the list (mount.pmfs(8), -o seccomp=).
enum class Seccomp {
    refuse,  // ENOSYS, as on a kernel that does not have it; what only an attack does ends the
             // server
    kill,    // it ends the server
    trap,    // SIGSYS, for a debugger
    log,     // it is allowed, and logged in the kernel's audit log
    none,    // there is no filter
};
std::optional<Seccomp> seccomp_of(std::string_view word);
std::string_view word_of(Seccomp mode);

// For all threads of the process, for good.  EOPNOTSUPP: the kernel, or the container, does not
// support it; nothing has changed then.
Result<> filter_system_calls(Seccomp mode);

}  // namespace pmfs::front
