// Seals and grants: who may, what must be true, and what is written (docs/seal.md).
#include <sys/stat.h>

#include <algorithm>
#include <cstring>

#include "volume/impl.h"
#include "volume/seal_modes.h"

namespace pmfs {

using core::Change;
using core::Reader;
using media::kBlockSize;

namespace {

SealLevel level_of(const media::Inode &inode) {
    const std::uint32_t flags = inode.flags.get();
    if ((flags & media::kSealed) == 0) return SealLevel::none;
    return (flags & media::kSealedFull) != 0 ? SealLevel::full : SealLevel::as_is;
}

Result<> may_seal(const MountOptions &options, const media::Inode &inode, const Caller &caller,
                  bool privileged) {
    if (options.writeback) return Error(EOPNOTSUPP, "no seals on a mount with -o writeback");
    if (!S_ISREG(inode.mode.get())) return Error(EINVAL, "only regular files have a block map");
    if (privileged || caller.uid == 0) return {};
    if (options.owner_may_seal && caller.uid == inode.uid.get()) return {};
    return Error(EPERM, "sealing takes root, or the owner on a mount with -o seal=owner");
}

}  // namespace

Result<> Volume::seal(InodeNo ino, SealLevel level, const Caller &caller, bool privileged,
                      std::uint64_t *bad_offset) {
    Impl &v = *impl_;
    if (level == SealLevel::none) return Error(EINVAL, "a seal is as-is or full");
    TRY(v.writable());
    // What is sealed already may be so by a call that is not durable yet: wait for that as well.
    const auto done = [&]() -> Result<> {
        ExclusiveLock held(v.lock);
        const Reader reader(*v.core);
        const auto *was = TRY(core::read_inode(reader, ino));
        TRY(may_seal(v.options, *was, caller, privileged));
        if (was->size.get() == 0) return Error(EINVAL, "an empty file has no block map to seal");
        if (level_of(*was) >= level) return {};
        TRY(v.settle_trim(ino));
        TRY(core::ask(*was, v.live.standing(ino), core::Move::seal));
        if (level == SealLevel::full) {
            const std::uint64_t unit = v.superblock.mapping_unit.get() / kBlockSize;
            std::uint64_t bad = 0;
            const auto fits =
                core::check_mappable(reader, *was, ino, 0, blocks_up(was->size.get()), unit, &bad);
            if (!fits.ok() && bad_offset) *bad_offset = bad * kBlockSize;
            TRY(Result<>(fits));
        } else if (TRY(core::has_gaps(reader, *was, ino)) && v.live.counts(ino).cached_write != 0) {
            return Error(EBUSY, kGapsCached);
        }
        Change change(*v.core);
        TRY(change.begin());
        auto *inode = TRY(core::edit_inode(change, ino));
        const auto digest = TRY(core::map_digest(reader, *inode, ino));
        std::memcpy(inode->seal_digest, digest.data(), digest.size());
        inode->flags.set(inode->flags.get() | media::kSealed |
                         (level == SealLevel::full ? media::kSealedFull : 0u));
        v.touch(inode, false);
        TRY(change.commit());
        return {};
    }();
    TRY(Result<>(done));
    return v.make_durable();
}

Result<> Volume::unseal(InodeNo ino, const Caller &caller, bool privileged) {
    Impl &v = *impl_;
    TRY(v.writable());
    // What is sealed already may be so by a call that is not durable yet: wait for that as well.
    const auto done = [&]() -> Result<> {
        ExclusiveLock held(v.lock);
        const auto *was = TRY(core::read_inode(Reader(*v.core), ino));
        TRY(may_seal(v.options, *was, caller, privileged));
        if (level_of(*was) == SealLevel::none) return {};
        TRY(core::ask(*was, v.holders->standing(ino), core::Move::unseal));
        Change change(*v.core);
        TRY(change.begin());
        auto *inode = TRY(core::edit_inode(change, ino));
        inode->flags.set(inode->flags.get() & ~(media::kSealed | media::kSealedFull));
        std::memset(inode->seal_digest, 0, sizeof inode->seal_digest);
        v.touch(inode, false);
        TRY(change.commit());
        return {};
    }();
    TRY(Result<>(done));
    return v.make_durable();
}

Result<> Volume::seal_by_fallocate(HandleId handle, InodeNo ino, unsigned mode,
                                   std::uint64_t offset, std::uint64_t length,
                                   const Caller &caller) {
    Impl &v = *impl_;
    {
        SharedLock held(v.lock);
        const auto *inode = TRY(core::read_inode(Reader(*v.core), ino));
        if (offset != 0 || length < inode->size.get() || length == 0)
            return Error(EINVAL,
                         "a seal covers the whole file: offset 0, length at least its size");
    }
    const auto opened = v.live.handle(handle);
    if (!opened || opened->ino != ino || !opened->write)
        return Error(EBADF, "the file is not open for writing");
    if (mode == kUnsealMode) return unseal(ino, caller, false);
    std::uint64_t bad = 0;
    return seal(ino, SealLevel::full, caller, false, &bad);
}

Result<FileInfo> Volume::file_info(InodeNo ino) {
    Impl &v = *impl_;
    SharedLock held(v.lock);
    const Reader reader(*v.core);
    const auto *inode = TRY(core::read_inode(reader, ino));
    FileInfo info;
    info.attr = v.attr_of(ino, *inode);
    if (!S_ISREG(inode->mode.get())) return info;
    info.seal = level_of(*inode);
    info.in_trim = (inode->flags.get() & media::kTrimPending) != 0;
    for (std::uint64_t at = 0;; ++info.extents) {
        const Extent e = TRY(core::next_extent(reader, *inode, ino, at));
        if (e.hole()) break;
        at = e.end();
    }
    const auto digest = TRY(core::map_digest(reader, *inode, ino));
    std::memcpy(info.digest, digest.data(), digest.size());
    const auto counts = v.live.counts(ino);
    info.grants = counts.grants;
    info.handles_cached = counts.cached;
    info.handles_cached_write = counts.cached_write;
    info.handles_direct = counts.direct;
    return info;
}

Result<std::size_t> Volume::extents(InodeNo ino, std::uint64_t from, std::span<Extent> out) {
    Impl &v = *impl_;
    SharedLock held(v.lock);
    const Reader reader(*v.core);
    const auto *inode = TRY(core::read_inode(reader, ino));
    if (!S_ISREG(inode->mode.get())) return Error(EINVAL, "only regular files have a block map");
    std::size_t n = 0;
    while (n < out.size()) {
        const Extent e = TRY(core::next_extent(reader, *inode, ino, from));
        if (e.hole() || e.file_block >= media::kDonorBase) break;
        out[n++] = e;
        from = e.end();
    }
    return n;
}

}  // namespace pmfs
