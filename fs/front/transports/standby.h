// Lets only a few of many threads wait for requests; the others stand by.
//
// The kernel gives requests to the threads that read /dev/fuse in turn.  Where there are as many of
// them as processors, each request of a single client would find its thread on a processor that has
// long been asleep: on 16 processors a getattr took 22.6 us where servers with few threads took 16.
#pragma once
#include <atomic>
#include <vector>

#include "base/mutex.h"

namespace pmfs::front {

class Standby {
public:
    // At most `waiting_max` threads wait for requests.
    explicit Standby(unsigned waiting_max) : waiting_max_(waiting_max) {}

    // Before a thread waits for a request: sleeps while enough others do.  False: after end().
    bool enter() EXCLUDES(mutex_);
    // After it has one: wakes another thread if none waits.
    void leave() EXCLUDES(mutex_);
    // Wakes all threads that stand by.
    void end() EXCLUDES(mutex_);

    unsigned waiting() const { return waiting_.load(); }
    std::size_t standing_by() EXCLUDES(mutex_);

private:
    struct Sleeper {
        CondVar woken;
        bool called = false;
    };
    bool come_in();
    void call_one() REQUIRES(mutex_);

    const unsigned waiting_max_;
    std::atomic<unsigned> waiting_{0};
    std::atomic<bool> ended_{false};
    Mutex mutex_;
    std::vector<Sleeper *> sleepers_ GUARDED_BY(mutex_);  // the last one has slept the least
};

}  // namespace pmfs::front
