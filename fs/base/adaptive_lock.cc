// How threads wait for the lock: see adaptive_lock.h.
#include "base/adaptive_lock.h"

#include <algorithm>
#include <thread>

#include "base/clock.h"

namespace pmfs {

namespace {

// A hold rarely takes more than 50 us, and waking a thread takes as long.
constexpr std::uint64_t kLookNs = 60'000;

// How many threads poll the lock at a time, besides the head: if more than there are processors
// polled, the thread that has the lock would not run.
std::uint32_t looking_max() {
    static const unsigned processors = std::thread::hardware_concurrency();
    return std::clamp(processors / 4, 1U, 3U);
}

}  // namespace

bool AdaptiveLock::enter(bool head) {
    std::uint32_t now = state_.load();
    const std::uint32_t may_be = head ? kDue | kAsleep : 0;
    while ((now & ~may_be) == 0) {
        if (!state_.compare_exchange_weak(now, kWriter)) continue;
        owner_is_head_ = head;
        return true;
    }
    return false;
}

bool AdaptiveLock::enter_shared(bool head) {
    std::uint32_t now = state_.load();
    if (!head) {
        constexpr std::uint32_t kNotBeside = kWriter | kDue;
        if ((now & kNotBeside) != 0) return false;
        if ((state_.fetch_add(kReader) & kNotBeside) == 0) return true;
        unlock_shared();
        return false;
    }
    while ((now & kWriter) == 0) {
        if (!state_.compare_exchange_weak(now, (now & ~(kDue | kAsleep)) + kReader)) continue;
        pass_on();
        return true;
    }
    return false;
}

// Polls the lock for a while.
template <bool (AdaptiveLock::*Enter)(bool)>
bool AdaptiveLock::look(bool head) {
    const std::uint64_t end = monotonic_ns() + kLookNs;
    do {
        if ((this->*Enter)(head)) return true;
    } while (monotonic_ns() < end);
    return false;
}

template <bool (AdaptiveLock::*Enter)(bool)>
void AdaptiveLock::wait() {
    waiting_.fetch_add(1);
    bool inside = false;
    // (Where only readers are inside, only the head can keep others from joining them.)
    const bool worthwhile = (state_.load() & (kWriter | kDue)) != 0;
    if (looking_.fetch_add(1) < looking_max() && worthwhile) inside = look<Enter>(false);
    looking_.fetch_sub(1);
    if (!inside) {
        const std::uint32_t ticket = next_ticket_.fetch_add(1);
        const std::atomic<std::uint32_t> &turn = turns_[ticket % kTurns];
        for (std::uint32_t now = turn.load(); now != ticket; now = turn.load()) turn.wait(now);
        ticket_ = ticket;
        wait_as_head<Enter>();
    }
    waiting_.fetch_sub(1);
}

template <bool (AdaptiveLock::*Enter)(bool)>
void AdaptiveLock::wait_as_head() {
    if ((state_.load() & kWriter) != 0 && look<Enter>(true)) return;
    state_.fetch_or(kDue);
    while (!look<Enter>(true)) {
        const std::uint32_t now = state_.fetch_or(kAsleep) | kAsleep;
        if ((this->*Enter)(true)) return;
        state_.wait(now);
    }
}

template void AdaptiveLock::wait<&AdaptiveLock::enter>();
template void AdaptiveLock::wait<&AdaptiveLock::enter_shared>();

void AdaptiveLock::wake_head() {
    state_.fetch_and(~kAsleep);
    state_.notify_one();
}

// The head is inside: the next of the queue becomes head.
void AdaptiveLock::pass_on() {
    const std::uint32_t next = ticket_ + 1;
    std::atomic<std::uint32_t> &turn = turns_[next % kTurns];
    turn.store(next);
    turn.notify_all();
}

}  // namespace pmfs
