// Helpers to read and change attributes: see attributes.h.
#include "volume/attributes.h"

#include <sys/stat.h>

#include <algorithm>

#include "core/btree.h"
#include "core/extent_map.h"
#include "core/inode.h"
#include "core/xattr.h"
#include "media/geometry.h"
#include "volume/operation.h"

namespace pmfs {

using core::Change;
using core::Reader;

Result<std::optional<std::uint64_t>> unseen_from(Engine &engine, InodeNo ino,
                                                 const media::Inode &inode) {
    const auto counts = engine.live.counts(ino);
    if (!S_ISREG(inode.mode.get()) || counts.cached_write == 0) return std::nullopt;
    if (engine.options.writeback) return 0;  // also for written blocks, and behind the end
    const FileBlock end = media::file_block_from(inode.size.get());
    const FileBlock at = TRY(core::dense_until(Reader(*engine.core), inode, ino,
                                               std::min(counts.dense_end, end), end, kLookedAt));
    if (at > counts.dense_end) (void)engine.live.dense_to(ino, at);
    if (at == end) return std::nullopt;
    return media::byte_of(at);
}

Attr attr_of(Engine &engine, InodeNo ino, const media::Inode &inode) {
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
    a.sealed = (inode.flags.get() & media::kSealed) != 0;
    a.atime = core::from_media(inode.atime);
    a.mtime = core::from_media(inode.mtime);
    a.ctime = core::from_media(inode.ctime);
    a.crtime = core::from_media(inode.crtime);
    if (S_ISREG(a.mode)) {
        const auto counts = engine.live.counts(ino);
        a.unsettled = counts.direct_write != 0;
        if (counts.cached_write != 0 && engine.options.writeback) {
            a.blocks = std::max(a.blocks, kBlocksKeptBack);
            a.kept_back = true;
        } else if (!a.unsettled && counts.cached_write != 0) {
            const auto unseen = unseen_from(engine, ino, inode);  // damage is reported elsewhere
            a.unsettled = !unseen.ok() || unseen.value();
        }
    }
    return a;
}

void touch(media::Inode *inode, bool mtime, bool precise) {
    Timespec time = now_coarse();
    // (Never earlier than a precise one.)
    if (precise || core::from_media(inode->mtime) > time) time = now();
    inode->ctime = core::to_media(time);
    if (mtime) inode->mtime = inode->ctime;
}

// S_ISGID without group execution used to mean mandatory locking, and is kept for callers in the
// group.
bool has_setid(std::uint32_t mode) {
    return (mode & S_ISUID) != 0 || (mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP);
}
void kill_setid(media::Inode *inode, bool any_setgid) {
    const std::uint32_t mode = inode->mode.get();
    if (S_ISDIR(mode) || (!has_setid(mode) && !any_setgid))
        return;  // (they mean something else on a directory)
    const bool group = any_setgid || (mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP);
    inode->mode.set(mode & ~(S_ISUID | (group ? S_ISGID : 0u)));
}

Result<> drop_capability(Engine &engine, InodeNo ino) {
    const Reader reader(*engine.core);
    const auto *inode = TRY(core::read_inode(reader, ino));
    if (!core::has_xattr(reader, *inode, ino, kCapability)) return {};
    Change change(*engine.core);
    TRY(change.begin());
    auto *copy = TRY(core::edit_inode(change, ino));
    TRY(core::remove_xattr(change, copy, ino, kCapability));
    TRY(change.commit());
    return {};
}

void attributes_changed(const Engine &engine, InodeNo ino) {
    if (engine.attribute_watcher != nullptr) engine.attribute_watcher->attributes_changed(ino);
}

}  // namespace pmfs
