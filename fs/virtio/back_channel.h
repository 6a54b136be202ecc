// Requests of the back end to the front end: to map pieces of a file into the device's window
// ("VIRTIO shared memory region"), and to confirm that earlier requests have taken effect.  The
// back-end channel of docs/interop/vhost-user.rst.
//
// Any thread may send one, except the one that reads messages: a front end may send messages, and
// wait for them, before it answers (QEMU sends the memory table for every SHMEM_MAP).  So the
// caller must hold no lock that a MemoryOwner or a Device takes when that thread calls it.
#pragma once
#include <atomic>
#include <cstdint>

#include "base/file_descriptor.h"
#include "base/mutex.h"
#include "base/result.h"
#include "virtio/vhost_user.h"

namespace pmfs::virtio {

class BackChannel {
public:
    static Result<std::shared_ptr<BackChannel>> make();

    // ENOTCONN: the front end has no window, or is gone.  ECANCELED: the front end is waiting for
    // the queues to stop, and may still execute the request.  EIO: it refused.  QEMU answers map()
    // and unmap() before they have taken effect: see barrier().
    Result<> map(int fd, std::uint64_t fd_offset, std::uint64_t window_offset, std::uint64_t size,
                 bool writable);
    // The range must be exactly that of one map().
    Result<> unmap(std::uint64_t window_offset, std::uint64_t size);
    // When it returns, all requests that were answered before have taken effect.  By a message that
    // QEMU serves in the thread that commits changes of memory: BACKEND_CONFIG_CHANGE_MSG with an
    // answer.
    Result<> barrier();

    // Whether the front end has negotiated everything that map() needs.
    bool has_window() const { return has_window_ && connected_; }

    // For the thread that reads messages.
    void connect(FileDescriptor socket);
    void negotiated(std::uint64_t protocol_features);
    // Until resume(), waiting and new requests get ECANCELED.
    void suspend();
    void resume();
    // From now on, waiting and new requests get ENOTCONN.
    void close();

private:
    BackChannel() = default;
    Result<> ask(BackEndRequest request, ConstBytes payload, int fd) EXCLUDES(turn_);
    Result<> ask_locked(BackEndRequest request, ConstBytes payload, int fd) REQUIRES(turn_);
    Result<> settle_locked() REQUIRES(turn_);
    Result<std::uint64_t> answer_locked(int socket, std::uint32_t request) REQUIRES(turn_);

    // Held for one request and its answer; never by the thread that reads messages.
    Mutex turn_;
    unsigned owed_ GUARDED_BY(turn_) = 0;  // answers to requests that were given up
    bool lost_ GUARDED_BY(turn_) = false;  // we are in the middle of a message

    // A socket is set once.  cancel_ is readable while suspended or closed.
    FileDescriptor socket_, cancel_;
    std::atomic<bool> connected_ = false, suspended_ = false, closed_ = false;
    std::atomic<bool> has_window_ = false, has_barrier_ = false;
};

}  // namespace pmfs::virtio
