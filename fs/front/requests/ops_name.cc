// Operations on names: lookup and forget, make, link, unlink, rename.
#include "front/requests/convert.h"
#include "front/requests/ops.h"
#include "front/requests/request.h"

namespace pmfs::front {
namespace {

// Gives the client a node of which the volume has counted a reference.
void reply_entry(Dispatcher &dispatcher, fuse_req_t req, const Result<Attr> &made,
                 const News &news = {}) {
    if (!dispatcher.proceed(req, made)) {
        if (made.ok()) dispatcher.volume().forget(made.value().ino, 1);
        return;
    }
    dispatcher.client().add_lookup(made.value().ino);
    const fuse_entry_param entry = to_entry(made.value(), dispatcher);
    if (!news.any()) [[likely]] {
        fuse_reply_entry(req, &entry);
        return;
    }
    dispatcher.tell_others(req, news, [req, entry] { fuse_reply_entry(req, &entry); });
}

void reply_done(Dispatcher &dispatcher, fuse_req_t req, const Result<> &result,
                const News &news = {}) {
    if (dispatcher.proceed(req, result))
        dispatcher.tell_others(req, news, [req] { fuse_reply_err(req, 0); });
}

// The news that a name refers to another file now.
News name_news(Dispatcher &dispatcher, fuse_ino_t dir, const char *name) {
    if (!dispatcher.others_hear()) [[likely]]
        return {};
    return {.names = {{InodeNo(dir), name}}};
}

// `..` for a client that does not see the whole volume: its root is its own parent, and from a
// directory that was moved out of it `..` leads only to nodes that the client was given.
Result<Attr> look_above(Dispatcher &dispatcher, InodeNo dir) {
    Client &client = dispatcher.client();
    if (dir == client.policy().root) return dispatcher.volume().lookup(dir, ".");
    const Attr above = TRY(dispatcher.volume().lookup(dir, ".."));
    if (client.holds(above.ino)) return above;
    dispatcher.volume().forget(above.ino, 1);
    return Error(ESTALE, "the client was not given the parent directory");
}

void lookup(fuse_req_t req, fuse_ino_t parent, const char *name) {
    Dispatcher &dispatcher = Dispatcher::of(req);
    const bool above = !dispatcher.client().whole() && std::string_view(name) == "..";
    const Result<Attr> found = above ? look_above(dispatcher, InodeNo(parent))
                                     : dispatcher.volume().lookup(InodeNo(parent), name);
    // A name does not count as absent because the page that holds it is bad.
    if (dispatcher.bad_page(req)) {
        if (found.ok()) dispatcher.volume().forget(found.value().ino, 1);
        return;
    }
    // (What the client holds it may look up, however much that is: otherwise it would lose all.)
    if (found.ok() && !dispatcher.client().holds(found.value().ino)) {
        if (const auto room = dispatcher.client().check_room(true, false); !room.ok()) {
            dispatcher.volume().forget(found.value().ino, 1);
            fuse_reply_err(req, room.error().errno_value());
            return;
        }
    }
    if (found.ok() || found.error().errno_value() != ENOENT)
        return reply_entry(dispatcher, req, found);
    // An entry without an inode: the kernel remembers that the name is absent.
    fuse_entry_param absent{};
    absent.entry_timeout = dispatcher.timeout(dispatcher.options().entry_timeout_s);
    fuse_reply_entry(req, &absent);
}

void forget(fuse_req_t req, fuse_ino_t ino, std::uint64_t count) {
    Dispatcher::of(req).client().forget(InodeNo(ino), count);
    fuse_reply_none(req);
}

void forget_multi(fuse_req_t req, std::size_t count, fuse_forget_data *forgets) {
    Client &client = Dispatcher::of(req).client();
    // They are in the message, which may be unaligned in memory.
    const ConstBytes bytes(reinterpret_cast<const std::byte *>(forgets), count * sizeof *forgets);
    for (std::size_t i = 0; i < count; ++i) {
        const auto one = load<fuse_forget_data>(bytes, i * sizeof *forgets);
        client.forget(InodeNo(one.ino), one.nlookup);
    }
    fuse_reply_none(req);
}

void mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev) {
    Dispatcher &dispatcher = Dispatcher::of(req);
    reply_entry(dispatcher, req,
                dispatcher.volume().make(InodeNo(parent), name, mode, rdev, caller_of(req)),
                name_news(dispatcher, parent, name));
}

void mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode) {
    mknod(req, parent, name, (mode & 07777) | S_IFDIR, 0);
}

void symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name) {
    Dispatcher &dispatcher = Dispatcher::of(req);
    reply_entry(dispatcher, req,
                dispatcher.volume().symlink(InodeNo(parent), name, target, caller_of(req)),
                name_news(dispatcher, parent, name));
}

void readlink(fuse_req_t req, fuse_ino_t ino) {
    Dispatcher &dispatcher = Dispatcher::of(req);
    const Result<std::string> target = dispatcher.volume().readlink(InodeNo(ino));
    if (dispatcher.proceed(req, target)) fuse_reply_readlink(req, target.value().c_str());
}

void link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name) {
    Dispatcher &dispatcher = Dispatcher::of(req);
    News news = name_news(dispatcher, parent, name);
    if (news.any()) news.attributes = {InodeNo(ino)};
    reply_entry(dispatcher, req,
                dispatcher.volume().link(InodeNo(ino), InodeNo(parent), name,
                                         &Request::current()->progress()),
                news);
}

using Remove = Result<> (Volume::*)(InodeNo dir, std::string_view name, InodeNo *removed);

template <Remove remove>
void remove_name(fuse_req_t req, fuse_ino_t parent, const char *name) {
    Dispatcher &dispatcher = Dispatcher::of(req);
    InodeNo removed;
    const Result<> done = (dispatcher.volume().*remove)(InodeNo(parent), name, &removed);
    News news = name_news(dispatcher, parent, name);
    if (news.any()) news.attributes = {removed};
    reply_done(dispatcher, req, done, news);
}

void rename(fuse_req_t req, fuse_ino_t from, const char *from_name, fuse_ino_t to,
            const char *to_name, unsigned flags) {
    Dispatcher &dispatcher = Dispatcher::of(req);
    Renamed renamed;
    const Result<> done = dispatcher.volume().rename(InodeNo(from), from_name, InodeNo(to), to_name,
                                                     flags, &renamed, caller_of(req));
    if (!dispatcher.proceed(req, done)) return;
    std::function<void()> reply = [req] { fuse_reply_err(req, 0); };
    if (dispatcher.others_hear()) {
        News news{.names = {{InodeNo(from), from_name}, {InodeNo(to), to_name}},
                  .attributes = {renamed.source, renamed.target}};
        // Their listings have `..` in them.
        for (const InodeNo directory : renamed.moved) news.names.push_back({directory, ".."});
        return dispatcher.tell_others(req, news, reply);
    }
    // Listings that the kernel keeps have `..` in them.
    for (const InodeNo directory : renamed.moved)
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
    table.unlink = remove_name<&Volume::unlink>;
    table.rmdir = remove_name<&Volume::rmdir>;
    table.rename = rename;
}

}  // namespace pmfs::front
