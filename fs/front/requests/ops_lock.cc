// Locks that the server keeps for its clients: fcntl's, of ranges, and flock's.
//
// The kernel has checked what a descriptor may lock; what a guest sends is checked again.  flock's
// come as SETLK with a flag; F_OFD_ ones are ranges like others, whose owner is an open file.
#include <fcntl.h>
#include <linux/fuse.h>

#include <optional>

#include "front/requests/ops.h"
#include "front/requests/request.h"

namespace pmfs::front {
namespace {

std::optional<LockKind> to_kind(std::uint32_t type) {
    switch (type) {
        case F_RDLCK:
            return LockKind::shared;
        case F_WRLCK:
            return LockKind::exclusive;
        case F_UNLCK:
            return LockKind::none;
        default:
            return std::nullopt;
    }
}

short to_type(LockKind kind) {
    switch (kind) {
        case LockKind::shared:
            return F_RDLCK;
        case LockKind::exclusive:
            return F_WRLCK;
        case LockKind::none:
            break;
    }
    return F_UNLCK;
}

// ENOSYS: its own kernel keeps such locks; EINVAL: no such lock; EBADF: not with that handle.
Result<LockRequest> wanted_by(fuse_req_t req, InodeNo ino) {
    Dispatcher &dispatcher = Dispatcher::of(req);
    const auto in = Request::current()->argument<fuse_lk_in>();
    Client &client = dispatcher.client();
    const Policy &policy = client.policy();
    const bool whole = (in.lk_flags & FUSE_LK_FLOCK) != 0;
    if (!(whole ? policy.shares_wholes : policy.shares_ranges))
        return Error(ENOSYS, "the client's own kernel keeps its locks");
    const auto kind = to_kind(in.lk.type);
    if (!kind || in.lk.start > in.lk.end || in.lk.end > LockRequest::kLast)
        return Error(EINVAL, "the kind or the range of the lock is invalid");
    const bool asks = Request::current()->opcode() == FUSE_GETLK;
    if (!whole && !asks && *kind != LockKind::none) {
        const auto handle =
            TRY(client.check_handle(in.fh, ino, /*writes=*/*kind == LockKind::exclusive));
        if (*kind == LockKind::shared && !handle.read)
            return Error(EBADF, "the file is not open for reading");
    }
    return LockRequest{.ino = ino,
                       .handle = in.fh,
                       .owner = {client.id(), in.owner},
                       .whole = whole,
                       .kind = *kind,
                       .first = whole ? 0 : in.lk.start,
                       .last = whole ? LockRequest::kLast : in.lk.end,
                       .pid = in.lk.pid,
                       .user = fuse_req_ctx(req)->uid,
                       .client_max = policy.locks_max,
                       .share_max = (policy.locks_max + 1) / 2};
}

void set(fuse_req_t req, fuse_ino_t ino, bool waits) {
    Dispatcher &dispatcher = Dispatcher::of(req);
    const auto wanted = wanted_by(req, InodeNo(ino));
    if (!wanted.ok()) {
        fuse_reply_err(req, wanted.error().errno_value());
        return;
    }
    dispatcher.lock(req, wanted.value(), waits);
}

void setlk(fuse_req_t req, fuse_ino_t ino, fuse_file_info *, struct flock *, int sleep) {
    set(req, ino, sleep != 0);
}

void flock(fuse_req_t req, fuse_ino_t ino, fuse_file_info *, int) {
    set(req, ino, Request::current()->opcode() == FUSE_SETLKW);
}

// For a process on another machine than the asking client the number is 0.
void getlk(fuse_req_t req, fuse_ino_t ino, fuse_file_info *, struct flock *) {
    Dispatcher &dispatcher = Dispatcher::of(req);
    const auto wanted = wanted_by(req, InodeNo(ino));
    if (!wanted.ok()) {
        fuse_reply_err(req, wanted.error().errno_value());
        return;
    }
    struct flock answer {};
    answer.l_type = F_UNLCK;
    if (const auto other = dispatcher.locks().in_the_way(wanted.value())) {
        answer.l_type = to_type(other->kind);
        answer.l_start = static_cast<off_t>(other->first);
        answer.l_len = other->last == LockRequest::kLast
                           ? 0
                           : static_cast<off_t>(other->last - other->first + 1);
        if (other->owner.client == dispatcher.client().id())
            answer.l_pid = static_cast<pid_t>(other->pid);
    }
    fuse_reply_lock(req, &answer);
}

}  // namespace

void Dispatcher::lock(fuse_req_t req, const LockRequest &wanted, bool waits) {
    int error = locks().set(wanted);
    if (error == 0 && !client_->has_open(wanted.handle)) {  // it was released meanwhile
        locks().released(wanted.handle);
        error = EBADF;
    }
    if (error == EAGAIN && waits) return wait_for_lock(req, wanted);
    fuse_reply_err(req, error);
}

void Dispatcher::wait_for_lock(fuse_req_t req, const LockRequest &wanted) {
    const Port port = Request::current()->port();
    if (!port->let_wait(fuse_req_ctx(req)->uid)) {
        fuse_reply_err(req, ENOLCK);
        return;
    }
    const std::uint64_t unique = load<fuse_in_header>(Request::current()->message()).unique;
    const auto parked = park_current(req);
    parked->lock = std::make_shared<FileLocks::Wait>(
        wanted,
        [self = shared_from_this(), unique, port](const FileLocks::Wait &waiter, int error) {
            const Late late(*self);
            // (Otherwise the thread that has taken it out answers.)
            if (self->stop_waiting(unique, &waiter) && !self->client_->gone())
                answer(port, unique, error);
        });
    if (!start_waiting(unique, parked)) return answer(port, unique, EINTR);
    locks().wait(parked->lock);
    if (!client_->has_open(wanted.handle)) locks().released(wanted.handle);
}

void add_lock_operations(fuse_lowlevel_ops &table) {
    table.getlk = getlk;
    table.setlk = setlk;
    table.flock = flock;
}

}  // namespace pmfs::front
