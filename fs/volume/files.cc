// Open files: handles, and which of them the kernel may cache (docs/architecture.md "The kernel's
// caches").
#include <sys/stat.h>

#include <algorithm>

#include "core/inode.h"
#include "core/protection.h"
#include "volume/attributes.h"
#include "volume/parts.h"

namespace pmfs {

using core::Reader;

Result<OpenReply> Volume::open_file(InodeNo ino, const OpenRequest &request) {
    Engine &e = parts_->engine;
    if (request.write || request.truncate) TRY(writable(e));
    OpenReply reply;
    if (request.truncate) reply.stale.mode = TRY(truncate_by_open(ino, request));
    TRY(check_seal(ino, request.caller));
    SharedLock held(e.lock);
    const Reader reader(*e.core);
    const auto *inode = TRY(core::read_inode(reader, ino));
    if (!S_ISREG(inode->mode.get())) return Error(EINVAL, "it is not a regular file");
    const std::uint32_t flags = inode->flags.get();
    if (request.write) TRY(core::may_open_for_writing(*inode, request.append));
    // A store by mmap would not append.
    bool direct = request.direct || (request.write && core::is_append_only(*inode));
    // Sealed full: handles that only read are cached, because programs map such files through the
    // mount.  While one is open, no grant that may store can be taken; sealed_direct is for those
    // who need that.
    const bool full = (flags & media::kSealedFull) != 0;
    if (full && (request.maps_sealed || e.options.sealed_direct)) direct = true;
    // Sealed, or held by a grant: a store into a hole must fail in write(2), not in write-back,
    // where the error is lost.  Code that freezes a map holds the volume's lock exclusively, so an
    // open comes either before it, and is counted, or after it.
    if ((flags & media::kSealed) != 0 && request.write) direct = true;
    OpenRequest lasting = request;  // it is stored with the handle
    lasting.caller.progress = nullptr;
    auto opened = direct ? std::nullopt : e.live.open(ino, lasting, false);
    reply.direct_io = !opened;
    if (!opened) opened = e.live.open(ino, lasting, true);
    reply.handle = opened->handle;
    reply.keep_cache = opened->keep_cache;
    // The kernel must drop attributes that it was allowed to cache.
    if (request.write && !reply.direct_io) {
        const auto unseen = pmfs::unseen_from(e, ino, *inode);
        if (!unseen.ok()) {
            (void)e.live.release(opened->handle);  // it is not returned
            return unseen.error();
        }
        reply.stale.attributes |=
            e.options.writeback ? inode->blocks.get() == 0 : unseen.value().has_value();
    }
    return reply;
}

bool Volume::opened_nonblocking(InodeNo ino, const Caller &caller) {
    return parts_->engine.live.opened_nonblocking(ino, caller);
}

// O_TRUNC: the kernel learns only that it succeeded.  True: set-id bits were cleared.
Result<bool> Volume::truncate_by_open(InodeNo ino, const OpenRequest &request) {
    SetAttr set;
    set.size = 0;
    set.mtime = now_coarse();
    set.kill_suid_sgid = request.kill_suid_sgid;
    set.kill_any_sgid = request.kill_any_sgid;
    bool killed = false;
    TRY(set_attributes(ino, set, request.caller, &killed));
    return killed;
}

Result<Attr> Volume::create(InodeNo dir, std::string_view name, std::uint32_t mode,
                            const OpenRequest &request, OpenReply *reply) {
    if (!S_ISREG(mode))
        return Error(EINVAL, "only a regular file can be created and opened at once");
    return open_new(TRY(make(dir, name, mode, 0, request.caller)), request, reply);
}

// A file that was just made, and to which the caller has a reference.
Result<Attr> Volume::open_new(Attr attr, const OpenRequest &request, OpenReply *reply) {
    OpenRequest untouched = request;
    untouched.truncate = false;  // empty already; a parked change would meet the name again
    auto opened = open_file(attr.ino, untouched);
    if (!opened.ok()) {
        forget(attr.ino, 1);
        return opened.error();
    }
    *reply = opened.value();
    reply->stale = {};  // no kernel knew the file before
    attr.unsettled = request.write && reply->direct_io;
    attr.kept_back = request.write && !reply->direct_io && parts_->engine.options.writeback;
    if (attr.kept_back) attr.blocks = std::max(attr.blocks, kBlocksKeptBack);
    return attr;
}

// The kernel was told of a block that may not exist.
static void forget_no_blocks(Engine &e, InodeNo ino) {
    {
        SharedLock held(e.lock);
        const auto inode = core::read_inode(Reader(*e.core), ino);
        if (!inode.ok() || inode.value()->blocks.get() != 0) return;
    }
    attributes_changed(e, ino);
}

void Volume::release(HandleId handle) {
    Engine &e = parts_->engine;
    // While that waits for the journal, the handle and all its grants stay.
    if (!e.holders->close_handle(handle).ok())
        return parts_->commits.park(0, [this, handle] { release(handle); });
    const auto released = e.live.release(handle);
    if (!released) return;
    if (released->kept_back) forget_no_blocks(e, released->ino);
    if (released->leases_gone) e.holders->leases_gone(released->ino);
    if (released->last_handle && !e.allocator->nothing_reserved()) {
        ExclusiveLock held(e.lock);
        e.allocator->release_reservation(released->ino.value());
    }
    if (released->reap) parts_->reaper.reap(released->ino);
}

Result<std::optional<std::uint64_t>> Volume::unseen_from(InodeNo ino) {
    Engine &e = parts_->engine;
    SharedLock held(e.lock);
    return pmfs::unseen_from(e, ino, *TRY(core::read_inode(Reader(*e.core), ino)));
}

bool Volume::unseen_by(HandleId handle) {
    const auto opened = parts_->engine.live.handle(handle);
    return opened && opened->past_cache() &&
           parts_->engine.live.counts(opened->ino).asked_write != 0;
}

bool Volume::past_cache(HandleId handle) {
    const auto opened = parts_->engine.live.handle(handle);
    return opened && opened->past_cache();
}

Result<HandleInfo> Volume::handle_info(HandleId handle) {
    const auto found = parts_->engine.live.handle(handle);
    if (!found) return Error(EBADF, "there is no such open file");
    return *found;
}

Result<std::vector<HandleInfo>> Volume::handles(InodeNo ino) {
    return parts_->engine.live.handles(ino);
}

}  // namespace pmfs
