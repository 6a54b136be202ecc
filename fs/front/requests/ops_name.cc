// Operations on names: lookup and forget, make, link, unlink, rename.
#include "front/requests/convert.h"
#include "front/requests/ops.h"

namespace pmfs::front {
namespace {

void reply_entry(Dispatcher &dispatcher, fuse_req_t req, const Result<Attr> &made) {
    if (!dispatcher.proceed(req, made)) {
        if (made.ok()) dispatcher.volume().forget(made.value().ino, 1);
        return;
    }
    const fuse_entry_param entry = to_entry(made.value(), dispatcher.options());
    fuse_reply_entry(req, &entry);
}

void reply_done(Dispatcher &dispatcher, fuse_req_t req, const Result<> &result) {
    if (dispatcher.proceed(req, result)) fuse_reply_err(req, 0);
}

void lookup(fuse_req_t req, fuse_ino_t parent, const char *name) {
    Dispatcher &dispatcher = Dispatcher::of(req);
    const Result<Attr> found = dispatcher.volume().lookup(InodeNo(parent), name);
    // A name is not absent because the page that holds it is bad.
    if (dispatcher.bad_page(req)) return;
    if (found.ok() || found.error().errno_value() != ENOENT)
        return reply_entry(dispatcher, req, found);
    // An entry without an inode: the kernel remembers that the name is absent.
    fuse_entry_param absent{};
    absent.entry_timeout = dispatcher.options().entry_timeout_s;
    fuse_reply_entry(req, &absent);
}

void forget(fuse_req_t req, fuse_ino_t ino, std::uint64_t count) {
    Dispatcher::of(req).volume().forget(InodeNo(ino), count);
    fuse_reply_none(req);
}

void forget_multi(fuse_req_t req, std::size_t count, fuse_forget_data *forgets) {
    Volume &volume = Dispatcher::of(req).volume();
    // They lie in the message, which a transport may have read to any address.
    const ConstBytes bytes(reinterpret_cast<const std::byte *>(forgets), count * sizeof *forgets);
    for (std::size_t i = 0; i < count; ++i) {
        const auto one = load<fuse_forget_data>(bytes, i * sizeof *forgets);
        volume.forget(InodeNo(one.ino), one.nlookup);
    }
    fuse_reply_none(req);
}

void mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev) {
    Dispatcher &dispatcher = Dispatcher::of(req);
    reply_entry(dispatcher, req,
                dispatcher.volume().make(InodeNo(parent), name, mode, rdev, caller_of(req)));
}

void mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode) {
    mknod(req, parent, name, (mode & 07777) | S_IFDIR, 0);
}

void symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name) {
    Dispatcher &dispatcher = Dispatcher::of(req);
    reply_entry(dispatcher, req,
                dispatcher.volume().symlink(InodeNo(parent), name, target, caller_of(req)));
}

void readlink(fuse_req_t req, fuse_ino_t ino) {
    Dispatcher &dispatcher = Dispatcher::of(req);
    const Result<std::string> target = dispatcher.volume().readlink(InodeNo(ino));
    if (dispatcher.proceed(req, target)) fuse_reply_readlink(req, target.value().c_str());
}

void link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name) {
    Dispatcher &dispatcher = Dispatcher::of(req);
    reply_entry(dispatcher, req, dispatcher.volume().link(InodeNo(ino), InodeNo(parent), name));
}

void unlink(fuse_req_t req, fuse_ino_t parent, const char *name) {
    Dispatcher &dispatcher = Dispatcher::of(req);
    reply_done(dispatcher, req, dispatcher.volume().unlink(InodeNo(parent), name));
}

void rmdir(fuse_req_t req, fuse_ino_t parent, const char *name) {
    Dispatcher &dispatcher = Dispatcher::of(req);
    reply_done(dispatcher, req, dispatcher.volume().rmdir(InodeNo(parent), name));
}

void rename(fuse_req_t req, fuse_ino_t from, const char *from_name, fuse_ino_t to,
            const char *to_name, unsigned flags) {
    Dispatcher &dispatcher = Dispatcher::of(req);
    std::vector<InodeNo> moved;
    const Result<> done =
        dispatcher.volume().rename(InodeNo(from), from_name, InodeNo(to), to_name, flags, &moved);
    if (!dispatcher.proceed(req, done)) return;
    // Listings that the kernel keeps have `..` in them.
    std::function<void()> reply = [req] { fuse_reply_err(req, 0); };
    for (const InodeNo directory : moved)
        reply = [&dispatcher, req, directory, reply] {
            dispatcher.tell(req, {.pages = true}, {.ino = directory}, reply);
        };
    reply();
}

}  // namespace

void add_name_operations(fuse_lowlevel_ops &table) {
    table.lookup = lookup;
    table.forget = forget;
    table.forget_multi = forget_multi;
    table.mknod = mknod;
    table.mkdir = mkdir;
    table.symlink = symlink;
    table.readlink = readlink;
    table.link = link;
    table.unlink = unlink;
    table.rmdir = rmdir;
    table.rename = rename;
}

}  // namespace pmfs::front
