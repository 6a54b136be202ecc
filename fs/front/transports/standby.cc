// Which threads wait and which stand by: see standby.h.
#include "front/transports/standby.h"

namespace pmfs::front {

bool Standby::enter() {
    while (!ended_.load()) {
        if (come_in()) return true;
        Sleeper self;
        Lock lock(mutex_);
        sleepers_.push_back(&self);
        // (A thread that left before it saw this one sleep has woken none.)
        if (waiting_.load() == 0 || ended_.load()) call_one();
        while (!self.called) self.woken.wait(mutex_);
    }
    return false;
}

void Standby::leave() {
    if (waiting_.fetch_sub(1) != 1) return;
    Lock lock(mutex_);
    call_one();
}

void Standby::end() {
    ended_.store(true);
    Lock lock(mutex_);
    while (!sleepers_.empty()) call_one();
}

std::size_t Standby::standing_by() {
    Lock lock(mutex_);
    return sleepers_.size();
}

// Counts this thread as waiting, if there is a place.
bool Standby::come_in() {
    unsigned now = waiting_.load();
    while (now < waiting_max_)
        if (waiting_.compare_exchange_weak(now, now + 1)) return true;
    return false;
}

void Standby::call_one() {
    if (sleepers_.empty()) return;
    sleepers_.back()->called = true;
    sleepers_.back()->woken.notify_one();
    sleepers_.pop_back();
}

}  // namespace pmfs::front
