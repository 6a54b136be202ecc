// The interface between the operations and the transports that carry requests: /dev/fuse, FUSE over
// io_uring, virtqueues of guests. A transport reads requests and hands each to the Dispatcher. An
// operation answers through the ReplyPort of its request, on whichever thread it is by then.
#pragma once
#include <sys/uio.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <span>
#include <thread>

#include "base/result.h"

namespace pmfs::front {

// Where a request came from, and the only way its reply gets back.
class ReplyPort {
public:
    virtual ~ReplyPort() = default;

    // Sends one whole reply.  Gives the bytes sent, or -1 with errno.  Called by any thread.
    virtual ssize_t send(std::span<const iovec> message) = 0;
    // Its request, of that user, is about to wait without a time limit.  False: it must not,
    // because too many do, or too many of that user, and others might not get through any more.
    virtual bool let_wait(std::uint32_t user) {
        (void)user;
        return true;
    }
};

// Code that answers later shares the port.  A port that is not owned must outlive its requests.
using Port = std::shared_ptr<ReplyPort>;

// Notes whether requests come, for a thread that waits until none do.
class Traffic {
public:
    void note() {
        if (watched_.load(std::memory_order_relaxed)) came_.store(true);
    }
    // Returns when none has come for `quiet`, or after `time_max`, or when `over` says so.
    void wait_until_quiet(std::chrono::milliseconds quiet, std::chrono::milliseconds time_max,
                          const std::function<bool()> &over) {
        watched_.store(true);
        for (auto waited = quiet; !over() && waited <= time_max; waited += quiet) {
            came_.store(false);
            std::this_thread::sleep_for(quiet);
            if (!came_.load()) break;
        }
        watched_.store(false);
    }

private:
    std::atomic<bool> watched_{false}, came_{false};
};

class Transport {
public:
    virtual ~Transport() = default;

    // Starts its threads, which feed the dispatcher until stop() or the end of the connection.
    virtual Result<> start() = 0;
    // Asks the threads to end.  They first answer what they have read.
    virtual void stop() = 0;
    // Waits until the last thread has ended.
    virtual void join() = 0;
};

}  // namespace pmfs::front
