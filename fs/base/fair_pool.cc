// The pool's threads, and whose turn it is: see fair_pool.h.
#include "base/fair_pool.h"

#include <algorithm>
#include <utility>

#include "base/thread.h"

namespace pmfs {

FairPool::FairPool(const char *name, unsigned threads, unsigned share)
    : name_(name),
      threads_wanted_(threads),
      running_max_(share != 0 ? share : std::max(1u, threads / 2)),
      lengthy_max_(std::max(1u, std::min(std::thread::hardware_concurrency(), threads) / 2)),
      lengthy_share_(std::max(1u, lengthy_max_ / 4)) {}

Result<> FairPool::start() {
    while (threads_.size() < threads_wanted_)
        threads_.push_back(TRY(start_thread(name_, [this] { work(); })));
    return {};
}

FairPool::~FairPool() {
    finish();
}

bool FairPool::submit(Job job) {
    Lock held(mutex_);
    if (finishing_) return false;
    // A file of its own, of a number that no inode has.
    if (job.file == 0) job.file = (std::uint64_t{1} << 63) + of_none_++;
    // Who comes anew has been served as late as everybody: nobody gets ahead by leaving.
    users_.try_emplace(job.user, User{{}, 0, 0, turns_})
        .first->second.waiting.push_back(std::move(job));
    ++waiting_;
    changed_.notify_one();
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
        changed_.notify_all();
    }
    for (std::thread &thread : threads_) thread.join();
    threads_.clear();
}

// The user's first job that may run now: its file is free, and so is a thread for what is lengthy.
// Jobs of one file keep their order, for what comes before a job of a file keeps that file busy.
std::deque<FairPool::Job>::iterator FairPool::first_free(User &user) {
    std::set<std::uint64_t> passed;
    auto job = user.waiting.begin();
    for (; job != user.waiting.end(); ++job) {
        if (busy_files_.contains(job->file) || passed.contains(job->file)) continue;
        const bool room = lengthy_ < lengthy_max_ && user.lengthy < lengthy_share_;
        if (!job->lengthy || room) return job;
        passed.insert(job->file);
    }
    return job;
}

bool FairPool::next(Job *job) {
    User *best = nullptr;
    std::deque<Job>::iterator chosen;
    for (auto &[id, user] : users_) {
        if (user.running >= running_max_) continue;
        if (best != nullptr && (user.running > best->running ||
                                (user.running == best->running && user.served >= best->served)))
            continue;
        const auto found = first_free(user);
        if (found == user.waiting.end()) continue;
        best = &user;
        chosen = found;
    }
    if (best == nullptr) return false;
    *job = std::move(*chosen);
    best->waiting.erase(chosen);
    ++best->running;
    best->served = ++turns_;
    --waiting_;
    lengthy_ += job->lengthy ? 1 : 0;
    best->lengthy += job->lengthy ? 1 : 0;
    busy_files_.insert(job->file);
    return true;
}

void FairPool::done(const Job &job) {
    busy_files_.erase(job.file);
    const auto user = users_.find(job.user);
    lengthy_ -= job.lengthy ? 1 : 0;
    user->second.lengthy -= job.lengthy ? 1 : 0;
    if (--user->second.running == 0 && user->second.waiting.empty()) users_.erase(user);
    changed_.notify_all();  // a user or a file may be free for what waited
}

void FairPool::work() {
    Lock held(mutex_);
    for (;;) {
        Job job;
        while (!next(&job)) {
            if (finishing_ && waiting_ == 0) return;
            changed_.wait(mutex_);
        }
        held.unlock();
        job.run();
        job.run = nullptr;  // what it holds goes without the lock
        held.lock();
        done(job);
    }
}

}  // namespace pmfs
