// The transport of a local mount: /dev/fuse, read by as many threads as there is work for, one for
// each CPU at most; or by one, beside the rings of an UringFuse.
//
// Every thread has a descriptor of its own (FUSE_DEV_IOC_CLONE), so that threads share no list of
// requests in flight, and handles what it reads at once and to its end.  No thread is pinned:
// docs/decisions/0003 says why.
#pragma once
#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "base/file_descriptor.h"
#include "front/requests/dispatcher.h"
#include "front/transports/standby.h"
#include "front/transports/transport.h"

namespace pmfs::front {

class DevFuse final : public Transport {
public:
    // `device` is /dev/fuse, already given to mount(2).  `ended` is an eventfd, counted up when a
    // thread ends: the filesystem was unmounted.
    DevFuse(Dispatcher &dispatcher, Traffic &traffic, FileDescriptor device, int ended);
    ~DevFuse() override;

    // Answers the kernel's first request, INIT.  ENODEV: unmounted before that; EPROTO: the kernel
    // and libfuse do not agree.
    Result<> handshake();
    // Before start(): most requests will come through rings.
    void serve_rest() { threads_max_ = 1; }
    // False: the filesystem was unmounted.
    bool running() const { return running_.load() != 0; }
    int device() const;

    Result<> start() override;
    void stop() override;
    void join() override;

private:
    class Queue;
    void serve(Queue &queue);

    Dispatcher &dispatcher_;
    Traffic &traffic_;
    const int ended_;
    std::size_t threads_max_;
    std::vector<std::unique_ptr<Queue>> queues_;  // the first has the descriptor that was mounted
    std::vector<std::thread> threads_;
    Standby standby_;
    std::atomic<bool> stopping_{false};
    std::atomic<unsigned> running_{0};
};

}  // namespace pmfs::front
