// Two readings of the thread's clock: see hold_watch.h.
#include "base/hold_watch.h"

#include "base/clock.h"

namespace pmfs {

namespace {

std::atomic<std::uint64_t> longest{0};
thread_local std::uint64_t begun = 0;  // 0: before the watch was set

std::uint64_t thread_ns() {
    return read_clock_ns(CLOCK_THREAD_CPUTIME_ID);
}

}  // namespace

void watch_holds(bool on) {
    longest.store(0);
    holds_watched.store(on);
}

std::uint64_t longest_hold_ns() {
    return longest.load();
}

void hold_begins() {
    begun = thread_ns();
}

void hold_ends() {
    if (begun == 0) return;
    const std::uint64_t took = thread_ns() - begun;
    begun = 0;
    for (std::uint64_t most = longest.load(); took > most;)
        if (longest.compare_exchange_weak(most, took)) break;
}

}  // namespace pmfs
