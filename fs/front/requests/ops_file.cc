// Operations on open files: open and create, data, durability, allocation.
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fuse.h>

#include "client/pmfs_ioctl.h"
#include "front/requests/convert.h"
#include "front/requests/ioctl.h"
#include "front/requests/ioctl_flags.h"
#include "front/requests/ops.h"
#include "front/requests/request.h"

namespace pmfs::front {
namespace {

OpenRequest to_open_request(fuse_req_t req, int flags, std::uint32_t fuse_flags) {
    OpenRequest request;
    request.read = (flags & O_ACCMODE) != O_WRONLY;
    request.write = (flags & O_ACCMODE) != O_RDONLY;
    request.truncate = (flags & O_TRUNC) != 0;
    request.append = (flags & O_APPEND) != 0;
    request.direct = (flags & O_DIRECT) != 0 || Dispatcher::of(req).maps_all();
    request.maps_sealed = Dispatcher::of(req).maps_sealed();
    request.kill_suid_sgid = (fuse_flags & FUSE_OPEN_KILL_SUIDGID) != 0;
    request.caller = caller_of(req);
    request.caller.nonblocking = (flags & O_NONBLOCK) != 0;
    return request;
}

void fill(fuse_file_info &info, const OpenReply &opened, const Client &client) {
    info.fh = opened.handle;
    info.direct_io = opened.direct_io;
    info.keep_cache = opened.keep_cache && client.policy().notifiable;
}

// Before a client without cached pages of the file changes its bytes: otherwise another client's
// kernel would afterwards write back what it stored before.  As Dispatcher::flushed().
bool others_flushed(Dispatcher &dispatcher, fuse_req_t req, HandleId handle,
                    const Notifier::Pages &pages) {
    return !dispatcher.others_hear() || !dispatcher.volume().unseen_by(handle) ||
           dispatcher.flushed(req, pages);
}

void open(fuse_req_t req, fuse_ino_t ino, fuse_file_info *info) {
    Dispatcher &dispatcher = Dispatcher::of(req);
    const auto sent = Request::current()->argument<fuse_open_in>();
    const Notifier::Pages all{.ino = InodeNo(ino)};
    const bool empties = (info->flags & O_TRUNC) != 0 && dispatcher.others_hear();
    if (empties && !dispatcher.flushed(req, all)) return;
    OpenRequest request = to_open_request(req, info->flags, sent.open_flags);
    if (request.truncate && request.kill_suid_sgid)
        request.kill_any_sgid = dispatcher.kills_any_setgid(InodeNo(ino), request.caller);
    const Result<OpenReply> opened = dispatcher.volume().open_file(InodeNo(ino), request);
    if (opened.ok()) dispatcher.client().opened(opened.value().handle);
    if (!dispatcher.proceed(req, opened)) {
        if (opened.ok()) dispatcher.released(opened.value().handle);
        return;
    }
    fuse_file_info reply = *info;
    const OpenReply &open = opened.value();
    fill(reply, open, dispatcher.client());
    // A kernel that may not keep its pages would drop them when it has the answer, when others may
    // have the file open already; and whoever looks after writes that are on their way must know
    // when pages go (Volume::pages_go()).  With O_TRUNC the kernel empties its cache by itself, and
    // with -o writeback it writes nothing back until it has the answer: nobody may wait for that.
    const bool first =
        !open.keep_cache && (info->flags & O_TRUNC) == 0 && !empties && dispatcher.may_wait();
    if (first) reply.keep_cache = true;
    const auto answer = [&dispatcher, req, reply, handle = open.handle]() {
        // ENOENT: the opener was interrupted and the kernel will not release it.
        if (fuse_reply_open(req, &reply) == -ENOENT) dispatcher.released(handle);
    };
    if (empties) return dispatcher.tell_others(req, {.pages = all}, answer);
    if (first) return dispatcher.drop_first(req, all, answer);
    dispatcher.tell(req, open.stale, all, answer);
}

// If the name was made without the kernel's knowledge (by a guest), it is opened.
Result<Attr> create_or_open(Volume &volume, InodeNo dir, const char *name, mode_t mode, int flags,
                            const OpenRequest &request, OpenReply *opened) {
    Result<Attr> made = volume.create(dir, name, mode, request, opened);
    if (made.ok() || made.error().errno_value() != EEXIST || (flags & O_EXCL)) return made;
    const Attr found = TRY(volume.lookup(dir, name));
    const Result<OpenReply> reply = volume.open_file(found.ino, request);
    if (!reply.ok()) {
        volume.forget(found.ino, 1);
        return reply.error();
    }
    *opened = reply.value();
    return found;
}

// A file that create() is about to empty; as Dispatcher::flushed().
bool flushed_before(Dispatcher &dispatcher, fuse_req_t req, InodeNo dir, const char *name) {
    const Result<Attr> found = dispatcher.volume().lookup(dir, name);
    if (!found.ok()) return true;
    dispatcher.volume().forget(found.value().ino, 1);
    return dispatcher.flushed(req, {.ino = found.value().ino});
}

void create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
            fuse_file_info *info) {
    Dispatcher &dispatcher = Dispatcher::of(req);
    const auto sent = Request::current()->argument<fuse_create_in>();
    const bool named = Request::current()->opcode() == FUSE_CREATE;
    const bool news = named && dispatcher.others_hear();
    if (news && (info->flags & O_TRUNC) != 0 &&
        !flushed_before(dispatcher, req, InodeNo(parent), name))
        return;
    OpenReply opened;
    const OpenRequest request = to_open_request(req, info->flags, sent.open_flags);
    Volume &volume = dispatcher.volume();
    const bool linkable = (info->flags & O_EXCL) == 0;  // of O_TMPFILE
    const Result<Attr> made =
        named ? create_or_open(volume, InodeNo(parent), name, mode, info->flags, request, &opened)
              : volume.create_nameless(InodeNo(parent), mode, linkable, request, &opened);
    if (made.ok()) dispatcher.client().opened(opened.handle);
    if (!dispatcher.proceed(req, made)) {
        if (!made.ok()) return;
        dispatcher.released(opened.handle);
        volume.forget(made.value().ino, 1);
        return;
    }
    const InodeNo ino = made.value().ino;
    dispatcher.client().add_lookup(ino);
    fuse_file_info reply = *info;
    fill(reply, opened, dispatcher.client());
    const fuse_entry_param entry = to_entry(made.value(), dispatcher);
    const auto answer = [&dispatcher, req, entry, reply, handle = opened.handle] {
        if (fuse_reply_create(req, &entry, &reply) == -ENOENT) dispatcher.released(handle);
    };
    if (!news) return dispatcher.tell(req, opened.stale, {.ino = ino}, answer);
    dispatcher.tell_others(
        req, {.names = {{InodeNo(parent), name}}, .pages = Notifier::Pages{.ino = ino}}, answer);
}

void release(fuse_req_t req, fuse_ino_t, fuse_file_info *info) {
    Dispatcher::of(req).released(info->fh);
    fuse_reply_err(req, 0);
}

// Sent at each close(2) of any descriptor of the file.
void flush(fuse_req_t req, fuse_ino_t ino, fuse_file_info *info) {
    Dispatcher &dispatcher = Dispatcher::of(req);
    if (!dispatcher.client().policy().shares_ranges) {
        fuse_reply_err(req, ENOSYS);  // nothing to do, and the kernel does not ask again
        return;
    }
    dispatcher.locks().closed({dispatcher.client().id(), info->lock_owner}, InodeNo(ino));
    fuse_reply_err(req, 0);
}

// A read that fills pages of the kernel that is notified of changes.  The kernel has them locked,
// and writing them back would wait for that lock; but it need not be asked, because dirty pages are
// never read.  sendfile(2), copy_file_range(2) and private mappings read like this, also files that
// bypass the cache.  (A read that bypasses it has an owner: fs/fuse/file.c, fuse_send_read().)
bool fills_pages(Dispatcher &dispatcher) {
    return dispatcher.client().policy().notifiable &&
           (Request::current()->argument<fuse_read_in>().read_flags & FUSE_READ_LOCKOWNER) == 0;
}

void read(fuse_req_t req, fuse_ino_t ino, std::size_t size, off_t offset, fuse_file_info *info) {
    Dispatcher &dispatcher = Dispatcher::of(req);
    // This read bypasses the cache, and another program may have stored into it.
    // (With -o writeback also behind it: then the file is longer than is known here.)
    const auto from = static_cast<std::uint64_t>(offset);
    const std::uint64_t length = dispatcher.writeback() ? 0 : size;  // 0: to the end
    const bool fills = fills_pages(dispatcher);
    if (!fills && dispatcher.volume().unseen_by(info->fh) && !dispatcher.crowded() &&
        !dispatcher.flushed(req, {.ino = InodeNo(ino), .offset = from, .length = length},
                            /*wished=*/true))
        return;
    if (fills) {
        dispatcher.volume().pages_fill(InodeNo(ino), {from, from + size});
        // sendfile(2): nothing would tell these pages of stores through a direct mapping.
        if (dispatcher.volume().past_cache(info->fh))
            dispatcher.client().notifier()->drop_pages_later(InodeNo(ino), fuse_req_ctx(req)->uid);
    }
    // The reply is copied once, from the medium to the reader's pages, while the blocks cannot be
    // reused.
    bool replied = false;
    const auto reply = [&](std::span<const iovec> pieces) {
        if (!dispatcher.bad_page(req))
            fuse_reply_iov(req, pieces.data(), static_cast<int>(pieces.size()));
        replied = true;
    };
    const Result<std::size_t> done = dispatcher.volume().read(InodeNo(ino), from, size, reply);
    // At the end of the file the sink is not called.
    if (!replied && dispatcher.proceed(req, done)) fuse_reply_buf(req, nullptr, 0);
}

void write(fuse_req_t req, fuse_ino_t ino, const char *data, std::size_t size, off_t offset,
           fuse_file_info *info) {
    Dispatcher &dispatcher = Dispatcher::of(req);
    const unsigned flags = Request::current()->argument<fuse_write_in>().write_flags;
    Caller caller = caller_of(req, info);
    caller.nonblocking = (info->flags & O_NONBLOCK) != 0;
    caller.direct = (info->flags & O_DIRECT) != 0;
    // Written back: the user that stored is not known.
    if (flags & FUSE_WRITE_CACHE) caller.pid = 0, caller.handle = 0, caller.written_back = true;
    const Notifier::Pages pages{
        .ino = InodeNo(ino), .offset = static_cast<std::uint64_t>(offset), .length = size};
    if (!others_flushed(dispatcher, req, info->fh, pages)) return;
    Stale stale;
    // (A write that bypasses the cache has an owner, as a read that does: fills_pages().)
    const std::uint64_t write_backs =
        (flags & FUSE_WRITE_LOCKOWNER) != 0 ? dispatcher.volume().write_backs(pages.ino) : 0;
    const std::span<const iovec> apart = Request::current()->apart();
    const Pieces bytes =
        apart.empty() ? Pieces(std::as_bytes(std::span(data, size))) : Pieces(apart);
    const Result<std::size_t> written = dispatcher.volume().write(
        pages.ino, pages.offset, bytes, (flags & FUSE_WRITE_KILL_SUIDGID) != 0, caller, &stale);
    if (dispatcher.others_hear() && !written.ok() && !must_park(written.error()) &&
        !pm::NoWaiting::met()) {  // some of the bytes may be stored
        log_damage(written.error());
        return dispatcher.tell_others(
            req, {.pages = pages},
            [req, error = written.error().errno_value()] { fuse_reply_err(req, error); });
    }
    if (!dispatcher.proceed(req, written)) return;
    const auto answer = [req, count = written.value()] { fuse_reply_write(req, count); };
    if (dispatcher.others_hear()) return dispatcher.tell_others(req, {.pages = pages}, answer);
    if (!stale.pages || !dispatcher.may_wait()) return dispatcher.tell(req, stale, pages, answer);
    if (stale.mode) dispatcher.mode_changed(pages.ino);
    auto copy = std::make_shared<std::vector<std::byte>>();
    bytes.each(0, bytes.size(), [&copy](ConstBytes piece) {
        copy->insert(copy->end(), piece.begin(), piece.end());
    });
    caller.progress = nullptr;
    dispatcher.drop_first(req, pages, [&dispatcher, pages, copy, caller, write_backs, answer] {
        dispatcher.write_again(pages, *copy, caller, write_backs);
        answer();
    });
}

// Answered also on a DAX medium, where there is nothing to do: a kernel that need not ask returns 0
// even for pages that it could not send to a dead server (measured on 6.18).
void fsync(fuse_req_t req, fuse_ino_t ino, int, fuse_file_info *) {
    Dispatcher &dispatcher = Dispatcher::of(req);
    dispatcher.volume().fsync(InodeNo(ino), dispatcher.answer_later(req));
}

void fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t length,
               fuse_file_info *info) {
    Dispatcher &dispatcher = Dispatcher::of(req);
    const auto bits = static_cast<unsigned>(mode);
    constexpr unsigned kSealModes = PMFS_FALLOC_FL_SEAL_BLOCK_MAP | PMFS_FALLOC_FL_UNSEAL_BLOCK_MAP;
    const Notifier::Pages pages{.ino = InodeNo(ino)};
    if ((bits & kSealModes) && !dispatcher.client().policy().may_seal) {
        fuse_reply_err(req, EPERM);
        return;
    }
    if ((bits & kSealModes) && !dispatcher.flushed(req, pages)) return;
    if (!others_flushed(dispatcher, req, info->fh, pages)) return;
    Stale stale;
    const Result<> done = dispatcher.volume().fallocate(
        info->fh, InodeNo(ino), bits, static_cast<std::uint64_t>(offset),
        static_cast<std::uint64_t>(length), caller_of(req, info), &stale);
    if (!dispatcher.proceed(req, done)) return;
    const auto answer = [req] { fuse_reply_err(req, 0); };
    if (dispatcher.others_hear()) return dispatcher.tell_others(req, {.pages = pages}, answer);
    dispatcher.tell(req, stale, pages, answer);
}

