// The table of messages, and moving them with their descriptors.
#include "virtio/vhost_user.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

#include "base/descriptor_message.h"

namespace pmfs::virtio {
namespace {

struct Row {
    Request request;
    std::size_t size;  // of the payload; where `each` is not 0, its fixed part
    std::size_t each;  // what may follow any number of times
    std::size_t fds_min, fds_max;
    std::uint64_t feature;  // the protocol feature that has it; 0: every back end has
};

constexpr std::size_t kNumber = sizeof(std::uint64_t), kState = sizeof(vhost_vring_state);
constexpr Row kRequests[] = {
    {Request::get_features, 0, 0, 0, 0, 0},
    {Request::set_features, kNumber, 0, 0, 0, 0},
    {Request::set_owner, 0, 0, 0, 0, 0},
    {Request::reset_owner, 0, 0, 0, 0, 0},
    {Request::set_mem_table, 8, sizeof(MemoryRegion), 0, kTableRegionsMax, 0},
    {Request::set_vring_num, kState, 0, 0, 0, 0},
    {Request::set_vring_addr, sizeof(vhost_vring_addr), 0, 0, 0, 0},
    {Request::set_vring_base, kState, 0, 0, 0, 0},
    {Request::get_vring_base, kState, 0, 0, 0, 0},
    {Request::set_vring_kick, kNumber, 0, 0, 1, 0},
    {Request::set_vring_call, kNumber, 0, 0, 1, 0},
    {Request::set_vring_err, kNumber, 0, 0, 1, 0},
    {Request::get_protocol_features, 0, 0, 0, 0, 0},
    {Request::set_protocol_features, kNumber, 0, 0, 0, 0},
    {Request::get_queue_num, 0, 0, 0, 0, bit(Protocol::mq)},
    {Request::set_vring_enable, kState, 0, 0, 0, 0},
    {Request::set_backend_req_fd, 0, 0, 1, 1, bit(Protocol::backend_req)},
    {Request::get_config, sizeof(ConfigAccess), 1, 0, 0, bit(Protocol::config)},
    {Request::set_config, sizeof(ConfigAccess), 1, 0, 0, bit(Protocol::config)},
    {Request::reset_device, 0, 0, 0, 0, bit(Protocol::reset_device)},
    {Request::get_max_mem_slots, 0, 0, 0, 0, bit(Protocol::configure_mem_slots)},
    {Request::add_mem_reg, sizeof(SingleRegion), 0, 1, 1, bit(Protocol::configure_mem_slots)},
    // (Some front ends send a descriptor here, too.)
    {Request::rem_mem_reg, sizeof(SingleRegion), 0, 0, 1, bit(Protocol::configure_mem_slots)},
    {Request::set_status, kNumber, 0, 0, 0, bit(Protocol::status)},
    {Request::get_status, 0, 0, 0, 0, bit(Protocol::status)},
    {Request::get_shmem_config, 0, 0, 0, 0, bit(Protocol::shmem)},
};

const Row *row_of(std::uint32_t request, std::uint64_t offered) {
    const auto row = std::find_if(std::begin(kRequests), std::end(kRequests), [&](const Row &r) {
        return static_cast<std::uint32_t>(r.request) == request &&
               (r.feature == 0 || (r.feature & offered) != 0);
    });
    return row == std::end(kRequests) ? nullptr : row;
}

// What a payload with a part of any length says of its length.
const char *fault_of_length(const Message &message) {
    switch (message.request()) {
        case Request::set_mem_table: {
            const auto count = load<std::uint32_t>(message.payload);
            if (count > kTableRegionsMax ||
                message.payload.size() != 8 + count * sizeof(MemoryRegion))
                return "a memory table has not the size that it says";
            return message.fds.size() == count ? nullptr
                                               : "a memory table has not a descriptor a region";
        }
        case Request::get_config:
        case Request::set_config: {
            const auto access = load<ConfigAccess>(message.payload);
            return access.size == message.payload.size() - sizeof access
                       ? nullptr
                       : "a request for the configuration has not the size that it says";
        }
        case Request::set_vring_kick:
        case Request::set_vring_call:
        case Request::set_vring_err: {
            const bool none = (load<std::uint64_t>(message.payload) & kNoDescriptor) != 0;
            return message.fds.empty() == none ? nullptr
                                               : "a queue's event has not the descriptor it says";
        }
        default:
            return nullptr;
    }
}

Result<bool> wait_for(int socket, short events, int cancel) {
    pollfd both[] = {{socket, events, 0}, {cancel, POLLIN, 0}};
    while (::poll(both, 2, -1) < 0) {
        if (errno != EINTR) return Error(errno, "cannot wait for a front end");
    }
    return both[0].revents != 0;
}

bool try_again(int error) {
    return error == EINTR || error == EAGAIN || error == EWOULDBLOCK;
}

Result<> receive_bytes(int socket, int cancel, Bytes to, std::vector<FileDescriptor> *fds) {
    while (!to.empty()) {
        if (!TRY(wait_for(socket, POLLIN, cancel)))
            return Error(ECANCELED, "the connection is being closed");
        const ssize_t got = receive_with(socket, to, fds, MSG_DONTWAIT);
        if (got < 0 && errno == EMFILE)
            return Error(EMFILE, "no room for a front end's descriptors (RLIMIT_NOFILE)");
        if (got < 0 && try_again(errno)) continue;
        if (got <= 0) return Error(ECONNRESET, "the front end is gone");
        to = to.subspan(static_cast<std::size_t>(got));
    }
    return {};
}

}  // namespace

bool is_known(std::uint32_t request, std::uint64_t offered) {
    return row_of(request, offered) != nullptr;
}

const char *fault_of(const Message &message, std::uint64_t offered) {
    const Row *const row = row_of(message.header.request, offered);
    if (row == nullptr) return "a request that this back end does not have";
    const std::size_t size = message.payload.size();
    if (size < row->size || (row->each == 0 && size != row->size))
        return "a request has not the size that it should have";
    if (message.fds.size() < row->fds_min || message.fds.size() > row->fds_max)
        return "a request has too few descriptors, or too many";
    return fault_of_length(message);
}

Result<bool> wait_readable(int socket, int cancel) {
    return wait_for(socket, POLLIN, cancel);
}

Result<Message> receive_message(int socket, int cancel) {
    Message message;
    TRY(receive_bytes(socket, cancel, writable_bytes_of(message.header), &message.fds));
    if ((message.header.flags & Header::kVersionMask) != Header::kVersion)
        return Error(EPROTO, "a message of another version");
    if (message.header.size > kPayloadMax) return Error(EPROTO, "a message is too large");
    message.payload.resize(message.header.size);
    TRY(receive_bytes(socket, cancel, message.payload, &message.fds));
    return message;
}

Result<> send_message(int socket, int cancel, Header header, ConstBytes payload, int fd) {
    header.size = static_cast<std::uint32_t>(payload.size());
    const ConstBytes head = bytes_of(header);
    std::vector<std::byte> bytes(head.begin(), head.end());
    bytes.insert(bytes.end(), payload.begin(), payload.end());
    for (std::size_t sent = 0; sent < bytes.size();) {
        if (!TRY(wait_for(socket, POLLOUT, cancel))) {
            return sent == 0 ? Error(ECANCELED, "the connection is being closed: nothing was sent")
                             : Error(ECONNRESET, "half a message has been sent");
        }
        // (With the first byte.)
        const std::span<const int> fds(&fd, fd >= 0 && sent == 0 ? 1 : 0);
        const ssize_t done = send_with(socket, std::span(bytes).subspan(sent), fds, MSG_DONTWAIT);
        if (done < 0 && try_again(errno)) continue;
        if (done < 0) return Error(ECONNRESET, "the front end is gone");
        sent += static_cast<std::size_t>(done);
    }
    return {};
}

}  // namespace pmfs::virtio
