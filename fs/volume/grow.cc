// What changes a superblock under a mounted volume: its size, and what is kept for root.
//
// New groups are written first, then the copies of the superblock, then block 0, each durably; only
// then does the volume give the new space out.  Cut short anywhere, it has its old size or the new
// one, and growing again finishes it.
#include "base/bytes.h"
#include "journal/superblocks.h"
#include "media/geometry.h"
#include "media/verify.h"
#include "pm/advise.h"
#include "volume/impl.h"

namespace pmfs {

using media::kBlockSize;
using media::kChunkSize;

// Who may change the superblock, and whether the volume is sound enough for that.
Result<> Volume::Impl::may_tune(const Caller &caller) const {
    if (caller.uid != 0) return Error(EPERM, "only root changes the volume as a whole");
    TRY(writable());
    if (superblock_from != 0)
        return Error(EUCLEAN, "the superblock is damaged: unmount the volume and run fsck.pmfs -p");
    return {};
}

// Makes the region and what is kept in memory reach to `blocks`, and writes the medium.
Result<> Volume::Impl::grow_medium(std::uint64_t blocks) {
    const std::uint64_t before = superblock.block_count.get();
    TRY(region->extend(blocks * kBlockSize));
    {
        ExclusiveLock held(lock);
        TRY(allocator->map().may_grow(blocks));
        TRY(journal->reserve(blocks));
    }
    media::Superblock grown = superblock;
    grown.block_count = media::le64(blocks);
    const pm::ScatteredAccess scattered(*region);
    TRY(journal::write_groups(*region, grown, media::group_count(before)));
    return journal::write_superblock(*region, grown);
}

Result<> Volume::Impl::grow(std::uint64_t blocks) {
    TRY(grow_medium(blocks));
    Lock one(commit_run);  // nobody stores records home meanwhile
    ExclusiveLock held(lock);
    journal->grow(blocks);
    TRY(allocator->map().grow(blocks));
    superblock.block_count.set(blocks);
    return {};
}

Result<> Volume::grow(std::uint64_t size, const Caller &caller, Growth *growth) {
    Impl &v = *impl_;
    Lock one(v.superblock_run);
    growth->before = growth->now = v.superblock.block_count.get() * kBlockSize;
    growth->medium = TRY(v.region->medium_size());
    TRY(v.may_tune(caller));
    const std::uint64_t wanted = size != 0 ? size : growth->medium;
    if (wanted > growth->medium) return Error(ENOSPC, "the medium is not so long");
    const std::uint64_t after = align_down(std::min(wanted, media::kVolumeSizeMax), kChunkSize);
    if (after == growth->before) return {};
    if (after < growth->before && size == 0)
        return Error(EIO, "the medium was truncated under the volume");
    if (after < growth->before) return Error(EINVAL, "a volume cannot shrink");
    TRY(v.grow(after / kBlockSize));
    growth->now = after;
    return {};
}

Result<std::uint32_t> Volume::root_reserve() {
    SharedLock held(impl_->lock);
    return impl_->superblock.root_reserve.get();
}

Result<> Volume::set_root_reserve(std::uint32_t reserve, const Caller &caller) {
    Impl &v = *impl_;
    Lock one(v.superblock_run);
    TRY(v.may_tune(caller));
    if (reserve > media::kRootReserveMax)
        return Error(EINVAL, "the reserve for root may be half of the volume at most");
    media::Superblock tuned = v.superblock;
    tuned.root_reserve.set(reserve);
    TRY(journal::write_superblock(*v.region, tuned));
    ExclusiveLock held(v.lock);
    v.superblock.root_reserve.set(reserve);
    return {};
}

}  // namespace pmfs
