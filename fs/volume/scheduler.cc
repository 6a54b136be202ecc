// Steps and the lock: see scheduler.h.
#include "volume/scheduler.h"

#include <chrono>
#include <thread>
#include <utility>

#include "base/clock.h"

namespace pmfs {

Progress::Progress() = default;
Progress::Progress(Progress &&) noexcept = default;
Progress &Progress::operator=(Progress &&) noexcept = default;
Progress::~Progress() = default;

void Progress::keep(std::unique_ptr<Operation> operation) {
    operation_ = std::move(operation);
}

void Progress::drop() {
    operation_.reset();
}

// Steps are short, and handing the lock over and getting it back takes longer than most of them, so
// one hold runs several.  Then, if other threads wait, the lock is left to them for a while.
// Without that, the lock would let in only one call of each between two holds, so a client that
// makes many calls would fall further and further behind (decision 14).
Result<bool> Scheduler::steps(Operation &operation, bool may_wait) {
    constexpr std::uint64_t kHoldNs = 50'000;
    constexpr std::chrono::microseconds kRest{200};
    {
        ExclusiveLock held(lock_);
        const std::uint64_t begin = monotonic_ns();
        do {
            const Result<bool> done = one_step(operation, may_wait);
            if (!done.ok() || done.value() || operation.hold() != Hold::exclusive) return done;
        } while (monotonic_ns() - begin <= kHoldNs);
        if (!lock_.contended()) return false;
    }
    std::this_thread::sleep_for(kRest);
    return false;
}

// kAbsentErrno, and Operation::absent: the step is run again when that page was read in.
Result<bool> Scheduler::one_step(Operation &operation, bool may_wait) {
    const pm::NoWaiting absent(!may_wait);
    const Result<bool> done = operation.step();
    operation.absent = pm::NoWaiting::take();
    if (operation.absent) return Error(kAbsentErrno, "a block of metadata is not in memory");
    return done;
}

Result<bool> Scheduler::hold_and_step(Operation &operation, bool may_wait) {
    switch (operation.hold()) {
        case Hold::exclusive:
            return steps(operation, may_wait);
        case Hold::shared: {
            SharedLock held(lock_);
            return one_step(operation, may_wait);
        }
        case Hold::none:
            return one_step(operation, true);
    }
    return true;
}

Result<bool> Scheduler::step(Operation &operation) {
    for (unsigned n = 0;; ++n) {
        const Result<bool> done = hold_and_step(operation, n == pm::kReadInsMax);
        if (!operation.absent) return done;
        std::exchange(operation.absent, {}).read_in();
    }
}

Result<> Scheduler::run(Operation &operation) {
    for (;;) {
        const Result<bool> done = unless_freed_soon(step(operation));
        if (!done.ok()) {
            if (done.error().errno_value() == kBreakErrno) operation.waits_for_leases();
            return done.error();
        }
        if (done.value()) return {};
    }
}

// A client forgets a file a moment after its last name was removed.  It may also keep it, with an
// O_PATH descriptor, so a request waits only for a short time.
bool Scheduler::waits_for_forget(Progress *progress) {
    constexpr unsigned kMoments = 64;  // of Volume::when_ready()
    if (progress == nullptr || progress->waited_for_space == kMoments || !files_leave_())
        return false;
    ++progress->waited_for_space;
    return true;
}

}  // namespace pmfs
