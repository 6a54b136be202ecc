// In the place of a library that would answer ENOSYS: see newer.h.
#include "front/requests/newer.h"

#include <cstring>

#include "front/requests/convert.h"
#include "front/requests/dispatcher.h"
#include "front/requests/request.h"

namespace pmfs::front {

Bytes in_older_words(Bytes message, std::vector<std::byte> *made) {
    auto header = load<fuse_in_header>(message);
    if (header.opcode != FUSE_TMPFILE) [[likely]]
        return message;
    header.opcode = FUSE_CREATE;
    made->assign(message.begin(), message.end());
    std::memcpy(made->data(), &header, sizeof header);
    return *made;
}

void Dispatcher::statx(const Request &request) {
    const auto header = load<fuse_in_header>(request.message());
    const InodeNo ino(header.nodeid);
    Result<Attr> attr = volume_.getattr(ino);
    if (attr.ok() && attr.value().unsettled && !request.flushed()) {
        // As getattr does it.
        const auto unseen = volume_.unseen_from(ino);
        if (unseen.ok() && unseen.value())
            if (flush({.ino = ino, .offset = *unseen.value()}, header.uid,
                      [] { return copy_of(*Request::current()); }))
                return;
    }
    if (const pm::Absent page = pm::NoWaiting::take()) {
        page.read_in();
        const auto again = copy_of(request);
        return dispatch(again->port, again->message, {}, request.flushed(), {},
                        request.read_ins() + 1);
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

// syncfs(2) and sync(2) of a guest.  (The kernel of a mount of this machine keeps them to itself.)
void Dispatcher::sync_filesystem(const Request &request) {
    volume_.fsync(InodeNo(FUSE_ROOT_ID),
                  answering([port = request.port(),
                             unique = load<fuse_in_header>(request.message()).unique](
                                const Result<> &done) {
                      answer(port, unique, done.ok() ? 0 : done.error().errno_value());
                  }));
}

}  // namespace pmfs::front
