// One datagram to a Unix socket.
#include "front/mount/readiness.h"

#include <sys/socket.h>
#include <sys/un.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <string_view>

namespace pmfs::front {

Readiness::Readiness() {
    const char *const named = std::getenv("NOTIFY_SOCKET");
    const std::string_view name = named != nullptr ? named : "";
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (name.size() < 2 || name.size() >= sizeof address.sun_path) return;
    std::memcpy(address.sun_path, name.data(), name.size());
    if (name.front() == '@') address.sun_path[0] = 0;  // an abstract name
    const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size());
    FileDescriptor socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (socket.ok() &&
        ::connect(socket.get(), reinterpret_cast<const sockaddr *>(&address), length) == 0)
        socket_ = std::move(socket);
}

void Readiness::tell() const {
    constexpr std::string_view kReady = "READY=1\nSTATUS=serving";
    if (socket_.ok()) (void)::send(socket_.get(), kReady.data(), kReady.size(), MSG_NOSIGNAL);
}

}  // namespace pmfs::front
