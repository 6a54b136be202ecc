// Threads that read /dev/fuse: how many, how they start, how they are made to end.
#include "front/transports/dev_fuse.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstring>

#include "base/thread.h"

namespace pmfs::front {
namespace {

// The size on which libfuse and the kernel agree: the largest write and a page for its headers.
constexpr std::size_t kMessageMax = (std::size_t{1} << 20) + 4096;

// One for the next request, one for a background request meanwhile (such as a RELEASE), and one
// more.
constexpr unsigned kReadersMax = 3;

// Interrupts a read of /dev/fuse, so that its thread looks at stopping_.
constexpr int kWakeSignal = SIGUSR1;

void on_wake(int) {}

// One for each CPU that we may use, and never fewer than two: the kernel may send a write-back
// while a thread is busy.
std::size_t thread_count() {
    cpu_set_t set;
    CPU_ZERO(&set);
    const bool known = sched_getaffinity(0, sizeof set, &set) == 0;
    return std::max<std::size_t>(2, known ? static_cast<std::size_t>(CPU_COUNT(&set)) : 0);
}

}  // namespace

// A descriptor of the connection, and the memory that its requests are read into.
class DevFuse::Queue final : public ReplyPort {
public:
    explicit Queue(FileDescriptor device) : device_(std::move(device)) {
        void *memory = ::mmap(nullptr, kMessageMax, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        PMFS_ASSERT(memory != MAP_FAILED);
        buffer_ = Bytes(static_cast<std::byte *>(memory), kMessageMax);
    }
    ~Queue() override { ::munmap(buffer_.data(), buffer_.size()); }

    int device() const { return device_.get(); }

    // The next request; empty with errno when there is none.
    Bytes receive() {
        const ssize_t size = ::read(device_.get(), buffer_.data(), buffer_.size());
        if (size < static_cast<ssize_t>(sizeof(fuse_in_header))) return {};
        return buffer_.first(static_cast<std::size_t>(size));
    }
    ssize_t send(std::span<const iovec> message) override {
        return ::writev(device_.get(), message.data(), static_cast<int>(message.size()));
    }

private:
    FileDescriptor device_;
    Bytes buffer_;
};

DevFuse::DevFuse(Dispatcher &dispatcher, Traffic &traffic, FileDescriptor device, int ended)
    : dispatcher_(dispatcher),
      traffic_(traffic),
      ended_(ended),
      threads_max_(thread_count()),
      standby_(kReadersMax) {
    queues_.push_back(std::make_unique<Queue>(std::move(device)));
    dispatcher_.set_notification_port(queues_.front().get());
}

DevFuse::~DevFuse() {
    stop();
    join();
    dispatcher_.set_notification_port(nullptr);
}

int DevFuse::device() const {
    return queues_.front()->device();
}

Result<> DevFuse::handshake() {
    Queue &queue = *queues_.front();
    for (;;) {
        const Bytes message = queue.receive();
        if (!message.empty()) {
            dispatcher_.dispatch(queue, message);
            if (dispatcher_.ready()) return {};
            return Error(EPROTO, "the kernel and libfuse could not agree on a protocol");
        }
        if (errno != EINTR && errno != ENOENT)
            return Error(errno, "the kernel ended the connection before it began");
    }
}

Result<> DevFuse::start() {
    struct sigaction wake {};
    wake.sa_handler = on_wake;  // no SA_RESTART: a read in progress returns EINTR
    ::sigaction(kWakeSignal, &wake, nullptr);

    const auto mounted = static_cast<std::uint32_t>(device());
    for (std::size_t i = 1; i < threads_max_; i++) {
        FileDescriptor clone(::open("/dev/fuse", O_RDWR | O_CLOEXEC));
        std::uint32_t of = mounted;
        if (!clone.ok() || ::ioctl(clone.get(), FUSE_DEV_IOC_CLONE, &of) != 0)
            return Error(errno, "cannot open /dev/fuse again for another thread");
        queues_.push_back(std::make_unique<Queue>(std::move(clone)));
    }
    for (const auto &queue : queues_) {
        running_.fetch_add(1);
        auto started = start_thread("pmfs-fuse", [this, &queue = *queue] {
            serve(queue);
            standby_.end();
            running_.fetch_sub(1);
            ::eventfd_write(ended_, 1);
        });
        if (!started.ok()) {
            running_.fetch_sub(1);
            return started.error();
        }
        threads_.push_back(std::move(started).take());
    }
    return {};
}

void DevFuse::serve(Queue &queue) {
    sigset_t wake;
    ::sigemptyset(&wake);
    ::sigaddset(&wake, kWakeSignal);
    ::pthread_sigmask(SIG_UNBLOCK, &wake, nullptr);
    while (!stopping_.load(std::memory_order_relaxed) && standby_.enter()) {
        const Bytes message = queue.receive();
        standby_.leave();
        if (!message.empty()) {
            traffic_.note();
            dispatcher_.dispatch(queue, message);
            continue;
        }
        // ENOENT: the request was interrupted before it was read.
        if (errno == EINTR || errno == ENOENT || errno == EAGAIN) continue;
        if (errno != ENODEV) spdlog::error("reading /dev/fuse: {}", std::strerror(errno));
        return;  // ENODEV: unmounted, or the connection was aborted
    }
}

void DevFuse::stop() {
    stopping_.store(true, std::memory_order_relaxed);
    standby_.end();
    // The signal may come just before a thread begins to read, so it is sent repeatedly.
    while (running_.load() != 0) {
        for (std::thread &thread : threads_) pthread_kill(thread.native_handle(), kWakeSignal);
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
}

void DevFuse::join() {
    for (std::thread &thread : threads_) thread.join();
    threads_.clear();
}

}  // namespace pmfs::front
