// The thread of one started queue: waits for kicks, takes chains, hands them to the device.
#pragma once
#include <atomic>
#include <chrono>
#include <memory>
#include <thread>

#include "base/file_descriptor.h"
#include "base/result.h"
#include "virtio/device.h"

namespace pmfs::virtio {

class QueueThread {
public:
    struct Setup {
        unsigned index;
        std::shared_ptr<Virtqueue> queue;
        FileDescriptor kick;  // an eventfd
        bool enabled;
        // For how long it polls for another chain before it sleeps.
        std::chrono::microseconds polling;
    };
    static Result<std::unique_ptr<QueueThread>> start(Device &device, Setup setup);
    // Ends and joins.
    ~QueueThread();
    QueueThread(const QueueThread &) = delete;
    QueueThread &operator=(const QueueThread &) = delete;

    // A queue that is not enabled is not served.
    void enable(bool enabled);
    // It takes no more chains; the one that the device is handling continues.
    void end();

private:
    QueueThread(Device &device, Setup setup) : device_(device), setup_(std::move(setup)) {}
    void run();
    void drain();
    bool active() const { return enabled_ && !ending_; }
    std::unique_ptr<Chain> take_or_poll();
    void wake();

    Device &device_;
    const Setup setup_;
    FileDescriptor wake_;
    std::atomic<bool> enabled_ = false, ending_ = false;
    std::thread thread_;
};

}  // namespace pmfs::virtio
