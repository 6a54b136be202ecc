// The broker's system calls: its socket, the peer's credentials and groups, device descriptors.
#include "front/broker/broker_socket.h"

#include <linux/sockios.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "base/descriptor_message.h"
#include "base/hex.h"
#include "client/broker_protocol.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77  // Linux 6.5
#endif

namespace pmfs::front {
namespace {

constexpr int kBacklog = 64;
constexpr std::size_t kGroupsMax = 65536;  // NGROUPS_MAX

Result<sockaddr_un> address_of(const std::string &path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof address.sun_path)
        return Error(ENAMETOOLONG, "the path of the broker's directory is too long for a socket");
    std::memcpy(address.sun_path, path.data(), path.size());
    return address;
}

FileDescriptor new_socket() {
    return FileDescriptor(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
}

bool has_listener(const sockaddr_un &address) {
    const FileDescriptor probe = new_socket();
    const auto *generic = reinterpret_cast<const sockaddr *>(&address);
    // EAGAIN: a full backlog, so there is a listener.
    return ::connect(probe.get(), generic, sizeof address) == 0 || errno == EAGAIN;
}

Result<Listener> bind_to(std::string path) {
    const sockaddr_un address = TRY(address_of(path));
    if (has_listener(address)) return Error(EADDRINUSE, "the broker's socket is in use");
    Listener listener{.socket = new_socket(), .path = std::move(path)};
    if (!listener.socket.ok()) return Error(errno, "cannot make the broker's socket");
    ::unlink(listener.path.c_str());  // left by a server that was killed
    const auto *generic = reinterpret_cast<const sockaddr *>(&address);
    if (::bind(listener.socket.get(), generic, sizeof address) != 0)
        return Error(errno, "cannot bind the broker's socket");
    if (::chmod(listener.path.c_str(), 0666) != 0 ||
        ::listen(listener.socket.get(), kBacklog) != 0) {
        const Error error(errno, "cannot listen at the broker's socket");
        ::unlink(listener.path.c_str());
        return error;
    }
    return listener;
}

}  // namespace

bool Peer::is_member_of(gid_t group) const {
    return gid == group || std::find(groups.begin(), groups.end(), group) != groups.end();
}

bool Peer::is_process_of(pid_t thread) const {
    if (thread == 0 || pid == 0) return true;  // another PID namespace: the user id must suffice
    // Signal 0 to "this thread of that process": ESRCH if it does not exist.
    return ::syscall(SYS_tgkill, pid, thread, 0) == 0 || errno == EPERM;
}

Result<Peer> peer_of(int socket) {
    ucred credentials{};
    socklen_t size = sizeof credentials;
    if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0)
        return Error(errno, "cannot read the credentials of a socket's peer");
    Peer peer{.pid = credentials.pid, .uid = credentials.uid, .gid = credentials.gid, .groups = {}};
    size = 0;
    if (::getsockopt(socket, SOL_SOCKET, SO_PEERGROUPS, nullptr, &size) == 0 || errno != ERANGE)
        return peer;  // no groups
    if (size > kGroupsMax * sizeof(gid_t))
        return Error(EINVAL, "a socket's peer is in too many groups");
    peer.groups.resize(size / sizeof(gid_t));
    if (::getsockopt(socket, SOL_SOCKET, SO_PEERGROUPS, peer.groups.data(), &size) != 0)
        return Error(errno, "cannot read the groups of a socket's peer");
    peer.groups.resize(size / sizeof(gid_t));
    return peer;
}

FileDescriptor process_of(int socket, pid_t pid) {
    int fd = -1;
    socklen_t size = sizeof fd;
    if (::getsockopt(socket, SOL_SOCKET, SO_PEERPIDFD, &fd, &size) == 0) return FileDescriptor(fd);
    if (pid <= 0) return {};
    // The number might have been reused in the meantime; but then the peer's end is closed, too.
    return FileDescriptor(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
}

int answer(int socket, const Answer &answer, int descriptor) {
    const pmfs_broker_answer packet{.magic = PMFS_BROKER_MAGIC,
                                    .version = PMFS_BROKER_VERSION,
                                    .error = answer.error,
                                    .writable = answer.writable,
                                    .epoch = answer.epoch,
                                    .claim = answer.claim};
    const std::span<const int> fds(&descriptor, descriptor >= 0 ? 1 : 0);
    return send_with(socket, bytes_of(packet), fds, MSG_DONTWAIT) < 0 ? errno : 0;
}

bool is_gone(int error) {
    return error == EPIPE || error == ECONNRESET || error == ENOTCONN;
}

// What is unread is charged to the sender.
bool has_unread(int socket) {
    int bytes = 0;
    return ::ioctl(socket, SIOCOUTQ, &bytes) == 0 && bytes != 0;
}

std::string run_directory(const std::string &option) {
    if (!option.empty()) return option;
    const char *set = ::secure_getenv("PMFS_RUN_DIR");
    return set != nullptr && *set != 0 ? set : "/run/pmfs";
}

// A user that could write here could replace the socket.
Result<> check_run_directory(const std::string &directory) {
    if (::mkdir(directory.c_str(), 0755) == 0) {
        if (::chmod(directory.c_str(), 0755) != 0)
            return Error(errno, "cannot set the mode of the broker's directory");
    } else if (errno != EEXIST) {
        return Error(errno, "cannot make the broker's directory");
    }
    struct stat status;
    if (::lstat(directory.c_str(), &status) != 0)
        return Error(errno, "cannot examine the broker's directory");
    if (!S_ISDIR(status.st_mode))
        return Error(ENOTDIR, "the path of the broker's directory names something else");
    if (status.st_uid != 0 && status.st_uid != ::geteuid())
        return Error(EPERM, "the broker's directory belongs to another user");
    if ((status.st_mode & 022) != 0)
        return Error(EPERM, "the broker's directory may be written to by other users");
    return {};
}

Result<Listener> listen_at(const std::string &directory, const std::uint8_t (&uuid)[16]) {
    TRY(check_run_directory(directory));
    const std::string stem = directory + "/" + uuid_text(uuid);
    auto first = bind_to(stem + ".sock");
    if (first.ok() || first.error().errno_value() != EADDRINUSE) return first;
    return bind_to(stem + "-" + std::to_string(::getpid()) + ".sock");
}

Result<DeviceDescriptors> open_device(const pm::Region &region, bool writable) {
    if (region.mapping_fd() < 0)
        return Error(EOPNOTSUPP, "this medium cannot be mapped by other processes");
    DeviceDescriptors device;
    device.readable = TRY(region.open_again(false));
    if (!writable) return device;
    // A new description, so that no peer shares flags or locks with the volume itself.
    device.writable = TRY(region.open_again(true));
    return device;
}

}  // namespace pmfs::front
