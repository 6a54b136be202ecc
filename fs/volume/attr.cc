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

// --- references

void Volume::forget(InodeNo ino, std::uint64_t count) {
    if (ino.value() == media::kRootIno) return;
    if (impl_->live.forget(ino, count)) impl_->reap_or_park(ino);
}

Result<> Volume::check_held(InodeNo ino, bool by_number) {
    Impl &v = *impl_;
    if (ino.value() == media::kRootIno || v.live.referenced(ino)) return {};
    const Error stale(ESTALE, "nobody was given an inode of that number");
    if (!by_number) return stale;
    SharedLock held(v.lock);
    const auto *inode = TRY(core::read_inode(Reader(*v.core), ino));
    if (inode->nlink.get() == 0) return stale;
    return {};
}

Result<bool> Volume::Impl::clear_tree_step(InodeNo ino, media::TreeKind kind) {
    const auto *inode = TRY(core::read_inode(Reader(*core), ino));
    if (core::root_of(*inode, kind).get() == 0) return true;
    const std::uint64_t before = inode->blocks.get();
    TRY(core::tree_tidy(*core, {ino, kind}, 0));
    inode = TRY(core::read_inode(Reader(*core), ino));
    if (core::root_of(*inode, kind).get() != 0 && inode->blocks.get() >= before)
        return corrupt("a tree cannot be emptied");
    return false;
}

Result<> Volume::Impl::clear_tree(InodeNo ino, media::TreeKind kind) {
    while (!TRY(clear_tree_step(ino, kind))) {
    }
    return {};
}

namespace {

// Frees what an inode without a name holds, and the inode.  The volume's own: it waits for no
// request, and goes on at the next mount where it stopped.
class Reap final : public Operation {
public:
    Reap(Volume::Impl &v, InodeNo ino) : Operation(v.file_claims, ino), v_(v) {}

    Result<bool> step() override {
        v_.lock.assert_held();
        switch (stage_) {
            case Stage::begin:
                return begin();
            case Stage::blocks:
                if (TRY(free_blocks())) stage_ = Stage::xattrs;
                return false;
            case Stage::xattrs:
                if (TRY(free_xattr())) stage_ = Stage::xattr_tree;
                return false;
            case Stage::xattr_tree:
                if (TRY(v_.clear_tree_step(ino_, media::TreeKind::xattr))) stage_ = Stage::tree;
                return false;
            case Stage::tree:
                if (TRY(v_.clear_tree_step(
                        ino_, directory_ ? media::TreeKind::directory : media::TreeKind::map)))
                    stage_ = Stage::inode;
                return false;
            case Stage::inode:
                break;
        }
        TRY(free_inode());
        return true;
    }

private:
    enum class Stage : std::uint8_t { begin, blocks, xattrs, xattr_tree, tree, inode };

    // True: there is nothing to do.
    Result<bool> begin() {
        const auto inode = core::read_inode(Reader(*v_.core), ino_);
        // It may have gone another way meanwhile, and its number may be another file's.
        if (!inode.ok() || inode.value()->nlink.get() != 0) return true;
        if (!v_.live.mark_unlinked(ino_)) return true;  // somebody refers to it, and will reap it
        TRY(claim_.take(ClaimFor::freeing));
        directory_ = S_ISDIR(inode.value()->mode.get());
        stage_ = directory_ ? Stage::xattrs : Stage::blocks;
        return false;
    }

    Result<bool> free_blocks() {
        Change change(*v_.core);
        TRY(change.begin());
        auto *inode = TRY(core::edit_inode(change, ino_));
        const auto permit = TRY(core::permit(*inode, {}, core::Move::reap));
        const bool all = TRY(core::map_trim(change, inode, ino_, 0, permit));
        TRY(change.commit());
        TRY(best_effort(core::map_tidy(*v_.core, ino_, ~0ull >> 1)));
        return all;
    }

    Result<bool> free_xattr() {
        const auto *was = TRY(core::read_inode(Reader(*v_.core), ino_));
        if (was->xattr_root.get() == 0) return true;
        Change change(*v_.core);
        TRY(change.begin());
        auto *inode = TRY(core::edit_inode(change, ino_));
        auto removed = core::remove_any_xattr(change, inode, ino_);
        if (!removed.ok() && removed.error().errno_value() == ENODATA) return true;
        TRY(std::move(removed));
        TRY(change.commit());
        TRY(best_effort(core::tree_tidy(*v_.core, {ino_, media::TreeKind::xattr}, 0)));
        return false;
    }

    Result<> free_inode() {
        Change change(*v_.core);
        TRY(change.begin());
        auto *inode = TRY(core::edit_inode(change, ino_));
        if (inode->nlink.get() != 0) return corrupt("an inode to be freed has a name");
        TRY(core::remove_orphan(change, ino_, inode));
        TRY(core::free_inode(change, ino_, inode));
        TRY(change.commit());
        v_.allocator->release_reservation(ino_.value());
        return {};
    }

    Volume::Impl &v_;
    Stage stage_ = Stage::begin;
    bool directory_ = false;
};

}  // namespace

// At a mount, where nobody waits for the lock.
Result<> Volume::Impl::reap(InodeNo ino) {
    Reap reap(*this, ino);
    while (!TRY(reap.step())) {
    }
    return {};
}

// If there is no room in the journal it stays on the orphan list, and goes on behind a checkpoint,
// or at the next mount.
void Volume::Impl::reap_or_park(InodeNo ino) {
    go_on(std::make_shared<Reap>(*this, ino));
}

// Runs an operation of the volume's own, for which nobody waits.  Damage ends it.
void Volume::Impl::go_on(std::shared_ptr<Operation> operation) {
    for (;;) {
        const Result<> done = scheduler.run(*operation);
        if (done.ok() || !must_park(done.error())) return;
        auto again = [this, operation] { go_on(operation); };
        if (done.error().errno_value() == kClaimErrno)
            return file_claims.wait(operation->ino(), std::move(again));
        if (!options.no_background) return parked_later(std::move(again));
        if (!commit_now(true).ok()) return;
    }
}

}  // namespace pmfs
