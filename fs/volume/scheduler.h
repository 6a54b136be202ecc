// Runs operations step by step, each under one hold of the volume's lock, and lets others in
// between.
#pragma once
#include <functional>
#include <memory>

#include "base/errors.h"
#include "base/mutex.h"
#include "volume/operation.h"
#include "volume/progress.h"

namespace pmfs {

class Scheduler {
public:
    // blocks_leave: whether there are files without a name that nobody has open, and that take
    // space until the client forgets them.
    Scheduler(SharedMutex &lock, Claims &claims, std::function<bool()> blocks_leave)
        : lock_(lock), claims_(claims), blocks_leave_(std::move(blocks_leave)) {}

    // Until the operation is done or fails.  must_park(): its next step has to wait, and run() goes
    // on with that one.
    Result<> run(Operation &operation) EXCLUDES(lock_);
    // The same, and leaves an operation that has to wait in `progress` (null: drops it).
    template <class Op>
    Result<> run_or_keep(std::unique_ptr<Op> &operation, Progress *progress) EXCLUDES(lock_) {
        Result<> done = run(*operation);
        if (progress != nullptr) done = unless_forgotten_soon(*operation, std::move(done));
        if (!done.ok() && must_park(done.error()) && progress != nullptr)
            progress->keep(std::move(operation));
        return done;
    }

    // What an operation says of a volume that is full, while blocks are being freed for which
    // nobody else will wait: it has to wait for them.
    template <class T>
    Result<T> unless_space_comes(Result<T> result) {
        if (result.ok() || result.error().errno_value() != ENOSPC) return result;
        const auto ino = claims_.freeing();
        if (!ino) return result;
        return Error(kClaimErrno, "blocks are being freed").about(ino->value());
    }

private:
    Result<> unless_forgotten_soon(Operation &operation, Result<> done) EXCLUDES(lock_);
    Result<bool> step(Operation &operation) EXCLUDES(lock_);
    Result<bool> hold_and_step(Operation &operation, bool may_wait) EXCLUDES(lock_);
    Result<bool> steps(Operation &operation, bool may_wait) EXCLUDES(lock_);
    static Result<bool> one_step(Operation &operation, bool may_wait);

    SharedMutex &lock_;
    Claims &claims_;
    const std::function<bool()> blocks_leave_;
};

template <class Op>
std::unique_ptr<Op> Progress::take(InodeNo ino) {
    Op *const found = dynamic_cast<Op *>(operation_.get());
    if (found == nullptr || found->ino() != ino) {
        drop();
        return nullptr;
    }
    (void)operation_.release();
    return std::unique_ptr<Op>(found);
}

// What the request was in the middle of, or a new operation.
template <class Op, class... Arguments>
std::unique_ptr<Op> resumed_or_new(Progress *progress, InodeNo ino, Arguments &&...arguments) {
    std::unique_ptr<Op> operation;
    if (progress != nullptr && progress->kept()) operation = progress->take<Op>(ino);
    if (!operation) operation = std::make_unique<Op>(std::forward<Arguments>(arguments)...);
    return operation;
}

}  // namespace pmfs
