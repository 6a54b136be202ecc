// Runs operations step by step, each step under one hold of the volume's lock, and lets other
// operations run between steps.
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
    // files_leave: whether there are files that have no name and are not open, and that take space
    // until the client forgets them.
    // close_waits: see MountOptions.
    Scheduler(SharedMutex &lock, Claims &claims, std::function<bool()> files_leave,
              unsigned close_waits)
        : lock_(lock),
          claims_(claims),
          files_leave_(std::move(files_leave)),
          close_waits_(close_waits) {}

    // Runs until the operation is done or fails.  must_park(): its next step has to wait; another
    // run() continues with it.
    Result<> run(Operation &operation) EXCLUDES(lock_);
    // The same, and leaves an operation that has to wait in `progress` (null: drops it).
    template <class Op>
    Result<> run_or_keep(std::unique_ptr<Op> &operation, Progress *progress) EXCLUDES(lock_) {
        Result<> done = run(*operation);
        if (operation->may_wait_for_space())
            done = unless_forgotten_soon(std::move(done), progress);
        if (!done.ok() && must_park(done.error()) && progress != nullptr)
            progress->keep(std::move(operation));
        return done;
    }

    // For an operation of one step that found the volume full: if blocks are being freed, or files
    // are about to be forgotten by the client, the result becomes an error that waits for that.
    // Without `progress`, which counts how often, only for blocks that are being freed.
    template <class T>
    Result<T> unless_space_comes(Progress *progress, Result<T> result) EXCLUDES(lock_) {
        return unless_forgotten_soon(unless_freed_soon(std::move(result)), progress);
    }
    // For an operation that the holders of a file forbid: EBUSY becomes, a few times, an error that
    // waits for those that are closing it.  Without `progress` it remains EBUSY.
    template <class T>
    Result<T> unless_closed_soon(Progress *progress, Result<T> result) const {
        constexpr std::uint64_t kFirstWait = 1'000'000;  // ns
        if (result.ok() || result.error().errno_value() != EBUSY || progress == nullptr ||
            progress->waited_for_close >= close_waits_)
            return result;
        return Error(kCloseErrno, result.error().what())
            .about(kFirstWait << progress->waited_for_close++);
    }

private:
    template <class T>
    Result<T> unless_freed_soon(Result<T> result) {
        if (result.ok() || result.error().errno_value() != ENOSPC) return result;
        const auto ino = claims_.freeing();
        if (!ino) return result;
        return Error(kClaimErrno, "blocks are being freed").about(ino->value());
    }
    template <class T>
    Result<T> unless_forgotten_soon(Result<T> result, Progress *progress) EXCLUDES(lock_) {
        if (result.ok() || result.error().errno_value() != ENOSPC || !waits_for_forget(progress))
            return result;
        return Error(kForgetErrno, "the client is about to forget files that have no name");
    }
    bool waits_for_forget(Progress *progress) EXCLUDES(lock_);
    Result<bool> step(Operation &operation) EXCLUDES(lock_);
    Result<bool> hold_and_step(Operation &operation, bool may_wait) EXCLUDES(lock_);
    Result<bool> steps(Operation &operation, bool may_wait) EXCLUDES(lock_);
    static Result<bool> one_step(Operation &operation, bool may_wait);

    SharedMutex &lock_;
    Claims &claims_;
    const std::function<bool()> files_leave_;
    const unsigned close_waits_;
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

// The operation that the request was in the middle of, or a new one.
template <class Op, class... Arguments>
std::unique_ptr<Op> resumed_or_new(Progress *progress, InodeNo ino, Arguments &&...arguments) {
    std::unique_ptr<Op> operation;
    if (progress != nullptr && progress->kept()) operation = progress->take<Op>(ino);
    if (!operation) operation = std::make_unique<Op>(std::forward<Arguments>(arguments)...);
    return operation;
}

}  // namespace pmfs
