// The ioctls of fs/client/pmfs_ioctl.h, on the server's side: bytes in, volume words, bytes out.
//
// Transports call handle_ioctl() with what the kernel sent and answer with what `done` gets, also
// when the result is an error: the kernel copies the bytes out in either case, and that is how an
// offset comes back with EINVAL.
#pragma once
#include <functional>
#include <span>
#include <vector>

#include "front/clients/clients.h"
#include "volume/volume.h"

namespace pmfs::front {

class Broker;

struct IoctlRequest {
    InodeNo ino;
    HandleId handle = 0;            // 0: a directory
    unsigned command = 0;           // as sent by the program
    std::span<const std::byte> in;  // what the kernel copied in; copied before handle_ioctl returns
    std::size_t out_size = 0;       // the most that may be answered
    Caller caller;
    // Called before the request waits; null: it must not wait (EAGAIN).  Empty: it always may.
    std::function<Seats::Seat()> take_seat = {};
};

struct IoctlReply {
    int error = 0;               // 0 or a positive errno value
    std::vector<std::byte> out;  // at most out_size bytes
};
using IoctlDone = std::function<void(IoctlReply)>;

struct IoctlContext {
    Volume &volume;
    Clients &clients;
    Client &client;            // that asks
    Broker *broker = nullptr;  // null: no direct mappings (EOPNOTSUPP)
};

// Calls `done` exactly once, before it returns or later and from another thread. `context` must
// outlive that.
void handle_ioctl(IoctlContext &context, const IoctlRequest &request, IoctlDone done);

}  // namespace pmfs::front
