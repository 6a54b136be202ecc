// Open files: handles, and which of them the kernel may cache (architecture.md "Coherence").
#include <sys/stat.h>

#include "volume/impl.h"

namespace pmfs {

using core::Reader;

Result<OpenReply> Volume::open_file(InodeNo ino, const OpenRequest &request) {
    Impl &v = *impl_;
    if (request.write || request.truncate) TRY(v.writable());
    OpenReply reply;
    if (request.truncate) reply.stale.attributes = TRY(truncate_by_open(ino, request));
    TRY(v.check_seal(ino, request.caller));
    SharedLock held(v.lock);
    const Reader reader(*v.core);
    const auto *inode = TRY(core::read_inode(reader, ino));
    if (!S_ISREG(inode->mode.get())) return Error(EINVAL, "not a regular file");
    const std::uint32_t flags = inode->flags.get();
    bool direct = request.direct;
    // Sealed full: nobody caches.  Sealed as-is, or held by a grant: a store into a hole must fail
    // in write(2), not in write-back where nobody hears of it.  Those who freeze a map hold the
    // volume's lock exclusively, so an open comes before them, and counts, or after them.
    if ((flags & media::kSealedFull) != 0) direct = true;
    if ((flags & media::kSealed) != 0 && request.write) direct = true;
    OpenRequest lasting = request;  // it is remembered with the handle
    lasting.caller.progress = nullptr;
    auto opened = direct ? std::nullopt : v.live.open(ino, lasting, false);
    reply.direct_io = !opened;
    if (!opened) opened = v.live.open(ino, lasting, true);
    reply.handle = opened->handle;
    reply.keep_cache = opened->keep_cache;
    // Attributes that the kernel was given to keep are no longer to be kept.
    if (request.write && !reply.direct_io)
        reply.stale.attributes |= TRY(v.unseen_from(ino, *inode)).has_value();
    return reply;
}

// O_TRUNC, of which the kernel hears nothing but success.  True: set-id bits went.
Result<bool> Volume::truncate_by_open(InodeNo ino, const OpenRequest &request) {
    SetAttr set;
    set.size = 0;
    set.mtime = now_coarse();
    set.kill_suid_sgid = request.kill_suid_sgid;
    bool killed = false;
    TRY(set_attributes(ino, set, request.caller, &killed));
    return killed;
}

Result<Attr> Volume::create(InodeNo dir, std::string_view name, std::uint32_t mode,
                            const OpenRequest &request, OpenReply *reply) {
    if (!S_ISREG(mode)) return Error(EINVAL, "only a regular file is made and opened at once");
    Attr attr = TRY(make(dir, name, mode, 0, request.caller));
    OpenRequest untouched = request;
    untouched.truncate = false;  // empty as it is; a change that parks would meet the name again
    auto opened = open_file(attr.ino, untouched);
    if (!opened.ok()) {
        forget(attr.ino, 1);
        return opened.error();
    }
    *reply = opened.value();
    reply->stale = {};  // nobody knew the file before
    attr.unsettled = request.write && (reply->direct_io || impl_->options.writeback);
    return attr;
}

void Volume::release(HandleId handle) {
    Impl &v = *impl_;
    // While that waits for the journal, the handle and all its grants stay.
    if (!v.holders->close_handle(handle).ok())
        return v.parked_later([this, handle] { release(handle); });
    const auto released = v.live.release(handle);
    if (!released) return;
    if (released->leases_gone) v.holders->leases_gone(released->ino);
    if (released->last_handle && !v.allocator->nothing_reserved()) {
        ExclusiveLock held(v.lock);
        v.allocator->release_reservation(released->ino.value());
    }
    if (released->reap) v.reap_or_park(released->ino);
}

Result<HandleInfo> Volume::handle_info(HandleId handle) {
    const auto found = impl_->live.handle(handle);
    if (!found) return Error(EBADF, "no such open file");
    return *found;
}

Result<std::vector<HandleInfo>> Volume::handles(InodeNo ino) {
    return impl_->live.handles(ino);
}

}  // namespace pmfs
