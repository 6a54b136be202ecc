// The transport of a local mount where the kernel offers FUSE over io_uring (Linux 6.14): a ring
// for each CPU, whose thread stays there.  See docs/decisions/0025.  FORGET, INTERRUPT and
// notifications still use /dev/fuse, so a DevFuse serves beside it.
#pragma once
#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "front/requests/dispatcher.h"
#include "front/transports/fuse_ring.h"
#include "front/transports/transport.h"

namespace pmfs::front {

class UringFuse final : public Transport {
public:
    // Makes the threads and their rings, which needs system calls that the server gives up later.
    // Before INIT is answered, because INIT may agree to rings only if they exist.  `device`,
    // /dev/fuse as mounted, and the others outlive it; `ended` is an eventfd, counted up when a
    // thread ends.  Errors say why it is not possible: the server continues without rings.
    static Result<std::unique_ptr<UringFuse>> make(Dispatcher &dispatcher, Traffic &traffic,
                                                   int device, int ended);
    ~UringFuse() override;

    // Gives the rings to the kernel.  Errors: it refuses them, and sends all requests through
    // /dev/fuse.
    Result<> start() override;
    // Returns when no request is being handled any more.  Answers are sent until join().
    void stop() override;
    void join() override;

    // A ring does not work any more, and users of the filesystem would wait for ever: the
    // connection must be aborted.
    bool failed() const { return failed_.load(); }
    std::size_t rings() const { return rings_.size(); }
    std::size_t queues() const { return queues_; }

private:
    enum class Phase { making, enlisting, serving, ending };

    UringFuse(int ended, std::size_t queues) : ended_(ended), queues_(queues) {}
    void run(FuseRing &ring);
    void reach(Phase phase) EXCLUDES(mutex_);
    bool reached(Phase phase) EXCLUDES(mutex_);
    void report(const Result<> &done) EXCLUDES(mutex_);
    Result<> all_reported() EXCLUDES(mutex_);

    const int ended_;
    const std::size_t queues_;  // of the kernel: one for each CPU that there may ever be
    std::vector<std::unique_ptr<FuseRing>> rings_;
    std::vector<std::thread> threads_;
    std::atomic<bool> failed_{false};
    bool started_ = false;

    Mutex mutex_;
    CondVar changed_;
    Phase phase_ GUARDED_BY(mutex_) = Phase::making;
    std::size_t reports_ GUARDED_BY(mutex_) = 0;
    Result<> report_ GUARDED_BY(mutex_);  // the first error
};

}  // namespace pmfs::front
