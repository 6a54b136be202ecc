// The parts of a request that libfuse does not pass to an operation: where it came from, flags
// newer than the library, its bytes, so that it can be parked and dispatched again, and the
// progress of an operation that has begun.
//
// It is attached to the thread that answers the request, because libfuse 3.14 passes an operation a
// fuse_req_t without a pointer for us: the user data belongs to the session. A session for each
// thread would need an INIT each, and would send an answer from another thread to the wrong
// request. The number of the message cannot be read from a fuse_req_t either. So the dispatcher,
// and answers that come later, make a Request for one scope; code that needs it longer copies what
// it needs.
#pragma once
#include <linux/fuse.h>
#include <sys/uio.h>

#include "base/bytes.h"
#include "front/clients/seats.h"
#include "front/requests/statx.h"
#include "front/transports/transport.h"
#include "volume/progress.h"

namespace pmfs::front {

class Request {
public:
    // `told`: Clients::told_so_far().
    Request(const Port &port, ConstBytes message, bool flushed, std::uint64_t told,
            unsigned read_ins = 0, std::span<const iovec> apart = {})
        : port_(port),
          message_(message),
          apart_(apart),
          flushed_(flushed),
          told_(told),
          read_ins_(read_ins),
          outer_(current_) {
        current_ = this;
    }
    ~Request() { current_ = outer_; }
    Request(const Request &) = delete;
    Request &operator=(const Request &) = delete;

    // The request that this thread is answering; null outside of one.
    static const Request *current() { return current_; }

    const Port &port() const { return port_; }
    ConstBytes message() const { return message_; }
    // The payload of a WRITE, if it is not in its message; valid as long as its port lives.
    std::span<const iovec> apart() const { return apart_; }
    Progress &progress() const { return progress_; }
    // Its seat; null: it has not waited yet.
    Seats::Seat &seat() const { return seat_; }
    // The kernel's dirty pages of its file were written back for this run of it.
    bool flushed() const { return flushed_; }
    std::uint64_t told() const { return told_; }
    // How often it was run again because a block of metadata was not in memory.
    unsigned read_ins() const { return read_ins_; }

    std::uint32_t opcode() const {
        return message_.empty() ? 0 : load<fuse_in_header>(message_).opcode;
    }
    // The thread that waits for the answer, as FUSE names it; 0: it is unknown, or may go on (reads
    // and writes with O_DIRECT can be asynchronous).
    std::uint32_t waiting_thread() const {
        switch (opcode()) {
            case FUSE_GETATTR:
            case FUSE_SETATTR:
            case FUSE_LSEEK:
            case FUSE_IOCTL:
            case FUSE_SETXATTR:
            case FUSE_REMOVEXATTR:
            case FUSE_OPEN:
            case kFuseStatx:
                return load<fuse_in_header>(message_).pid;
            default:
                return 0;
        }
    }
    // The fixed part behind the header.  Older kernels send shorter ones: what is missing is zero.
    template <class Argument>
    Argument argument() const {
        Argument argument{};
        if (message_.size() <= sizeof(fuse_in_header)) return argument;
        const ConstBytes sent = message_.subspan(sizeof(fuse_in_header));
        std::memcpy(&argument, sent.data(), std::min(sent.size(), sizeof argument));
        return argument;
    }

private:
    static inline thread_local const Request *current_ = nullptr;

    const Port &port_;
    ConstBytes message_;
    std::span<const iovec> apart_;
    bool flushed_;
    std::uint64_t told_;
    unsigned read_ins_;
    mutable Progress progress_;
    mutable Seats::Seat seat_;
    const Request *outer_;
};

}  // namespace pmfs::front
