// A bounded pool of threads for work that may block or take long, fair by user and by file. One
// user keeps at most a share of the threads busy, and one file at most one. Lengthy jobs have
// threads of their own, at a lower priority (nice(2)); one user keeps at most a quarter of these
// busy. So users with little work need not wait for users with much.
//
// Jobs of one file run in the order in which they came. The user with the fewest running jobs is
// served next; of several such users, the one that was not served for the longest time.
#pragma once
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <set>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "base/result.h"

namespace pmfs {

class FairPool {
public:
    struct Job {
        std::uint32_t user = 0;
        std::uint64_t file = 0;  // no two jobs of one file run at once; 0: of none
        std::function<void()> run;
        bool lengthy = false;
    };

    // `name`: of its threads, 15 bytes at most.  `threads`: for what is short; `share`: how many of
    // them one user may keep busy, 0: half.  `lengthy`: as many more for lengthy jobs (0: there are
    // no such jobs).
    FairPool(const char *name, unsigned threads, unsigned share = 0, unsigned lengthy = 0);
    // Jobs that are submitted earlier are only queued.  EAGAIN: as start_thread().
    Result<> start();
    // finish()
    ~FairPool();
    FairPool(const FairPool &) = delete;
    FairPool &operator=(const FairPool &) = delete;

    // False after finish(): the job was not taken.
    bool submit(Job job) EXCLUDES(mutex_);
    // Jobs that were submitted and have not begun.
    std::size_t waiting() EXCLUDES(mutex_);
    // Runs what is queued to its end and ends the threads.
    void finish() EXCLUDES(mutex_);

private:
    struct User {
        std::deque<Job> waiting;
        unsigned running = 0, lengthy = 0;  // short ones, and lengthy ones
        std::uint64_t served = 0;           // its last turn's number
    };
    std::deque<Job>::iterator first_free(bool lengthy, User &user) REQUIRES(mutex_);
    void work(bool lengthy) EXCLUDES(mutex_);
    bool next(bool lengthy, Job *job) REQUIRES(mutex_);
    void done(const Job &job) REQUIRES(mutex_);
    void wake_all() REQUIRES(mutex_);
    CondVar &idle_of(bool lengthy) { return lengthy ? idle_lengthy_ : idle_short_; }

    const char *const name_;
    const unsigned short_threads_, lengthy_threads_;
    const unsigned short_share_, lengthy_share_;  // of one user
    Mutex mutex_;
    CondVar idle_short_, idle_lengthy_;                       // where threads wait for work
    std::map<std::uint32_t, User> users_ GUARDED_BY(mutex_);  // those with jobs
    std::set<std::uint64_t> busy_files_ GUARDED_BY(mutex_);
    std::uint64_t turns_ GUARDED_BY(mutex_) = 0, of_none_ GUARDED_BY(mutex_) = 0;
    std::size_t waiting_ GUARDED_BY(mutex_) = 0;
    bool finishing_ GUARDED_BY(mutex_) = false;
    std::vector<std::thread> threads_;
};

}  // namespace pmfs
