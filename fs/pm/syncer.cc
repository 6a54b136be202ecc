// One dirty page on ext4 takes 147 us by io_uring and 134 by the system call, so the ring buys no
// speed while sync() blocks.  With it a commit can later be started without a
// thread that waits for it; after any unexpected result it is closed for good, and the system call
// is used.
#include "pm/syncer.h"

#include <unistd.h>

namespace pmfs::pm {

namespace {

int plain_sync(int fd) {
    int result = 0;
    do {
        result = ::fdatasync(fd) == 0 ? 0 : -errno;
    } while (result == -EINTR);
    return result;
}

// A ring that accepts only fsync and refuses all else, so that it does not bypass a filter of
// system calls.  Before Linux 5.10 rings cannot be restricted, and none is used.
bool make_ring(io_uring *ring) {
    if (::io_uring_queue_init(2, ring, IORING_SETUP_R_DISABLED) != 0) return false;
    io_uring_restriction only{};
    only.opcode = IORING_RESTRICTION_SQE_OP;
    only.sqe_op = IORING_OP_FSYNC;
    // (liburing 2.3 declares io_uring_register_restrictions(), and does not export it.)
    const auto set_up = [fd = static_cast<unsigned>(ring->ring_fd)](unsigned what, const void *with,
                                                                    unsigned count) {
        return ::io_uring_register(fd, what, with, count) == 0;
    };
    if (set_up(IORING_REGISTER_RESTRICTIONS, &only, 1) &&
        set_up(IORING_REGISTER_ENABLE_RINGS, nullptr, 0))
        return true;
    ::io_uring_queue_exit(ring);
    return false;
}

}  // namespace

Syncer::Syncer(int fd, Way way) : fd_(fd) {
    const Lock lock(mutex_);
    has_uring_ = way == Way::uring_if_possible && make_ring(&uring_);
}

Syncer::~Syncer() {
    const Lock lock(mutex_);
    close_uring_locked();
}

void Syncer::close_uring_locked() {
    if (has_uring_) ::io_uring_queue_exit(&uring_);
    has_uring_ = false;
}

// False when the ring did not sync.
bool Syncer::sync_by_uring_locked(int *result) {
    io_uring_sqe *const entry = ::io_uring_get_sqe(&uring_);
    if (entry == nullptr) return false;
    ::io_uring_prep_fsync(entry, fd_, IORING_FSYNC_DATASYNC);
    int code = 0;
    do {
        code = ::io_uring_submit(&uring_);
    } while (code == -EINTR);
    if (code < 0) return false;
    io_uring_cqe *completion = nullptr;
    do {
        code = ::io_uring_wait_cqe(&uring_, &completion);
    } while (code == -EINTR);
    if (code < 0) return false;
    *result = completion->res;
    ::io_uring_cqe_seen(&uring_, completion);
    // A failing disk returns EIO, ENOSPC or EDQUOT; all other errors are about the ring.
    return *result == 0 || *result == -EIO || *result == -ENOSPC || *result == -EDQUOT;
}

Result<> Syncer::sync() {
    const Lock lock(mutex_);
    if (!failed()) {
        int result = 0;
        if (!has_uring_ || !sync_by_uring_locked(&result)) {
            close_uring_locked();
            result = plain_sync(fd_);
        }
        if (result != 0) fail();
    }
    if (failed())
        return Error(
            EIO, "writing the image file to its disk failed earlier, so nothing more is written");
    return {};
}

}  // namespace pmfs::pm
