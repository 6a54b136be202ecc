// The thread that serves the front ends that connect.
#include "virtio/back_end.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <cerrno>

#include "base/thread.h"

namespace pmfs::virtio {

BackEnd::BackEnd(Device &device, Listener listener, SessionOptions options)
    : device_(device), listener_(std::move(listener)), options_(std::move(options)) {}

Result<std::unique_ptr<BackEnd>> BackEnd::start(Device &device, Listener listener,
                                                SessionOptions options) {
    PMFS_ASSERT(device.queues() >= 1 && device.queues() <= kQueueMask + 1);
    std::unique_ptr<BackEnd> back_end(new BackEnd(device, std::move(listener), std::move(options)));
    back_end->stop_ = FileDescriptor(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!back_end->stop_.ok()) return Error(errno, "cannot make an eventfd");
    back_end->thread_ = TRY(start_thread("vhost-user", [it = back_end.get()] { it->run(); }));
    return back_end;
}

BackEnd::~BackEnd() {
    ending_ = true;
    const std::uint64_t one = 1;
    (void)!::write(stop_.get(), &one, sizeof one);
    if (thread_.joinable()) thread_.join();
}

void BackEnd::run() {
    while (!ending_) {
        if (const auto ready = wait_readable(listener_.socket(), stop_.get());
            !ready.ok() || !ready.value())
            continue;
        FileDescriptor socket(
            ::accept4(listener_.socket(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
        if (socket.ok()) serve(std::move(socket));
    }
}

void BackEnd::serve(FileDescriptor socket) {
    ucred credentials{};
    socklen_t size = sizeof credentials;
    auto channel = BackChannel::make();
    if (::getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0 ||
        !channel.ok()) {
        options_.log("a front end cannot be served: the system gives no more");
        return;
    }
    const int fd = socket.get();
    device_.connected({credentials.pid, credentials.uid, credentials.gid}, channel.value());
    {
        Session session(device_, options_, std::move(socket), stop_.get(),
                        std::move(channel).take());
        while (wait(fd)) {
            const auto stepped = session.step();
            if (stepped.ok()) continue;
            const int error = stepped.error().errno_value();
            if (error != ECONNRESET && error != ECANCELED)
                options_.log(std::string("a front end is disconnected: ") + stepped.error().what());
            break;
        }
    }
    device_.disconnected();
}

// True: there is a message, or the front end is gone.  False: the end.
bool BackEnd::wait(int socket) const {
    while (!ending_) {
        pollfd all[] = {
            {socket, POLLIN, 0}, {listener_.socket(), POLLIN, 0}, {stop_.get(), POLLIN, 0}};
        if (::poll(all, 3, -1) < 0) continue;
        // Once more: the first front end may have hung up before the second one connected.
        if (all[1].revents != 0 && ::poll(all, 1, 0) == 0) turn_away();
        if (all[0].revents != 0) return !ending_;
    }
    return false;
}

void BackEnd::turn_away() const {
    const FileDescriptor another(::accept4(listener_.socket(), nullptr, nullptr, SOCK_CLOEXEC));
    if (another.ok()) options_.log("a second front end is turned away: the device has one");
}

}  // namespace pmfs::virtio