void lseek(fuse_req_t req, fuse_ino_t ino, off_t offset, int whence, fuse_file_info *) {
    Dispatcher &dispatcher = Dispatcher::of(req);
    Volume &volume = dispatcher.volume();
    const auto from = static_cast<std::uint64_t>(offset);
    if (whence != SEEK_DATA && whence != SEEK_HOLE) {  // the kernel answers the others itself
        fuse_reply_err(req, EINVAL);
        return;
    }
    // Data that the kernel has not written back yet counts as data.
    const auto unseen = volume.unseen_from(InodeNo(ino));
    if (!dispatcher.proceed(req, unseen)) return;
    if (unseen.value() &&
        !dispatcher.flushed(req, {.ino = InodeNo(ino), .offset = std::max(from, *unseen.value())}))
        return;
    const Result<std::uint64_t> found = whence == SEEK_DATA ? volume.seek_data(InodeNo(ino), from)
                                                            : volume.seek_hole(InodeNo(ino), from);
    if (dispatcher.proceed(req, found)) fuse_reply_lseek(req, static_cast<off_t>(found.value()));
}

void ioctl(fuse_req_t req, fuse_ino_t ino, unsigned command, void *, fuse_file_info *info, unsigned,
           const void *in, std::size_t in_size, std::size_t out_size) {
    Dispatcher &dispatcher = Dispatcher::of(req);
    const IoctlRequest request{.ino = InodeNo(ino),
                               .handle = info->fh,
                               .command = command,
                               .in = std::span(static_cast<const std::byte *>(in), in_size),
                               .out_size = out_size,
                               .caller = caller_of(req, info),
                               .take_seat = dispatcher.seats_for_current()};
    const auto answer = dispatcher.answering([req](const IoctlReply &reply) {
        // The kernel's own ioctls (FS_IOC_GETFLAGS and its kin) turn an answer that is too short
        // into EIO, so an error without data is sent as a plain error.
        if (reply.error != 0 && reply.out.empty()) {
            fuse_reply_err(req, reply.error);
            return;
        }
        // A negative result is the error; the data that comes with it is copied out all the same.
        fuse_reply_ioctl(req, -reply.error, reply.out.data(), reply.out.size());
    });
    if (is_flags_ioctl(command))
        return handle_flags_ioctl(dispatcher.ioctls(), request,
                                  Request::current()->argument<fuse_ioctl_in>().arg, answer);
    handle_ioctl(dispatcher.ioctls(), request, answer);
}

}  // namespace

void add_file_operations(fuse_lowlevel_ops &table) {
    table.open = open;
    table.create = create;
    table.release = release;
    table.flush = flush;
    table.read = read;
    table.write = write;
    table.fsync = fsync;
    table.fallocate = fallocate;
    table.lseek = lseek;
    table.ioctl = ioctl;
}

}  // namespace pmfs::front
