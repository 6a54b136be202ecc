// Attributes, references and reaping.
#include <sys/stat.h>

#include <algorithm>

#include "core/btree.h"
#include "core/seal.h"
#include "core/xattr.h"
#include "volume/impl.h"

namespace pmfs {

using core::Change;
using core::Reader;

namespace {
// Of the extents behind what is known to be dense, so many are looked at in one call.
constexpr unsigned kExtentsLookedAt = 1024;
}  // namespace

Result<std::optional<std::uint64_t>> Volume::Impl::unseen_from(InodeNo ino,
                                                               const media::Inode &inode) {
    const auto counts = live.counts(ino);
    if (!S_ISREG(inode.mode.get()) || counts.cached_write == 0) return std::nullopt;
    if (options.writeback) return 0;  // also of what is written, and behind the end
    const std::uint64_t end = blocks_up(inode.size.get());
    std::uint64_t at = std::min(counts.dense_end, end);
    for (unsigned n = 0; at < end && n < kExtentsLookedAt; ++n) {
        const Extent e = TRY(core::find_extent(Reader(*core), inode, ino, at));
        if (e.hole() || e.unwritten || e.shared) break;
        at = std::min(e.end(), end);
    }
    if (at > counts.dense_end) live.dense_to(ino, at);
    if (at == end) return std::nullopt;
    return at * media::kBlockSize;
}

Result<std::optional<std::uint64_t>> Volume::unseen_from(InodeNo ino) {
    Impl &v = *impl_;
    SharedLock held(v.lock);
    return v.unseen_from(ino, *TRY(core::read_inode(Reader(*v.core), ino)));
}

bool Volume::unseen_by(HandleId handle) {
    const auto opened = impl_->live.handle(handle);
    return opened && opened->direct_io && impl_->live.counts(opened->ino).cached_write != 0;
}

void Volume::set_attribute_watcher(AttributeWatcher &watcher) {
    impl_->attribute_watcher = &watcher;
}

Attr Volume::Impl::attr_of(InodeNo ino, const media::Inode &inode) {
    Attr a;
    a.ino = ino;
    a.generation = inode.generation.get();
    a.mode = inode.mode.get();
    a.nlink = inode.nlink.get();
    a.uid = inode.uid.get();
    a.gid = inode.gid.get();
    a.rdev = inode.rdev.get();
    const bool directory = S_ISDIR(a.mode);
    a.size = directory ? std::max<std::uint64_t>(inode.blocks.get(), 1) * media::kBlockSize
                       : inode.size.get();
    a.blocks = inode.blocks.get();
    a.atime = core::from_media(inode.atime);
    a.mtime = core::from_media(inode.mtime);
    a.ctime = core::from_media(inode.ctime);
    a.crtime = core::from_media(inode.crtime);
    if (S_ISREG(a.mode)) {
        const auto counts = live.counts(ino);
        a.unsettled = counts.direct_write != 0;
        if (!a.unsettled && counts.cached_write != 0) {
            const auto unseen = unseen_from(ino, inode);  // damage: whoever needs the map says so
            a.unsettled = !unseen.ok() || unseen.value();
        }
    }
    return a;
}

void Volume::Impl::touch(media::Inode *inode, bool mtime) {
    const media::Time now = core::to_media(now_coarse());
    inode->ctime = now;
    if (mtime) inode->mtime = now;
}

// S_ISGID without group execution means mandatory locking, which nobody does, and stays.
bool Volume::Impl::has_setid(std::uint32_t mode) {
    return (mode & S_ISUID) != 0 || (mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP);
}
void Volume::Impl::kill_setid(media::Inode *inode) {
    const std::uint32_t mode = inode->mode.get();
    if (S_ISDIR(mode) || !has_setid(mode)) return;  // (a directory's mean something else)
    const bool group = (mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP);
    inode->mode.set(mode & ~(S_ISUID | (group ? S_ISGID : 0u)));
}

namespace {
constexpr std::string_view kCapability = "security.capability";
}

// Whoever changes a file's content or owner takes away the capabilities that it was given.
Result<> Volume::Impl::drop_capability(InodeNo ino) {
    const Reader reader(*core);
    const auto *inode = TRY(core::read_inode(reader, ino));
    if (!core::has_xattr(reader, *inode, ino, kCapability)) return {};
    Change change(*core);
    TRY(change.begin());
    auto *copy = TRY(core::edit_inode(change, ino));
    TRY(core::remove_xattr(change, copy, ino, kCapability));
    TRY(change.commit());
    return {};
}

Result<Attr> Volume::getattr(InodeNo ino) {
    Impl &v = *impl_;
    SharedLock held(v.lock);
    const auto *inode = TRY(core::read_inode(Reader(*v.core), ino));
    return v.attr_of(ino, *inode);
}

Result<Attr> Volume::setattr(InodeNo ino, const SetAttr &set, const Caller &caller) {
    Impl &v = *impl_;
    TRY(v.writable());
    return v.asking(caller, [&]() -> Result<Attr> {
        ExclusiveLock held(v.lock);
        if (set.size) TRY(v.set_size(ino, *set.size, caller));
        if (set.size || set.uid || set.gid || set.kill_suid_sgid) TRY(v.drop_capability(ino));

        Change change(*v.core);
        TRY(change.begin());
        auto *inode = TRY(core::edit_inode(change, ino));
        if (set.mode) inode->mode.set((inode->mode.get() & S_IFMT) | (*set.mode & 07777));
        if (set.uid) inode->uid.set(*set.uid);
        if (set.gid) inode->gid.set(*set.gid);
        // An explicit mode in the same request has had its say about the bits.
        if (set.kill_suid_sgid && !set.mode) v.kill_setid(inode);
        if (set.atime) inode->atime = core::to_media(*set.atime);
        if (set.mtime) inode->mtime = core::to_media(*set.mtime);
        inode->ctime = core::to_media(set.ctime ? *set.ctime : now_coarse());
        const Attr attr = v.attr_of(ino, *inode);
        TRY(change.commit());
        return attr;
    });
}

// --- references

void Volume::forget(InodeNo ino, std::uint64_t count) {
    if (ino.value() == media::kRootIno) return;
    if (impl_->live.forget(ino, count)) impl_->reap_or_park(ino);
}

Result<> Volume::check_held(InodeNo ino, bool by_number) {
    Impl &v = *impl_;
    if (ino.value() == media::kRootIno || v.live.referenced(ino)) return {};
    const Error stale(ESTALE, "nobody was given an inode of that number");
    if (!by_number || ino.value() == media::kInodeTableIno) return stale;
    SharedLock held(v.lock);
    const auto *inode = TRY(core::read_inode(Reader(*v.core), ino));
    if (inode->nlink.get() == 0) return stale;
    return {};
}

// Frees what an unlinked inode holds.  If there is no room in the journal it stays on the orphan
// list, and is tried again behind a checkpoint, or at the next mount.
void Volume::Impl::reap_or_park(InodeNo ino) {
    Result<> done;
    {
        ExclusiveLock held(lock);
        // Parked meanwhile, it may have gone another way, and its number may be another file's.
        const auto inode = core::read_inode(Reader(*core), ino);
        if (!inode.ok() || inode.value()->nlink.get() != 0) return;
        if (!live.mark_unlinked(ino)) return;  // somebody refers to it after all, and will reap it
        done = reap(ino);
    }
    if (done.ok() || !must_park(done.error())) return;
    if (options.no_background) {
        if (commit_now(true).ok()) reap_or_park(ino);
        return;
    }
    parked_later([this, ino] { reap_or_park(ino); });
}

Result<> Volume::Impl::clear_tree(InodeNo ino, media::TreeKind kind) {
    for (std::uint64_t before = ~0ull;;) {
        const auto *inode = TRY(core::read_inode(Reader(*core), ino));
        if (core::root_of(*inode, kind).get() == 0) return {};
        if (inode->blocks.get() >= before) return corrupt("a tree cannot be emptied");
        before = inode->blocks.get();
        TRY(core::tree_tidy(*core, {ino, kind}, 0));
    }
}

Result<> Volume::Impl::reap(InodeNo ino) {
    for (bool blocks_left = true; blocks_left;) {  // its blocks
        Change change(*core);
        TRY(change.begin());
        auto *inode = TRY(core::edit_inode(change, ino));
        if (S_ISDIR(inode->mode.get())) break;
        const auto permit = TRY(core::permit(*inode, {}, core::Move::reap));
        blocks_left = !TRY(core::map_trim(change, inode, ino, 0, permit));
        TRY(change.commit());
        TRY(core::map_tidy(*core, ino, ~0ull >> 1));
    }
    for (;;) {  // its attributes
        const auto *was = TRY(core::read_inode(Reader(*core), ino));
        if (was->xattr_root.get() == 0) break;
        Change change(*core);
        TRY(change.begin());
        auto *inode = TRY(core::edit_inode(change, ino));
        auto removed = core::remove_any_xattr(change, inode, ino);
        if (!removed.ok() && removed.error().errno_value() == ENODATA) break;
        TRY(std::move(removed));
        TRY(change.commit());
        TRY(core::tree_tidy(*core, {ino, media::TreeKind::xattr}, 0));
    }
    TRY(clear_tree(ino, media::TreeKind::xattr));
    const auto *last = TRY(core::read_inode(Reader(*core), ino));
    TRY(clear_tree(ino,
                   S_ISDIR(last->mode.get()) ? media::TreeKind::directory : media::TreeKind::map));
    Change change(*core);
    TRY(change.begin());
    auto *inode = TRY(core::edit_inode(change, ino));
    if (inode->nlink.get() != 0) return corrupt("an inode to be freed has a name");
    TRY(core::remove_orphan(change, ino, inode));
    TRY(core::free_inode(change, ino, inode));
    TRY(change.commit());
    allocator->release_reservation(ino.value());
    return {};
}

}  // namespace pmfs
