// membarrier(2), expedited where the kernel has it (4.14), else by waiting for every processor to
// have scheduled (4.3; tens of milliseconds, but the caller is a background checkpoint).
#include "pm/barrier.h"

#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

#include <atomic>

#include "base/assert.h"

namespace pmfs::pm {

namespace {

long membarrier(int command) {
    return ::syscall(SYS_membarrier, command, 0, 0);
}

std::atomic<int> command = 0;  // the one that works here; 0: not prepared

}  // namespace

Result<> prepare_fence_all_threads() {
    if (command.load() != 0) return {};
    if (membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) == 0) {
        command = MEMBARRIER_CMD_PRIVATE_EXPEDITED;
    } else if (const long can = membarrier(MEMBARRIER_CMD_QUERY);
               can > 0 && (can & MEMBARRIER_CMD_GLOBAL) != 0) {
        command = MEMBARRIER_CMD_GLOBAL;
    } else {
        return Error(ENOSYS, "membarrier(2) is missing or forbidden here, and pmfs needs it");
    }
    return {};
}

void fence_all_threads() {
    const int which = command.load(std::memory_order_relaxed);
    PMFS_ASSERT(which != 0);
    PMFS_ASSERT(membarrier(which) == 0);
}

void evict_lines(const std::byte *start, std::size_t size) {
#if defined(__x86_64__)
    constexpr std::size_t kLine = 64;
    for (std::size_t at = 0; at < size; at += kLine) _mm_clflush(start + at);
    if (size != 0) _mm_clflush(start + size - 1);
    _mm_mfence();
#else
    (void)start, (void)size;
#endif
}

}  // namespace pmfs::pm
