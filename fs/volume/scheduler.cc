// Steps and the lock: see scheduler.h.
#include "volume/scheduler.h"

#include <chrono>
#include <thread>

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

Result<bool> Scheduler::step(Operation &operation) {
    switch (operation.hold()) {
        case Hold::exclusive: {
            ExclusiveLock held(lock_);
            return operation.step();
        }
        case Hold::shared: {
            SharedLock held(lock_);
            return operation.step();
        }
        case Hold::none:
            return operation.step();
    }
    return true;
}

Result<> Scheduler::run(Operation &operation) {
    // The lock lets no reader in while a writer waits.  So an operation of many steps does not ask
    // for it all the time: after half a millisecond it rests for as long as the kernel can tell.
    constexpr std::uint64_t kWork = 500'000;
    constexpr std::chrono::microseconds kRest(20);
    std::uint64_t rested = 0;
    for (bool first = true;; first = false) {
        if (!first && operation.hold() == Hold::exclusive) {
            const std::uint64_t now = monotonic_ns();
            if (rested != 0 && now - rested > kWork) std::this_thread::sleep_for(kRest);
            if (rested == 0 || now - rested > kWork) rested = monotonic_ns();
        }
        Result<bool> done = true;
        if (first || operation.hold() != Hold::exclusive) {
            done = step(operation);
        } else {
            Lock turn(turn_);
            done = step(operation);
        }
        done = unless_space_comes(std::move(done));
        if (!done.ok()) {
            if (done.error().errno_value() == kBreakErrno) operation.waits_for_leases();
            return done.error();
        }
        if (done.value()) return {};
    }
}

}  // namespace pmfs
