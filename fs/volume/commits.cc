// Group commits and the operations that wait for them: see commits.h.
#include "volume/commits.h"

#include <chrono>

#include "base/thread.h"

namespace pmfs {

Result<> Commits::start() {
    if (!engine_.region->is_image() || engine_.options.no_background) return {};
    thread_ = TRY(start_thread("pmfs-commit", [this] { loop(); }));
    return {};
}

void Commits::stop() {
    if (!threaded()) return;
    {
        Lock held(queue_mutex_);
        stopping_ = true;
        queue_changed_.notify_one();
    }
    thread_.join();
}

// They may hold claims and reservations, which are released without the lock.
void Commits::drop_parked() {
    std::vector<Parked> dropped;
    Lock held(queue_mutex_);
    dropped.swap(parked_);
    held.unlock();
}

Result<> Commits::now(bool checkpoint) {
    Lock one(run_);
    return commit(checkpoint);
}

Result<> Commits::commit(bool checkpoint) {
    // An operation may wait for blocks that were freed.
    if (checkpoint && !engine_.allocator->nothing_held()) engine_.readers.wait_for_readers();
    engine_.data_dirty.store(false, std::memory_order_release);
    const auto done = engine_.journal->group_commit(checkpoint);
    for (bool more = true; more;) {
        ExclusiveLock held(engine_.lock);
        engine_.allocator->release_held();
        more = engine_.journal->drop_clean_pages();
    }
    return done;
}

Result<> Commits::make_durable() {
    if (!engine_.region->is_image()) return {};
    // After the running one, which makes durable what it covers; often nothing else is left.
    Lock one(run_);
    if (!engine_.data_dirty.load(std::memory_order_acquire) &&
        engine_.journal->last() <= engine_.journal->durable())
        return {};
    return commit(false);
}

void Commits::sync(Completion done) {
    if (!engine_.region->is_image() || engine_.options.read_only) return done({});
    if (engine_.options.no_background) return done(now(false));
    {
        Lock held(queue_mutex_);
        if (!stopping_) {
            syncing_.push_back(std::move(done));
            queue_changed_.notify_one();
            return;
        }
    }
    done(now(false));  // the thread is ending
}

void Commits::park(std::uint32_t user, std::function<void()> again) {
    if (!threaded()) return engine_.holders->run(std::move(again));
    Lock held(queue_mutex_);
    parked_.push_back({user, std::move(again)});
    queue_changed_.notify_one();
}

void Commits::await_room(InodeNo ino, std::uint32_t user, std::function<void()> again) {
    if (threaded()) return park(user, std::move(again));
    (void)now(true).ok();  // the operation that runs again reports a failure
    if (engine_.options.no_background) return again();
    workers_.resume(ino, std::move(again), user);
}

Result<> Commits::between(const std::function<Result<>()> &body) {
    Lock one(run_);
    return body();
}

void Commits::loop() {
    for (;;) {
        std::vector<Completion> waiters;
        std::vector<Parked> again;
        bool stop;
        {
            Lock held(queue_mutex_);
            if (syncing_.empty() && parked_.empty() && !stopping_)
                queue_changed_.wait_for(
                    queue_mutex_, std::chrono::milliseconds(engine_.options.commit_interval_ms));
            waiters.swap(syncing_);
            again.swap(parked_);
            stop = stopping_;
        }
        const bool dirty = engine_.data_dirty.load(std::memory_order_acquire) ||
                           engine_.journal->last() > engine_.journal->durable();
        if (dirty || !waiters.empty() || !again.empty()) {
            const pm::FaultScope faults;
            const auto done = now(!again.empty());
            for (auto &waiter : waiters) waiter(done);
            // Not on this thread: a caller of fsync waits for it.
            for (Parked &one : again) workers_.resume(InodeNo(), std::move(one.again), one.user);
        }
        if (stop) return;
    }
}

// The step has committed at least one transaction.
Result<> make_room(Engine &e) {
    TRY(e.journal->group_commit(true));
    e.allocator->release_held();
    return {};
}

}  // namespace pmfs
