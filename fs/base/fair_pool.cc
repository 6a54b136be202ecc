// The pool's threads, and whose turn it is: see fair_pool.h.
#include "base/fair_pool.h"

#include <algorithm>
#include <utility>

#include "base/thread.h"

namespace pmfs {

FairPool::FairPool(const char *name, unsigned threads)
    : name_(name), threads_wanted_(threads), running_max_(std::max(1u, threads / 2)) {}

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
    users_[job.user].waiting.push_back(std::move(job));
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

// The first job of the least busy user whose file is free.
bool FairPool::next(Job *job) {
    User *best = nullptr;
    std::deque<Job>::iterator chosen;
    for (auto &[id, user] : users_) {
        if (user.running >= running_max_ || (best != nullptr && user.running >= best->running))
            continue;
        auto found = user.waiting.begin();
        while (found != user.waiting.end() && busy_files_.contains(found->file)) ++found;
        if (found == user.waiting.end()) continue;
        best = &user;
        chosen = found;
    }
    if (best == nullptr) return false;
    *job = std::move(*chosen);
    best->waiting.erase(chosen);
    ++best->running;
    --waiting_;
    busy_files_.insert(job->file);
    return true;
}

void FairPool::done(const Job &job) {
    busy_files_.erase(job.file);
    const auto user = users_.find(job.user);
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
