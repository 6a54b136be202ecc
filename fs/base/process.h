// Who a process is, beyond its number, which the kernel gives out again.
#pragma once
#include <sys/types.h>

#include <cstdint>

#include "base/file_descriptor.h"

namespace pmfs {

struct Process {
    std::uint32_t pid = 0;         // 0: not known (another container's, or write-back)
    std::uint64_t start_time = 0;  // field 22 of /proc/PID/stat, in clock ticks since boot
};
inline bool same_process(const Process &a, const Process &b) {
    return a.pid != 0 && a.pid == b.pid && a.start_time == b.start_time;
}

// The process that a thread (as FUSE names callers) belongs to.  pid 0 when it cannot be told.
Process process_of_thread(std::uint32_t thread);

// unknown: not to be told from here; then it is prudent to take it for alive.
enum class Life { alive, ended, unknown };
Life life_of(const Process &process);

// Becomes readable when the process ends; invalid when it has ended or cannot be watched.
FileDescriptor watch_process(const Process &process);

// How much memory the process may lock, in bytes (RLIMIT_MEMLOCK, soft); no limit: ~0;
// not to be told: 0.
std::uint64_t lockable_bytes(std::uint32_t pid);

}  // namespace pmfs
