// Steps and the lock: see scheduler.h.
#include "volume/scheduler.h"

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
    for (;;) {
        const Result<bool> done = unless_space_comes(step(operation));
        if (!done.ok()) {
            if (done.error().errno_value() == kBreakErrno) operation.waits_for_leases();
            return done.error();
        }
        if (done.value()) return {};
    }
}

}  // namespace pmfs
