// Reports blocking calls under a lock: see blocking.h.
#include "base/blocking.h"

#include <atomic>

#include "base/assert.h"

namespace pmfs {

namespace {
std::atomic<void (*)(const char *)> watch{nullptr};
}  // namespace

void may_block(const char *call) {
    if (brief_locks_held == 0) return;
    if (auto *found = watch.load(std::memory_order_relaxed); found != nullptr) found(call);
}

void set_blocking_watch(void (*found)(const char *call)) {
    watch.store(found, std::memory_order_relaxed);
}

void abort_on_blocking(const char *call) {
    assertion_failed(call, "called with the volume's lock held", 0);
}

}  // namespace pmfs
