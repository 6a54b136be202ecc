// Control messages are packed here and nowhere else.
#include "base/descriptor_message.h"

#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>

namespace pmfs {

using Control = std::array<std::byte, CMSG_SPACE(kDescriptorsMax * sizeof(int))>;

ssize_t send_with(int socket, ConstBytes bytes, std::span<const int> fds, int flags) {
    PMFS_ASSERT(fds.size() <= kDescriptorsMax);
    iovec place{const_cast<std::byte *>(bytes.data()), bytes.size()};
    alignas(cmsghdr) Control control;
    msghdr message{};
    message.msg_iov = &place;
    message.msg_iovlen = 1;
    if (!fds.empty()) {
        message.msg_control = control.data();
        message.msg_controllen = CMSG_SPACE(fds.size_bytes());
        std::memset(control.data(), 0, message.msg_controllen);
        cmsghdr *const part = CMSG_FIRSTHDR(&message);
        part->cmsg_level = SOL_SOCKET;
        part->cmsg_type = SCM_RIGHTS;
        part->cmsg_len = CMSG_LEN(fds.size_bytes());
        std::memcpy(CMSG_DATA(part), fds.data(), fds.size_bytes());
    }
    return ::sendmsg(socket, &message, flags | MSG_NOSIGNAL);
}

ssize_t receive_with(int socket, Bytes to, std::vector<FileDescriptor> *fds, int flags) {
    iovec place{to.data(), to.size()};
    alignas(cmsghdr) Control control;
    msghdr message{};
    message.msg_iov = &place;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    const ssize_t got = ::recvmsg(socket, &message, flags | MSG_CMSG_CLOEXEC);
    if (got < 0) return got;
    // From here on we own them, even if something else is wrong.
    for (cmsghdr *part = CMSG_FIRSTHDR(&message); part != nullptr;
         part = CMSG_NXTHDR(&message, part)) {
        if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
        const std::size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (std::size_t i = 0; i < count; ++i) {
            int fd = -1;
            std::memcpy(&fd, CMSG_DATA(part) + i * sizeof fd, sizeof fd);
            fds->emplace_back(fd);
        }
    }
    if ((message.msg_flags & MSG_CTRUNC) == 0) return got;
    errno = EMFILE;
    return -1;
}

}  // namespace pmfs
