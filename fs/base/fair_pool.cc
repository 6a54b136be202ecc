// The pool's threads, and whose turn it is: see fair_pool.h.
#include "base/fair_pool.h"

#include <sys/resource.h>

#include <algorithm>
#include <utility>

#include "base/assert.h"
#include "base/thread.h"

namespace pmfs {

FairPool::FairPool(const char *name, unsigned threads, unsigned share, unsigned lengthy)
    : name_(name),
      short_threads_(threads),
      lengthy_threads_(lengthy),
      short_share_(share != 0 ? share : std::max(1u, threads / 2)),
      lengthy_share_(std::max(1u, lengthy / 4)) {}

Result<> FairPool::start() {
    while (threads_.size() < short_threads_ + lengthy_threads_) {
        const bool lengthy = threads_.size() >= short_threads_;
        threads_.push_back(TRY(start_thread(name_, [this, lengthy] { work(lengthy); })));
    }
    return {};
}

FairPool::~FairPool() {
    finish();
}

bool FairPool::submit(Job job) {
    Lock held(mutex_);
    if (finishing_) return false;
    PMFS_ASSERT(!job.lengthy || lengthy_threads_ != 0);
    // A file of its own, with a number that no inode has.
    if (job.file == 0) job.file = (std::uint64_t{1} << 63) + of_none_++;
    // A user that comes back counts as served as recently as the latest user: leaving the queue
    // gains nothing.
    CondVar &idle = idle_of(job.lengthy);
    users_.try_emplace(job.user, User{{}, 0, 0, turns_})
        .first->second.waiting.push_back(std::move(job));
    ++waiting_;
    idle.notify_one();  // a busy thread looks for work when it is done
    return true;
}

std::size_t FairPool::waiting() {
    Lock held(mutex_);
    return waiting_;
}

void FairPool::finish() {
    {
        Lock held(mutex_);
        finishing_ = true;
        wake_all();
    }
    for (std::thread &thread : threads_) thread.join();
    threads_.clear();
}

// The user's first job of that kind that may run now: its file is free.
// Jobs of one file keep their order, because an earlier job keeps the file busy.
std::deque<FairPool::Job>::iterator FairPool::first_free(bool lengthy, User &user) {
    std::set<std::uint64_t> passed;
    auto job = user.waiting.begin();
    for (; job != user.waiting.end(); ++job) {
        if (busy_files_.contains(job->file) || passed.contains(job->file)) continue;
        if (job->lengthy == lengthy) return job;
        passed.insert(job->file);
    }
    return job;
}

bool FairPool::next(bool lengthy, Job *job) {
    User *best = nullptr;
    unsigned least = 0;
    std::deque<Job>::iterator chosen;
    for (auto &[id, user] : users_) {
        const unsigned running = lengthy ? user.lengthy : user.running;
        if (running >= (lengthy ? lengthy_share_ : short_share_)) continue;
        if (best != nullptr &&
            (running > least || (running == least && user.served >= best->served)))
            continue;
        const auto found = first_free(lengthy, user);
        if (found == user.waiting.end()) continue;
        best = &user;
        least = running;
        chosen = found;
    }
    if (best == nullptr) return false;
    *job = std::move(*chosen);
    best->waiting.erase(chosen);
    ++(lengthy ? best->lengthy : best->running);
    best->served = ++turns_;
    --waiting_;
    busy_files_.insert(job->file);
    return true;
}

void FairPool::done(const Job &job) {
    busy_files_.erase(job.file);
    const auto user = users_.find(job.user);
    User &one = user->second;
    --(job.lengthy ? one.lengthy : one.running);
    if (one.running + one.lengthy == 0 && one.waiting.empty()) users_.erase(user);
    // A user or a file may have become free for a job that waited.
    if (waiting_ != 0 || finishing_) wake_all();
}

void FairPool::wake_all() {
    idle_short_.notify_all();
    idle_lengthy_.notify_all();
}

void FairPool::work(bool lengthy) {
    constexpr int kNice = 10;
    if (lengthy) ::setpriority(PRIO_PROCESS, 0, kNice);  // (of this thread)
    Lock held(mutex_);
    for (;;) {
        Job job;
        while (!next(lengthy, &job)) {
            if (finishing_ && waiting_ == 0) return;
            idle_of(lengthy).wait(mutex_);
        }
        held.unlock();
        job.run();
        job.run = nullptr;  // what it captured is destroyed without the lock
        held.lock();
        done(job);
    }
}

}  // namespace pmfs
