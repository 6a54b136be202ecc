// vhost-user's messages, as bytes on a UNIX socket: QEMU's docs/interop/vhost-user.rst, and what
// QEMU 11.1 does where the document differs (VHOST_USER_PROTOCOL_F_SHMEM is bit 22).
//
// kRequests gives the size and the number of descriptors of each request that we accept.  Anything
// else is an error before its content is read, and its descriptors are closed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/bytes.h"
#include "base/file_descriptor.h"
#include "base/result.h"
#include "virtio/guest_memory.h"
#include "virtio/kernel_headers.h"

namespace pmfs::virtio {

enum class Request : std::uint32_t {
    get_features = 1,
    set_features = 2,
    set_owner = 3,
    reset_owner = 4,
    set_mem_table = 5,
    set_vring_num = 8,
    set_vring_addr = 9,
    set_vring_base = 10,
    get_vring_base = 11,
    set_vring_kick = 12,
    set_vring_call = 13,
    set_vring_err = 14,
    get_protocol_features = 15,
    set_protocol_features = 16,
    get_queue_num = 17,
    set_vring_enable = 18,
    set_backend_req_fd = 21,
    get_config = 24,
    set_config = 25,
    reset_device = 34,
    get_max_mem_slots = 36,
    add_mem_reg = 37,
    rem_mem_reg = 38,
    set_status = 39,
    get_status = 40,
    get_shmem_config = 44,
};
// From us to the front end, on a socket of their own.
enum class BackEndRequest : std::uint32_t { config_change = 2, shmem_map = 9, shmem_unmap = 10 };

// Of the device.
inline constexpr std::uint64_t kFeatureProtocol = std::uint64_t{1} << 30;
// Of the protocol, as bit numbers.
enum class Protocol : unsigned {
    mq = 0,
    reply_ack = 3,
    backend_req = 5,
    config = 9,
    backend_send_fd = 10,
    reset_device = 13,
    configure_mem_slots = 15,
    status = 16,
    shmem = 22,
};
constexpr std::uint64_t bit(Protocol feature) {
    return std::uint64_t{1} << static_cast<unsigned>(feature);
}

struct Header {
    static constexpr std::uint32_t kVersion = 1, kVersionMask = 3, kReply = 4, kNeedReply = 8;
    std::uint32_t request;
    std::uint32_t flags;
    std::uint32_t size;  // of what follows
};
static_assert(sizeof(Header) == 12);

// Payloads; vhost_vring_state and vhost_vring_addr are the kernel's.
inline constexpr std::size_t kTableRegionsMax = 8;  // in one set_mem_table
struct ConfigAccess {                               // and `size` bytes
    std::uint32_t offset, size, flags;
};
inline constexpr std::size_t kConfigMax = 256;
struct SingleRegion {
    std::uint64_t padding;
    MemoryRegion region;
};
struct WindowMap {
    static constexpr std::uint64_t kWritable = 1;
    std::uint8_t id;
    std::uint8_t padding[7];
    std::uint64_t fd_offset, window_offset, size, flags;
};
static_assert(sizeof(WindowMap) == 40);
struct WindowSizes {
    std::uint32_t count, padding;
    std::uint64_t sizes[256];  // by id
};
// In set_vring_kick, _call and _err: the queue, and that no descriptor comes with it.
inline constexpr std::uint64_t kQueueMask = 0xff, kNoDescriptor = 0x100;

inline constexpr std::size_t kPayloadMax = sizeof(ConfigAccess) + kConfigMax;

struct Message {
    Header header{};
    std::vector<std::byte> payload;
    std::vector<FileDescriptor> fds;

    Request request() const { return static_cast<Request>(header.request); }
    bool needs_reply() const { return (header.flags & Header::kNeedReply) != 0; }
};

// A sentence that says what is wrong with a request; null: nothing.  `offered`: the protocol
// features that the back end has.
const char *fault_of(const Message &message, std::uint64_t offered);
// Whether it is in the table.
bool is_known(std::uint32_t request, std::uint64_t offered);

// Both wait until it is done, or until `cancel` (an eventfd) is readable and nothing can be done:
// ECANCELED.  ECONNRESET: the other side is gone, or in the middle of a message.  EPROTO: not a
// valid message (a wrong version, a payload that is too large).
Result<Message> receive_message(int socket, int cancel);
Result<> send_message(int socket, int cancel, Header header, ConstBytes payload, int fd = -1);

// Waits until the socket can be read: true; or only `cancel` can: false.
Result<bool> wait_readable(int socket, int cancel);

}  // namespace pmfs::virtio
