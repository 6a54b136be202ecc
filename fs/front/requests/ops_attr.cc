// Operations on attributes: of a file, of the filesystem, and extended ones.
#include <linux/fuse.h>

#include <algorithm>

#include "base/clock.h"
#include "front/requests/convert.h"
#include "front/requests/ops.h"
#include "front/requests/request.h"
#include "volume/acl_ids.h"

namespace pmfs::front {
namespace {

constexpr std::size_t kNameMax = 255;

// The xattrs that set the seal (docs/seal.md): dirty pages are written back first.
bool is_seal(std::string_view name) {
    return name == "trusted.pmfs.seal" || name == "user.pmfs.seal";
}

void reply_attr(Dispatcher &dispatcher, fuse_req_t req, const Result<Attr> &attr,
                const News &news = {}) {
    if (!dispatcher.proceed(req, attr)) return;
    const struct stat stat = to_stat(attr.value(), dispatcher.client());
    const double timeout = attr_timeout(attr.value(), dispatcher);
    dispatcher.tell_others(req, news,
                           [req, stat, timeout] { fuse_reply_attr(req, &stat, timeout); });
}

// Attributes of one inode.
News attribute_news(Dispatcher &dispatcher, fuse_ino_t ino) {
    if (!dispatcher.others_hear()) [[likely]]
        return {};
    return {.attributes = {InodeNo(ino)}};
}

void getattr(fuse_req_t req, fuse_ino_t ino, fuse_file_info *) {
    Dispatcher &dispatcher = Dispatcher::of(req);
    Result<Attr> attr = dispatcher.volume().getattr(InodeNo(ino));
    if (attr.ok()) {
        const auto unseen = dispatcher.unseen_pages(attr.value());
        if (!dispatcher.proceed(req, unseen)) return;
        if (unseen.value() && !dispatcher.flushed(req, *unseen.value(), /*wished=*/true)) return;
    }
    reply_attr(dispatcher, req, attr);
}

constexpr unsigned kTimes = FATTR_ATIME | FATTR_ATIME_NOW | FATTR_MTIME | FATTR_MTIME_NOW;

SetAttr to_set_attr(const struct stat &attr, unsigned valid) {
    SetAttr set;
    if (valid & FATTR_MODE) set.mode = attr.st_mode & 07777;
    if (valid & FATTR_UID) set.uid = attr.st_uid;
    if (valid & FATTR_GID) set.gid = attr.st_gid;
    if (valid & FATTR_SIZE) set.size = static_cast<std::uint64_t>(attr.st_size);
    if (valid & FATTR_ATIME)
        set.atime = valid & FATTR_ATIME_NOW ? now_coarse() : from_timespec(attr.st_atim);
    if (valid & FATTR_MTIME)
        set.mtime = valid & FATTR_MTIME_NOW ? now_coarse() : from_timespec(attr.st_mtim);
    if (valid & FATTR_CTIME) set.ctime = from_timespec(attr.st_ctim);
    // With -o writeback every request of times has a ctime.  Those of the kernel itself, for writes
    // that it cached, name an open file (fuse_flush_times()); those of utimensat(2) never do, and
    // there "now" equals the ctime.
    set.times_kept =
        (valid & (kTimes | FATTR_CTIME | FATTR_FH)) == (FATTR_MTIME | FATTR_CTIME | FATTR_FH);
    const bool atime_given = (valid & (FATTR_ATIME | FATTR_ATIME_NOW)) == FATTR_ATIME;
    const bool mtime_given = (valid & (FATTR_MTIME | FATTR_MTIME_NOW)) == FATTR_MTIME;
    // One time alone is given, too, even if it is "now" (fs/utimes.c, ATTR_TIMES_SET).
    const bool one_alone = ((valid & FATTR_ATIME) != 0) != ((valid & FATTR_MTIME) != 0);
    set.times_given =
        !set.times_kept && (one_alone || atime_given || (mtime_given && set.mtime != set.ctime));
    // The protocol (FUSE_HANDLE_KILLPRIV_V2): always with a new owner, and on truncation when the
    // kernel says so.  A request that sets nothing comes from chown(-1, -1), and from the VFS when
    // it clears the bits before a write or an fallocate (measured on 6.18).  With -o writeback it
    // has a ctime all the same.
    constexpr unsigned kSetsNothing = FATTR_FH | FATTR_LOCKOWNER | FATTR_CTIME;
    set.only_kills = (valid & ~kSetsNothing) == 0;
    set.kill_suid_sgid = set.uid || set.gid || (valid & FATTR_KILL_SUIDGID) != 0 || set.only_kills;
    return set;
}

// With -o writeback, times that the kernel itself has changed for a file that is open for writing
// only past the cache, as one that is append-only is: then fuse_flush_times() names no open file,
// and utimensat(2) with "now" for the mtime alone looks the same.
bool may_flush_times(Dispatcher &dispatcher, InodeNo ino, unsigned valid, const SetAttr &set) {
    if ((valid & (kTimes | FATTR_CTIME)) != (FATTR_MTIME | FATTR_CTIME) || set.mtime != set.ctime)
        return false;
    const auto handles = dispatcher.volume().handles(ino);
    return handles.ok() && std::ranges::any_of(handles.value(), &HandleInfo::write);
}

void setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int, fuse_file_info *info) {
    Dispatcher &dispatcher = Dispatcher::of(req);
    const unsigned valid = Request::current()->argument<fuse_setattr_in>().valid;
    News news = attribute_news(dispatcher, ino);
    if (news.any() && (valid & FATTR_SIZE) != 0) {
        // Otherwise another kernel would later write back, behind the new end, what it stored
        // before.
        if (!dispatcher.flushed(req, {.ino = InodeNo(ino)})) return;
        news.pages = {.ino = InodeNo(ino)};
    }
    Caller caller = caller_of(req, info);
    if ((valid & FATTR_SIZE) != 0 && info == nullptr)
        caller.nonblocking = dispatcher.volume().opened_nonblocking(InodeNo(ino), caller);
    SetAttr set = to_set_attr(*attr, valid);
    if (set.times_given && may_flush_times(dispatcher, InodeNo(ino), valid, set))
        set.times_given = false;
    if (set.kill_suid_sgid) set.kill_any_sgid = dispatcher.kills_any_setgid(InodeNo(ino), caller);
    reply_attr(dispatcher, req, dispatcher.volume().setattr(InodeNo(ino), set, caller), news);
}

void statfs(fuse_req_t req, fuse_ino_t) {
    Dispatcher &dispatcher = Dispatcher::of(req);
    const VolumeInfo info = dispatcher.volume().info();
    if (dispatcher.bad_page(req)) return;
    struct statvfs stat {};
    stat.f_bsize = stat.f_frsize = 4096;
    stat.f_blocks = info.blocks_total;
    stat.f_bfree = info.blocks_for_root;  // as ext4 does: the difference is root's reserve
    stat.f_bavail = info.blocks_available;
    // The number of inodes is limited only by space.
    stat.f_ffree = stat.f_favail = info.inodes_available;
    stat.f_files = info.inodes_used + stat.f_ffree;
    stat.f_namemax = kNameMax;
    fuse_reply_statfs(req, &stat);
}

void setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, std::size_t size,
              int flags) {
    Dispatcher &dispatcher = Dispatcher::of(req);
    if (is_seal(name) && !dispatcher.client().policy().may_seal) {
        fuse_reply_err(req, EPERM);
        return;
    }
    if (is_seal(name) && !dispatcher.flushed(req, {.ino = InodeNo(ino)})) return;
    std::vector<std::byte> made;
    const auto bytes =
        xattr_in(name, std::as_bytes(std::span(value, size)), dispatcher.client(), &made);
    if (!bytes) {
        fuse_reply_err(req, EOVERFLOW);
        return;
    }
    const Caller caller = caller_of(req);
    const Result<> done = dispatcher.volume().setxattr(InodeNo(ino), name, *bytes, flags, caller,
                                                       dispatcher.drops_setgid(caller));
    if (done.ok() && is_access_acl(name)) dispatcher.mode_changed(InodeNo(ino));
    if (dispatcher.proceed(req, done))
        dispatcher.tell_others(req, attribute_news(dispatcher, ino),
                               [req] { fuse_reply_err(req, 0); });
}

