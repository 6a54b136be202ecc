// The one thread that sends notifications, and its queue.
#include "front/notifier.h"

#include <pthread.h>

#include <utility>

namespace pmfs::front {

Notifier::Notifier(Invalidate invalidate) : invalidate_(std::move(invalidate)) {
    thread_ = std::thread([this] {
        pthread_setname_np(pthread_self(), "pmfs-notify");
        run();
    });
}

Notifier::~Notifier() {
    {
        Lock lock(mutex_);
        ending_ = true;
        changed_.notify_one();
    }
    thread_.join();
}

void Notifier::flush_then(InodeNo ino, std::function<void()> then) {
    Lock lock(mutex_);
    jobs_.push_back({ino, std::move(then)});
    changed_.notify_one();
}

void Notifier::run() {
    for (;;) {
        Job job;
        {
            Lock lock(mutex_);
            while (jobs_.empty() && !ending_) changed_.wait(mutex_);
            if (jobs_.empty()) return;
            job = std::move(jobs_.front());
            jobs_.pop_front();
        }
        invalidate_(job.ino);
        job.then();
    }
}

}  // namespace pmfs::front
