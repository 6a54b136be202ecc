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
    if (v.options.no_background || !v.commit_thread.joinable()) {
        (void)v.commit_now(true).ok();  // a failure shows in the operation that runs again
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

// There is room.  Not on this thread, for whoever syncs waits for it.
void Volume::Impl::run_parked(std::vector<Parked> ready) {
    static constexpr std::uint64_t kNoFile = std::uint64_t{1} << 63;  // each a job of its own
    for (Parked &one : ready) {
        auto run = [again = std::move(one.again)] {
            const pm::FaultScope own;
            again();
        };
        if (!workers.submit({one.user, kNoFile + parked_runs++, run})) run();
    }
}

Result<> Volume::commit_group() {
    return impl_->commit_now(true);
}

Result<> Volume::Impl::commit_now(bool checkpoint) {
    Lock one(commit_run);
    return commit_held(checkpoint);
}

Result<> Volume::Impl::commit_held(bool checkpoint) {
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
            run_parked(std::move(again));
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
