// The listening socket and the thread that serves whoever connects.
#include "virtio/back_end.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>

#include "base/thread.h"

namespace pmfs::virtio {
namespace {

FileDescriptor new_socket() {
    return FileDescriptor(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
}

Result<sockaddr_un> address_of(const std::string &path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.empty() || path.size() >= sizeof address.sun_path)
        return Error(ENAMETOOLONG, "a vhost-user socket needs a name of 1 to 107 bytes");
    std::memcpy(address.sun_path, path.data(), path.size());
    return address;
}

const sockaddr *generic(const sockaddr_un &address) {
    return reinterpret_cast<const sockaddr *>(&address);
}

// A socket of a server that was killed goes; nothing else does.
Result<> make_room(const sockaddr_un &address) {
    struct stat status {};
    if (::lstat(address.sun_path, &status) != 0) return {};
    if (!S_ISSOCK(status.st_mode))
        return Error(EEXIST, "there is a file where the vhost-user socket should be");
    const FileDescriptor probe = new_socket();
    // EAGAIN: a full backlog, so there is a listener.
    if (::connect(probe.get(), generic(address), sizeof address) == 0 || errno == EAGAIN)
        return Error(EADDRINUSE, "somebody listens at the vhost-user socket");
    if (errno != ECONNREFUSED) return Error(errno, "cannot look at the vhost-user socket");
    ::unlink(address.sun_path);
    return {};
}

}  // namespace

BackEnd::BackEnd(Device &device, std::string path, SessionOptions options)
    : device_(device), path_(std::move(path)), options_(std::move(options)) {}

Result<std::unique_ptr<BackEnd>> BackEnd::listen(Device &device, std::string path,
                                                 SessionOptions options) {
    PMFS_ASSERT(device.queues() >= 1 && device.queues() <= kQueueMask + 1);
    std::unique_ptr<BackEnd> back_end(new BackEnd(device, std::move(path), std::move(options)));
    back_end->stop_ = FileDescriptor(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!back_end->stop_.ok()) return Error(errno, "cannot make an eventfd");
    TRY(back_end->bind());
    back_end->thread_ = TRY(start_thread("vhost-user", [it = back_end.get()] { it->run(); }));
    return back_end;
}

Result<> BackEnd::bind() {
    const sockaddr_un address = TRY(address_of(path_));
    TRY(make_room(address));
    listener_ = new_socket();
    // The mode of the socket becomes that of its name.
    if (!listener_.ok() || ::fchmod(listener_.get(), 0600) != 0)
        return Error(errno, "cannot make the vhost-user socket");
    struct stat status {};
    if (::bind(listener_.get(), generic(address), sizeof address) != 0 ||
        ::lstat(path_.c_str(), &status) != 0 || ::listen(listener_.get(), 1) != 0)
        return Error(errno, "cannot listen at the vhost-user socket");
    bound_device_ = status.st_dev;
    bound_inode_ = status.st_ino;
    return {};
}

BackEnd::~BackEnd() {
    ending_ = true;
    const std::uint64_t one = 1;
    (void)!::write(stop_.get(), &one, sizeof one);
    if (thread_.joinable()) thread_.join();
    struct stat status {};
    if (bound_inode_ != 0 && ::lstat(path_.c_str(), &status) == 0 &&
        status.st_dev == bound_device_ && status.st_ino == bound_inode_)
        ::unlink(path_.c_str());
}

void BackEnd::run() {
    while (!ending_) {
        if (const auto ready = wait_readable(listener_.get(), stop_.get());
            !ready.ok() || !ready.value())
            continue;
        FileDescriptor socket(
            ::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
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
            {socket, POLLIN, 0}, {listener_.get(), POLLIN, 0}, {stop_.get(), POLLIN, 0}};
        if (::poll(all, 3, -1) < 0) continue;
        // Once more: the first one may have hung up before the second one came.
        if (all[1].revents != 0 && ::poll(all, 1, 0) == 0) turn_away();
        if (all[0].revents != 0) return !ending_;
    }
    return false;
}

void BackEnd::turn_away() const {
    const FileDescriptor another(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (another.ok()) options_.log("a second front end is turned away: the device has one");
}

}  // namespace pmfs::virtio
