// Tells the kernel to write back and forget what it caches of a file.
//
// The kernel answers such a notification only when the file's dirty pages were written back,
// through our own queues: sent from a server thread it is a deadlock (measured).  So one thread
// that owns no queue and holds no lock sends them all, in order.
#pragma once
#include <deque>
#include <functional>
#include <thread>

#include "base/ids.h"
#include "base/mutex.h"

namespace pmfs::front {

class Notifier {
public:
    // Blocks until the kernel has written back and dropped every page of the inode.
    using Invalidate = std::function<void(InodeNo)>;

    explicit Notifier(Invalidate invalidate);
    // Runs what is queued to its end.
    ~Notifier();
    Notifier(const Notifier &) = delete;
    Notifier &operator=(const Notifier &) = delete;

    // Runs `then` on the notifier's thread once the kernel holds no page of `ino`, dirty or clean.
    // Stores through a mapping that come later are later.  `then` must not wait for a request.
    void flush_then(InodeNo ino, std::function<void()> then) EXCLUDES(mutex_);

private:
    struct Job {
        InodeNo ino;
        std::function<void()> then;
    };
    void run() EXCLUDES(mutex_);

    const Invalidate invalidate_;
    Mutex mutex_;
    CondVar changed_;
    std::deque<Job> jobs_ GUARDED_BY(mutex_);  // at most the requests in flight
    bool ending_ GUARDED_BY(mutex_) = false;
    std::thread thread_;
};

}  // namespace pmfs::front
