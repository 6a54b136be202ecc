// Handles requests that the library would answer with ENOSYS: see newer.h.
#include "front/requests/newer.h"

#include <sys/stat.h>

#include <cstring>

#include "base/process.h"
#include "front/requests/convert.h"
#include "front/requests/dispatcher.h"
#include "front/requests/request.h"

namespace pmfs::front {

Bytes in_older_words(Bytes message, bool long_setxattr, std::vector<std::byte> *made) {
    auto header = load<fuse_in_header>(message);
    const bool cut = header.opcode == FUSE_SETXATTR && long_setxattr;
    if (header.opcode != FUSE_TMPFILE && !cut) [[likely]]
        return message;
    made->assign(message.begin(), message.end());
    if (cut) {
        const auto at = made->begin() + sizeof header;
        made->erase(at + FUSE_COMPAT_SETXATTR_IN_SIZE, at + sizeof(fuse_setxattr_in));
        header.len = static_cast<std::uint32_t>(made->size());
    } else {
        header.opcode = FUSE_CREATE;
    }
    std::memcpy(made->data(), &header, sizeof header);
    return *made;
}

// The kernel says whether the caller may keep set-group-ID on a file that gets an access control
// list; with a kernel that does not, only root may.
bool Dispatcher::drops_setgid(const Caller &caller) const {
    if (!long_setxattr_) return caller.uid != 0;
    const auto sent = Request::current()->argument<fuse_setxattr_in>();
    return (sent.setxattr_flags & FUSE_SETXATTR_ACL_KILL_SGID) != 0;
}

// If the group may not execute the file, set-group-ID is cleared unless the caller is in that group
// (as all filesystems do from Linux 6.2 on).  The groups of a guest's processes are not known here.
bool Dispatcher::kills_any_setgid(InodeNo ino, const Caller &caller) {
    if (caller.uid == 0) return false;
    const Result<Attr> attr = volume_.getattr(ino);
    if (!attr.ok() || (attr.value().mode & (S_ISGID | S_IXGRP)) != S_ISGID) return false;
    const std::uint32_t group = attr.value().gid;
    return caller.gid != group &&
           !(client_->policy().notifiable && thread_in_group(caller.pid, group));
}

void Dispatcher::statx(const Request &request) {
    const auto header = load<fuse_in_header>(request.message());
    const InodeNo ino(header.nodeid);
    Result<Attr> attr = volume_.getattr(ino);
    if (attr.ok() && !request.flushed()) {
        const auto unseen = unseen_pages(attr.value());  // as getattr does it
        if (unseen.ok() && unseen.value() && takes_seat())
            if (flush(*unseen.value(), header.uid, [] { return copy_of(*Request::current()); }))
                return;
    }
    if (const pm::Absent page = pm::NoWaiting::take()) {
        page.read_in();
        const auto again = copy_of(request);
        return dispatch(again->port, again->message, {}, request.flushed(), {},
                        std::move(again->seat), request.read_ins() + 1);
    }
    if (pm::take_fault()) attr = Error(EIO, "the medium has a bad page here");
    if (!attr.ok()) log_damage(attr.error());
    StatxOut body{};
    if (attr.ok())
        body = to_statx(shown(attr.value(), *client_), attr_timeout(attr.value(), *this));
    fuse_out_header head{sizeof head, 0, header.unique};
    if (attr.ok())
        head.len += sizeof body;
    else
        head.error = -attr.error().errno_value();
    const iovec pieces[] = {{&head, sizeof head}, {&body, sizeof body}};
    // Fails only when the connection has ended.
    (void)request.port()->send(std::span(pieces, attr.ok() ? 2 : 1));
}

// syncfs(2) and sync(2) of a guest.  (The kernel does not send them for a local mount.)
void Dispatcher::sync_filesystem(const Request &request) {
    volume_.fsync(
        InodeNo(FUSE_ROOT_ID),
        answering([port = request.port(),
                   unique = load<fuse_in_header>(request.message()).unique](const Result<> &done) {
            answer(port, unique, done.ok() ? 0 : done.error().errno_value());
        }));
}

}  // namespace pmfs::front
