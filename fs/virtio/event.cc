// preadv2(2) and asynchronous I/O, by their system calls.
#include "virtio/event.h"

#include <linux/aio_abi.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>

#include "base/file_descriptor.h"

namespace pmfs::virtio {
namespace {

// Lets the kernel increment eventfds: it does so when an asynchronous read ends (io_submit(2),
// IOCB_FLAG_RESFD), and a read of an empty file ends at once.  One for all threads, as long as the
// process lives.
class Counter {
public:
    Counter() : empty_(::memfd_create("pmfs-empty", MFD_CLOEXEC)) {
        if (::syscall(SYS_io_setup, kRing, &context_) != 0) context_ = 0;
    }

    // False: there is no asynchronous I/O here (fs.aio-max-nr).
    bool count(int event) const {
        iocb read{};
        read.aio_lio_opcode = IOCB_CMD_PREAD;
        read.aio_fildes = static_cast<std::uint32_t>(empty_.get());
        read.aio_flags = IOCB_FLAG_RESFD;
        read.aio_resfd = static_cast<std::uint32_t>(event);
        iocb *one = &read;
        if (context_ == 0 || !empty_.ok()) return false;
        while (::syscall(SYS_io_submit, context_, 1, &one) != 1 && errno == EAGAIN) {
            // The ring is full of reads that have ended.  (Another thread may be taking them out.)
            std::array<io_event, kRing> ended;
            timespec none{};
            ::syscall(SYS_io_getevents, context_, 0, ended.size(), ended.data(), &none);
        }
        return true;
    }

private:
    static constexpr unsigned kRing = 128;

    aio_context_t context_ = 0;
    const FileDescriptor empty_;
};

}  // namespace

bool take_count(int event) {
    std::uint64_t count = 0;
    const iovec place{&count, sizeof count};
    ssize_t got = ::preadv2(event, &place, 1, -1, RWF_NOWAIT);
    // Before Linux 5.8.  (It blocks only if a front end deliberately makes the descriptor
    // blocking.)
    if (got < 0 && errno == EOPNOTSUPP) got = ::read(event, &count, sizeof count);
    return got >= 0 || errno == EAGAIN || errno == EINTR;
}

void count_up(int event) {
    static const auto &counter = *new Counter;
    if (counter.count(event)) return;
    pollfd room{event, POLLOUT, 0};
    const std::uint64_t one = 1;
    if (::poll(&room, 1, 0) == 1) (void)!::write(event, &one, sizeof one);
}

}  // namespace pmfs::virtio
