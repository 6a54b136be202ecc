// A bounded pool of threads for work that may block or take long, fair by user and by file: a user
// who has much to do keeps a share of the threads at most, and a file one; and lengthy jobs keep
// half of the processors busy and half of the threads at most, each user's a quarter of that: so
// whoever wants little need not wait for whoever wants much.
//
// Jobs of one file run in the order that they came.  The user with the fewest running jobs is
// served next, and of several the one who was not served for the longest time.
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

    // `name`: of its threads, 15 bytes at most.  `share`: how many one user may keep busy; 0: half.
    FairPool(const char *name, unsigned threads, unsigned share = 0);
    // Before it jobs are only queued.  EAGAIN: as start_thread().
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
        unsigned running = 0, lengthy = 0;  // lengthy: of those running
        std::uint64_t served = 0;           // its last turn's number
    };
    std::deque<Job>::iterator first_free(User &user) REQUIRES(mutex_);
    void work() EXCLUDES(mutex_);
    bool next(Job *job) REQUIRES(mutex_);
    void done(const Job &job) REQUIRES(mutex_);

    const char *const name_;
    const unsigned threads_wanted_;
    const unsigned running_max_;                  // of one user
    const unsigned lengthy_max_, lengthy_share_;  // of all, of one user
    Mutex mutex_;
    CondVar changed_;
    std::map<std::uint32_t, User> users_ GUARDED_BY(mutex_);  // those with jobs
    std::set<std::uint64_t> busy_files_ GUARDED_BY(mutex_);
    unsigned lengthy_ GUARDED_BY(mutex_) = 0;  // running
    std::uint64_t turns_ GUARDED_BY(mutex_) = 0, of_none_ GUARDED_BY(mutex_) = 0;
    std::size_t waiting_ GUARDED_BY(mutex_) = 0;
    bool finishing_ GUARDED_BY(mutex_) = false;
    std::vector<std::thread> threads_;
};

}  // namespace pmfs
