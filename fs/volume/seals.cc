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

std::uint64_t blocks_up(std::uint64_t bytes) {
    return (bytes + kBlockSize - 1) / kBlockSize;
}

Result<> may_seal(const MountOptions &options, const media::Inode &inode, const Caller &caller,
                  bool privileged) {
    if (options.writeback) return Error(EOPNOTSUPP, "no seals on a mount with -o writeback");
    if (!S_ISREG(inode.mode.get())) return Error(EINVAL, "only regular files have a block map");
    if (privileged || caller.uid == 0) return {};
    if (options.owner_may_seal && caller.uid == inode.uid.get()) return {};
    return Error(EPERM, "sealing takes root, or the owner on a mount with -o seal=owner");
}

// Holes, unwritten or shared blocks inside the file: what a store by mmap would have to allocate.
Result<bool> has_gaps(const Reader &reader, const media::Inode &inode, InodeNo ino) {
    const std::uint64_t end = blocks_up(inode.size.get());
    for (std::uint64_t at = 0; at < end;) {
        const Extent e = TRY(core::find_extent(reader, inode, ino, at));
        if (e.hole() || e.unwritten || e.shared) return true;
        at = e.end();
    }
    return false;
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
        for (const core::Grant &grant : v.live.grants(ino))
            if (grant.kind == GrantKind::breakable)
                return Error(EBUSY, "the file is leased: see pmfsctl holders");
        if (level == SealLevel::full) {
            const std::uint64_t unit = v.superblock.mapping_unit.get() / kBlockSize;
            std::uint64_t bad = 0;
            const auto fits =
                core::check_mappable(reader, *was, ino, 0, blocks_up(was->size.get()), unit, &bad);
            if (!fits.ok() && bad_offset) *bad_offset = bad * kBlockSize;
            TRY(Result<>(fits));
        } else if (TRY(has_gaps(reader, *was, ino)) && v.live.counts(ino).cached_write != 0) {
            return Error(EBUSY, "the file has holes and is open for cached writing");
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
        if (!v.live.grants(ino).empty())
            return Error(EBUSY, "somebody maps the file or holds a grant: see pmfsctl holders");
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

namespace {

// Marks the file as one whose blocks behind its end may hold something, and zeroes those.
Result<> mark_mapped(Volume::Impl &v, InodeNo ino) {
    const Reader reader(*v.core);
    const auto *was = TRY(core::read_inode(reader, ino));
    const std::uint64_t size = was->size.get(), unit = v.superblock.mapping_unit.get();
    const std::uint64_t end = (size + unit - 1) / unit * unit;
    v.journal->persist(TRY(v.zero_written(reader, *was, ino, size, end)));
    if ((was->flags.get() & media::kEverMapped) != 0) return {};
    Change change(*v.core);
    TRY(change.begin());
    auto *inode = TRY(core::edit_inode(change, ino));
    inode->flags.set(inode->flags.get() | media::kEverMapped);
    TRY(change.commit());
    return {};
}

}  // namespace

Result<GrantId> Volume::take_grant(HandleId handle, const GrantRequest &request,
                                   const Caller &caller, std::uint64_t *bad_offset) {
    Impl &v = *impl_;
    if (request.kind != GrantKind::temporary)
        return Error(EOPNOTSUPP, "only temporary grants exist so far");
    if (v.options.writeback) return Error(EOPNOTSUPP, "no grants on a mount with -o writeback");
    const auto opened = v.live.handle(handle);
    if (!opened) return Error(EBADF, "no such open file");
    if (request.may_store) {
        TRY(v.writable());
        if (!opened->write) return Error(EACCES, "to store, the file must be open for writing");
    }
    const InodeNo ino = opened->ino;
    core::Grant grant;
    {
        ExclusiveLock held(v.lock);
        const Reader reader(*v.core);
        const auto *inode = TRY(core::read_inode(reader, ino));
        if (!S_ISREG(inode->mode.get()))
            return Error(EINVAL, "only regular files have a block map");
        if (caller.uid != 0 && caller.uid != inode->uid.get() && !opened->write)
            return Error(EPERM, "a grant takes the owner, root, or a descriptor for writing");
        const std::uint64_t size = inode->size.get();
        if (size == 0 || request.offset >= size)
            return Error(EINVAL, "there is nothing to map at that offset");
        if (request.length > size - request.offset)
            return Error(EINVAL, "the range reaches past the end of the file");
        const std::uint64_t to = request.length == 0 ? size : request.offset + request.length;
        if (!v.options.read_only) TRY(v.settle_trim(ino));
        const std::uint64_t unit = v.superblock.mapping_unit.get() / kBlockSize;
        const std::uint64_t first = request.offset / kBlockSize, end = blocks_up(to);
        std::uint64_t bad = 0;
        const auto fits = core::check_mappable(reader, *inode, ino, first, end, unit, &bad);
        if (!fits.ok() && bad_offset) *bad_offset = bad * kBlockSize;
        TRY(Result<>(fits));
        grant = {v.live.next_grant_id(),
                 handle,
                 GrantKind::temporary,
                 request.may_store,
                 caller.pid,
                 caller.uid,
                 first,
                 end};
        // After a full seal handles opened before it may still be cached; their pages can only
        // overwrite what they hold, so they are refused like any other.
        if (!v.live.add_grant(ino, grant, false))
            return Error(EBUSY, "the file is open through the page cache: see pmfsctl holders");
        if (request.may_store) {
            if (auto marked = mark_mapped(v, ino); !marked.ok()) {
                v.live.drop_grant(handle, grant.id);
                return marked.error();
            }
        }
    }
    if (!v.options.read_only) {
        if (auto durable = v.make_durable(); !durable.ok()) {
            (void)drop_grant(handle, grant.id).ok();
            return durable.error();
        }
    }
    return grant.id;
}

Result<> Volume::drop_grant(HandleId handle, GrantId grant) {
    const auto dropped = impl_->live.drop_grant(handle, grant);
    if (!dropped) return Error(ENOENT, "the handle holds no such grant");
    if (dropped->reap) impl_->reap_or_park(dropped->ino);
    return {};
}

Result<std::vector<Holder>> Volume::holders(InodeNo ino) {
    std::vector<Holder> all;
    for (const core::Grant &g : impl_->live.grants(ino))
        all.push_back({g.id, g.kind, g.handle, g.pid, g.uid, g.first * kBlockSize,
                       (g.end - g.first) * kBlockSize, g.may_store});
    return all;
}

}  // namespace pmfs
