// The identity of a process beyond its number, which the kernel reuses.
#pragma once
#include <sys/types.h>

#include <cstdint>

#include "base/file_descriptor.h"

namespace pmfs {

// A number means something only in its PID namespace, a start time only in the time namespace of
// the process that read it, and both only in one boot.
struct Process {
    std::uint32_t pid = 0;         // 0: not known (another container's, or write-back)
    std::uint64_t start_time = 0;  // field 22 of /proc/PID/stat, in clock ticks since boot
    // The inode number of its pidfd (pidfs, Linux 6.9), which no other process of this boot gets;
    // 0: not known.
    std::uint64_t serial = 0;
    // The reader's namespaces, as inode numbers of /proc/self/ns; 0: not known.
    std::uint32_t pid_namespace = 0;
    std::uint32_t time_namespace = 0;
};
inline bool same_process(const Process &a, const Process &b) {
    return a.pid != 0 && a.pid == b.pid && a.start_time == b.start_time;
}

// The process that a thread (as FUSE names callers) belongs to.  pid 0 when that is not known.
Process process_of_thread(std::uint32_t thread);

// ended: every thread of it.  unknown: cannot be determined here, because its number means nothing
// in this namespace, or because there is no /proc that tells the namespace; then it must be assumed
// to be alive.
enum class Life { alive, ended, unknown };
Life life_of(const Process &process);

// Becomes readable when the process ends; invalid when it has ended or cannot be watched.
FileDescriptor watch_process(const Process &process);

// Whether a thread is in a group besides its main one.  False when that is not known.
bool thread_in_group(std::uint32_t thread, std::uint32_t group);

// How much memory the process may lock, in bytes (RLIMIT_MEMLOCK, soft); ~0: no limit; 0: not
// known.
std::uint64_t lockable_bytes(std::uint32_t pid);

}  // namespace pmfs
