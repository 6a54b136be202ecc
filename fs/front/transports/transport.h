// The seam between the operations and whatever carries requests to them: /dev/fuse today, FUSE over
// io_uring and a guest's virtqueue later.  A transport reads requests and hands each to the
// Dispatcher; an operation answers through the ReplyPort that the request came by, whichever thread
// it is on by then.
#pragma once
#include <sys/uio.h>

#include <memory>
#include <span>

#include "base/result.h"

namespace pmfs::front {

// Where a request came from, and the only way its reply gets back.
class ReplyPort {
public:
    virtual ~ReplyPort() = default;

    // Sends one whole reply.  Gives the bytes sent, or -1 with errno.  Called by any thread.
    virtual ssize_t send(std::span<const iovec> message) = 0;
    // Its request is going to wait for as long as somebody else likes to.  False: so many do that
    // others might not come through any more.
    virtual bool let_wait() { return true; }
};

// Whoever answers later shares the port.  One that is not owned outlives the requests by it.
using Port = std::shared_ptr<ReplyPort>;

class Transport {
public:
    virtual ~Transport() = default;

    // Starts its threads, which feed the dispatcher until stop() or the end of the connection.
    virtual Result<> start() = 0;
    // Asks the threads to end.  What they have read is answered first.
    virtual void stop() = 0;
    // Waits until the last thread has ended.
    virtual void join() = 0;
};

}  // namespace pmfs::front
