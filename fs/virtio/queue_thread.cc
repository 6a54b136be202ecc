// See queue_thread.h.
#include "virtio/queue_thread.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/thread.h"
#include "virtio/event.h"

namespace pmfs::virtio {

Result<std::unique_ptr<QueueThread>> QueueThread::start(Device &device, Setup setup) {
    std::unique_ptr<QueueThread> queue(new QueueThread(device, std::move(setup)));
    queue->enabled_ = queue->setup_.enabled;
    queue->wake_ = FileDescriptor(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!queue->wake_.ok()) return Error(errno, "cannot make an eventfd");
    queue->thread_ = TRY(start_thread("virtqueue", [it = queue.get()] { it->run(); }));
    return queue;
}

QueueThread::~QueueThread() {
    if (!thread_.joinable()) return;
    end();
    thread_.join();
}

void QueueThread::wake() {
    const std::uint64_t one = 1;
    (void)!::write(wake_.get(), &one, sizeof one);
}

void QueueThread::enable(bool enabled) {
    enabled_ = enabled;
    wake();
}

void QueueThread::end() {
    ending_ = true;
    wake();
}

void QueueThread::run() {
    pollfd both[] = {{setup_.kick.get(), POLLIN, 0}, {wake_.get(), POLLIN, 0}};
    while (!ending_) {
        if (enabled_) drain();
        if (::poll(both, 2, -1) < 0) continue;
        if (both[0].revents != 0 && !take_count(both[0].fd)) both[0].fd = -1;
        if (both[1].revents != 0) take_count(both[1].fd);
    }
}

// Without a kick for each: chains that are offered meanwhile are found by polling.
void QueueThread::drain() {
    Virtqueue &queue = *setup_.queue;
    do {
        queue.stop_kicks();
        while (active()) {
            auto chain = take_or_poll();
            if (!chain) break;
            device_.request(setup_.index, std::move(chain));
        }
    } while (active() && queue.want_kicks());
}

std::unique_ptr<Chain> QueueThread::take_or_poll() {
    auto chain = setup_.queue->take();
    if (chain || setup_.polling.count() == 0) return chain;
    const auto end = std::chrono::steady_clock::now() + setup_.polling;
    while (active() && !setup_.queue->pending() && std::chrono::steady_clock::now() < end)
        std::this_thread::yield();
    return setup_.queue->take();
}

}  // namespace pmfs::virtio
