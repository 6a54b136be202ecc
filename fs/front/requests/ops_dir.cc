// Operations on open directories.  The volume keeps no state for them: a cookie is all that is
// needed.
#include <vector>

#include "front/requests/convert.h"
#include "front/requests/ops.h"

namespace pmfs::front {
namespace {

// A kernel that cannot be told of new names must not cache listings.  Nor does one that can for a
// directory that is open already: whoever is in the middle of a listing from before a change would
// complete it for the others (fs/fuse/readdir.c looks at changes at the beginning of a listing
// only).
void opendir(fuse_req_t req, fuse_ino_t ino, fuse_file_info *info) {
    Client &client = Dispatcher::of(req).client();
    const bool caches = client.policy().notifiable && client.opened_directory(InodeNo(ino));
    info->keep_cache = info->cache_readdir = caches;
    if (fuse_reply_open(req, info) == -ENOENT && client.policy().notifiable)
        client.closed_directory(InodeNo(ino));
}

void releasedir(fuse_req_t req, fuse_ino_t ino, fuse_file_info *) {
    Client &client = Dispatcher::of(req).client();
    if (client.policy().notifiable) client.closed_directory(InodeNo(ino));
    fuse_reply_err(req, 0);
}

// A reply buffer with room for `size` bytes; the kernel asks for a page or for a few dozen.
class EntryBuffer {
public:
    EntryBuffer(fuse_req_t req, std::size_t size) : req_(req), bytes_(size) {}

    bool add(const DirEntry &entry) {
        struct stat stat {};
        stat.st_ino = entry.ino.value();
        stat.st_mode = static_cast<mode_t>(entry.type) << 12;
        name_.assign(entry.name);
        const std::size_t size = fuse_add_direntry(req_, room(), left(), name_.c_str(), &stat,
                                                   static_cast<off_t>(entry.cookie));
        return took(size);
    }
    bool add(const DirEntry &entry, const fuse_entry_param &found) {
        name_.assign(entry.name);
        const std::size_t size = fuse_add_direntry_plus(req_, room(), left(), name_.c_str(), &found,
                                                        static_cast<off_t>(entry.cookie));
        return took(size);
    }
    // Reserves room for an entry with its attributes; false when there is none.
    bool reserve_plus(const DirEntry &entry) {
        name_.assign(entry.name);
        const std::size_t size =
            fuse_add_direntry_plus(req_, nullptr, 0, name_.c_str(), nullptr, 0);
        if (reserved_ + size > bytes_.size()) return false;
        reserved_ += size;
        return true;
    }
    void reply() { fuse_reply_buf(req_, bytes_.data(), used_); }

private:
    char *room() { return bytes_.data() + used_; }
    std::size_t left() const { return bytes_.size() - used_; }
    bool took(std::size_t size) {
        if (size > left()) return false;  // libfuse wrote nothing
        used_ += size;
        return true;
    }

    fuse_req_t req_;
    std::vector<char> bytes_;
    std::size_t used_ = 0, reserved_ = 0;
    std::string name_;  // the library needs a final zero
};

// The client's root is its own parent.
Result<> list(Dispatcher &dispatcher, InodeNo dir, std::uint64_t cookie, const DirSink &sink) {
    if (dir != dispatcher.client().policy().root)
        return dispatcher.volume().readdir(dir, cookie, sink);
    return dispatcher.volume().readdir(dir, cookie, [&](DirEntry entry) {
        if (entry.name == "..") entry.ino = dir;
        return sink(entry);
    });
}

void readdir(fuse_req_t req, fuse_ino_t ino, std::size_t size, off_t cookie, fuse_file_info *) {
    Dispatcher &dispatcher = Dispatcher::of(req);
    EntryBuffer buffer(req, size);
    const Result<> read = list(dispatcher, InodeNo(ino), static_cast<std::uint64_t>(cookie),
                               [&buffer](const DirEntry &entry) { return buffer.add(entry); });
    if (dispatcher.proceed(req, read)) buffer.reply();
}

// A name as it was listed.  It is looked up after the listing: a sink must not call the volume.
struct ListedName {
    std::uint64_t cookie;
    InodeNo ino;
    std::uint8_t type;
    std::string name;

    DirEntry entry() const { return {cookie, ino, type, name}; }
};

Result<std::vector<ListedName>> list_names(Dispatcher &dispatcher, InodeNo dir,
                                           std::uint64_t cookie, EntryBuffer *buffer) {
    std::vector<ListedName> names;
    TRY(list(dispatcher, dir, cookie, [&](const DirEntry &entry) {
        if (!buffer->reserve_plus(entry)) return false;
        names.push_back({entry.cookie, entry.ino, entry.type, std::string(entry.name)});
        return true;
    }));
    return names;
}

// Because of one name, all others of the request must not be looked up again.
Result<Attr> look_up(Volume &volume, InodeNo dir, const std::string &name) {
    for (unsigned n = 0;; ++n) {
        const pm::NoWaiting absent(n < pm::kReadInsMax);
        Result<Attr> attr = volume.lookup(dir, name);
        const pm::Absent page = pm::NoWaiting::take();
        if (!page) return attr;
        if (attr.ok()) volume.forget(attr.value().ino, 1);
        page.read_in();
    }
}

// The entry of a name.  Without an inode if it cannot be looked up (damage, a bad page): the kernel
// then lists the name, and a program that uses it gets the error.
fuse_entry_param look_up(Dispatcher &dispatcher, InodeNo dir, const ListedName &listed) {
    fuse_entry_param only_name{};
    only_name.attr.st_ino = listed.ino.value();
    only_name.attr.st_mode = static_cast<mode_t>(listed.type) << 12;
    if (listed.name == "." || listed.name == "..") return only_name;
    const Result<Attr> attr = look_up(dispatcher.volume(), dir, listed.name);
    const bool bad_page = pm::take_fault();
    if (!attr.ok()) return only_name;
    if (bad_page || !dispatcher.client().check_room(true, false).ok()) {
        dispatcher.volume().forget(attr.value().ino, 1);
        return only_name;
    }
    dispatcher.client().add_lookup(attr.value().ino);
    return to_entry(attr.value(), dispatcher);
}

// As readdir, with a lookup of each name.  A lookup counts a reference, so its entry must be in the
// reply.
void readdirplus(fuse_req_t req, fuse_ino_t ino, std::size_t size, off_t cookie, fuse_file_info *) {
    Dispatcher &dispatcher = Dispatcher::of(req);
    EntryBuffer buffer(req, size);
    const auto names =
        list_names(dispatcher, InodeNo(ino), static_cast<std::uint64_t>(cookie), &buffer);
    if (!dispatcher.proceed(req, names)) return;
    for (const ListedName &listed : names.value()) {
        PMFS_ASSERT(buffer.add(listed.entry(), look_up(dispatcher, InodeNo(ino), listed)));
    }
    buffer.reply();
}

void fsyncdir(fuse_req_t req, fuse_ino_t ino, int, fuse_file_info *) {
    Dispatcher &dispatcher = Dispatcher::of(req);
    if (dispatcher.answered_is_durable()) {
        // The caller gets 0, and the kernel does not ask again: it caches no changes of
        // directories.
        fuse_reply_err(req, ENOSYS);
        return;
    }
    dispatcher.volume().fsync(InodeNo(ino), dispatcher.answer_later(req));
}

}  // namespace

void add_directory_operations(fuse_lowlevel_ops &table) {
    table.opendir = opendir;
    table.releasedir = releasedir;
    table.readdir = readdir;
    table.readdirplus = readdirplus;
    table.fsyncdir = fsyncdir;
}

}  // namespace pmfs::front
