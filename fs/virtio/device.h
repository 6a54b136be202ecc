// What a virtio device is to a back end: its queues, its configuration, and what it does with a
// request.  One device serves one front end at a time.
#pragma once
#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "base/bytes.h"
#include "virtio/back_channel.h"
#include "virtio/guest_memory.h"
#include "virtio/virtqueue.h"

namespace pmfs::virtio {

// The process that has connected (SO_PEERCRED): the VMM.
struct Peer {
    pid_t pid = 0;
    uid_t uid = 0;
    gid_t gid = 0;
};

// The comments say which thread calls: "messages" is the one that reads the front end's messages;
// while it is in the device the front end waits.
class Device : public MemoryOwner {
public:
    virtual unsigned queues() const = 0;    // 256 at most
    virtual ConstBytes config() const = 0;  // what GET_CONFIG shows; zeroes behind it
    // Of shared memory region 0; 0: it has none.  A multiple of the page size.
    virtual std::uint64_t window_size() const { return 0; }

    // messages: a front end has connected.  `channel` stays valid for as long as it is held, but
    // does nothing after disconnected().
    virtual void connected(const Peer &peer, std::shared_ptr<BackChannel> channel) = 0;

    // A thread of the queue: the chain may be completed here or later, by any thread.  No other
    // request of this queue is taken before this returns; and a front end that stops the queue
    // waits for that, too.
    virtual void request(unsigned queue, std::unique_ptr<Chain> chain) = 0;

    // messages: the front end wants the queue to stop, or is gone.  It waits until all chains are
    // completed, so waiting requests must be given up now.  Called repeatedly until then.
    virtual void stopping(unsigned /*queue*/) {}

    // messages: RESET_DEVICE; all queues have stopped.  What QEMU has mapped in the window is gone.
    virtual void reset() {}
    // messages: SET_STATUS.  0: all queues have stopped, because the driver has reset the device or
    // because the guest is paused; which of them, this protocol does not say (a driver that starts
    // again sends its first messages again).
    virtual void status(std::uint8_t /*status*/) {}

    // Any thread: the queue is not served any more, until the driver sets it up again.
    virtual void broken(unsigned /*queue*/, const std::string & /*why*/) {}

    // messages: the front end is gone.  No request comes any more; completions have no effect from
    // now on, but the memory of chains is still there.
    virtual void disconnected() {}
};

}  // namespace pmfs::virtio
