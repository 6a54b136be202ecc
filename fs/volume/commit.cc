// Group commits of image files: one thread, which syncs when somebody asks, when somebody waits for
// room, and when the interval is over (docs/persistence.md).
#include "volume/impl.h"

namespace pmfs {

void Volume::fsync(InodeNo, Completion done) {
    Impl &v = *impl_;
    if (!v.region->is_image() || v.options.read_only) return done({});
    if (v.options.no_background) return done(v.commit_now(false));
    {
        Lock lock(v.queue_mutex);
        if (!v.stopping) {
            v.syncing.push_back(std::move(done));
            v.queue_changed.notify_one();
            return;
        }
    }
    done(v.commit_now(false));  // the commit thread is on its way out
}

void Volume::when_ready(const Error &why, std::function<void()> again, std::uint32_t user) {
    Impl &v = *impl_;
    if (why.errno_value() == kBreakErrno) return v.holders->wait(why, user, std::move(again));
    if (why.errno_value() == kClaimErrno)
        return v.file_claims.wait(InodeNo(why.subject()), std::move(again));
    if (v.options.no_background || !v.commit_thread.joinable()) {
        (void)v.commit_now(true).ok();  // a failure shows in the operation that runs again
        if (!v.options.no_background)
            return v.resume(InodeNo(why.subject()), std::move(again), user);
        return again();
    }
    v.park(user, std::move(again));
}

void Volume::Impl::park(std::uint32_t user, std::function<void()> again) {
    if (options.no_background || !commit_thread.joinable()) return holders->run(std::move(again));
    Lock held(queue_mutex);
    parked.push_back({user, std::move(again)});
    queue_changed.notify_one();
}

// Where there are no threads, tend() does it.
void Volume::Impl::resume(InodeNo ino, std::function<void()> again, std::uint32_t user) {
    if (options.no_background) return holders->run(std::move(again));
    // Those that wait for nobody's inode need no order among them.
    constexpr std::uint64_t kNoFile = std::uint64_t{1} << 63;
    const std::uint64_t file = ino.value() != 0 ? ino.value() : kNoFile + resumed.fetch_add(1);
    auto run = [again = std::move(again)] {
        const pm::FaultScope faults;
        again();
    };
    (void)workers.submit({user, file, std::move(run)});
}

// At the end.  They may hold claims and reservations, which go without the lock.
void Volume::Impl::drop_parked() {
    std::vector<Parked> dropped;
    Lock held(queue_mutex);
    dropped.swap(parked);
    held.unlock();
}

Result<> Volume::commit_group() {
    return impl_->commit_now(true);
}

Result<> Volume::Impl::commit_now(bool checkpoint) {
    Lock one(commit_run);
    return commit_held(checkpoint);
}

Result<> Volume::Impl::commit_held(bool checkpoint) {
    // Somebody may wait for blocks that were freed.
    if (checkpoint && !allocator->nothing_held()) readers.wait_for_readers();
    data_dirty.store(false, std::memory_order_release);
    const auto done = journal->group_commit(checkpoint);
    for (bool more = true; more;) {
        ExclusiveLock held(lock);
        allocator->release_held();
        more = journal->drop_clean_pages();
    }
    return done;
}

Result<> Volume::Impl::make_durable() {
    if (!region->is_image()) return {};
    // Behind the one that runs: what it covers is durable then, and often there is nothing else.
    Lock one(commit_run);
    if (!data_dirty.load(std::memory_order_acquire) && journal->last() <= journal->durable())
        return {};
    return commit_held(false);
}

void Volume::Impl::commit_loop() {
    for (;;) {
        std::vector<Completion> waiters;
        std::vector<Parked> again;
        bool stop;
        {
            Lock held(queue_mutex);
            if (syncing.empty() && parked.empty() && !stopping)
                queue_changed.wait_for(queue_mutex,
                                       std::chrono::milliseconds(options.commit_interval_ms));
            waiters.swap(syncing);
            again.swap(parked);
            stop = stopping;
        }
        const bool dirty =
            data_dirty.load(std::memory_order_acquire) || journal->last() > journal->durable();
        if (dirty || !waiters.empty() || !again.empty()) {
            const pm::FaultScope faults;
            const auto done = commit_now(!again.empty());
            for (auto &waiter : waiters) waiter(done);
            // Not on this thread, for whoever syncs waits for it.
            for (Parked &one : again) resume(InodeNo(), std::move(one.again), one.user);
        }
        if (stop) return;
    }
}

void Volume::Impl::stop_commits() {
    if (!commit_thread.joinable()) return;
    {
        Lock held(queue_mutex);
        stopping = true;
        queue_changed.notify_one();
    }
    commit_thread.join();
}

}  // namespace pmfs
