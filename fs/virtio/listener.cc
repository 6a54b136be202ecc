// Binding the socket, and checking what else is at its path.
#include "virtio/listener.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>

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

// Removes the socket of a server that was killed, and nothing else.
Result<> make_room(const sockaddr_un &address) {
    struct stat status {};
    if (::lstat(address.sun_path, &status) != 0) return {};
    if (!S_ISSOCK(status.st_mode))
        return Error(EEXIST, "there is a file where the vhost-user socket should be");
    const FileDescriptor probe = new_socket();
    // EAGAIN: a full backlog, so there is a listener.
    if (::connect(probe.get(), generic(address), sizeof address) == 0 || errno == EAGAIN)
        return Error(EADDRINUSE, "the vhost-user socket is in use");
    if (errno != ECONNREFUSED) return Error(errno, "cannot look at the vhost-user socket");
    ::unlink(address.sun_path);
    return {};
}

}  // namespace

Result<Listener> Listener::bind(std::string path) {
    const sockaddr_un address = TRY(address_of(path));
    TRY(make_room(address));
    Listener made;
    made.socket_ = new_socket();
    // The mode of the socket becomes that of its name.
    if (!made.socket_.ok() || ::fchmod(made.socket_.get(), 0600) != 0)
        return Error(errno, "cannot make the vhost-user socket");
    struct stat status {};
    if (::bind(made.socket_.get(), generic(address), sizeof address) != 0 ||
        ::lstat(path.c_str(), &status) != 0)
        return Error(errno, "cannot make the vhost-user socket");
    made.path_ = std::move(path);
    made.device_ = status.st_dev;
    made.inode_ = status.st_ino;
    if (::listen(made.socket_.get(), 1) != 0)
        return Error(errno, "cannot listen at the vhost-user socket");
    return made;
}

void Listener::remove() const {
    struct stat status {};
    if (!path_.empty() && ::lstat(path_.c_str(), &status) == 0 && status.st_dev == device_ &&
        status.st_ino == inode_)
        ::unlink(path_.c_str());
}

}  // namespace pmfs::virtio