// The protocol of getxattr(2) and listxattr(2): size 0 asks how many bytes there are.
void reply_bytes(fuse_req_t req, std::span<const std::byte> bytes, std::size_t size_max) {
    if (size_max == 0) {
        fuse_reply_xattr(req, bytes.size());
    } else if (bytes.size() > size_max) {
        fuse_reply_err(req, ERANGE);
    } else {
        fuse_reply_buf(req, reinterpret_cast<const char *>(bytes.data()), bytes.size());
    }
}

void getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, std::size_t size_max) {
    Dispatcher &dispatcher = Dispatcher::of(req);
    const auto value = dispatcher.volume().getxattr(InodeNo(ino), name);
    if (!dispatcher.proceed(req, value)) return;
    std::vector<std::byte> made;
    reply_bytes(req, xattr_out(name, value.value(), dispatcher.client(), &made), size_max);
}

// Only the client's root sees trusted.* names, as the VFS does it for their values.
void listxattr(fuse_req_t req, fuse_ino_t ino, std::size_t size_max) {
    Dispatcher &dispatcher = Dispatcher::of(req);
    const bool trusted = dispatcher.client().policy().users.in(0) == fuse_req_ctx(req)->uid;
    const Result<std::string> names = dispatcher.volume().listxattr(InodeNo(ino), trusted);
    if (dispatcher.proceed(req, names))
        reply_bytes(req, std::as_bytes(std::span(names.value())), size_max);
}

void removexattr(fuse_req_t req, fuse_ino_t ino, const char *name) {
    Dispatcher &dispatcher = Dispatcher::of(req);
    if (is_seal(name) && !dispatcher.client().policy().may_seal) {
        fuse_reply_err(req, EPERM);
        return;
    }
    if (is_seal(name) && !dispatcher.flushed(req, {.ino = InodeNo(ino)})) return;
    const Result<> done = dispatcher.volume().removexattr(InodeNo(ino), name, caller_of(req));
    if (dispatcher.proceed(req, done))
        dispatcher.tell_others(req, attribute_news(dispatcher, ino),
                               [req] { fuse_reply_err(req, 0); });
}

}  // namespace

void add_attribute_operations(fuse_lowlevel_ops &table) {
    table.getattr = getattr;
    table.setattr = setattr;
    table.statfs = statfs;
    table.setxattr = setxattr;
    table.getxattr = getxattr;
    table.listxattr = listxattr;
    table.removexattr = removexattr;
}

}  // namespace pmfs::front
