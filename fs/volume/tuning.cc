// Growing, and the reserve for root: see tuning.h.
#include "volume/tuning.h"

#include "base/bytes.h"
#include "journal/superblocks.h"
#include "media/geometry.h"
#include "media/verify.h"
#include "pm/advise.h"

namespace pmfs {

using media::kBlockSize;
using media::kChunkSize;

// Whether the caller may change the superblock, and whether the volume is sound enough for that.
Result<> Tuning::may_tune(const Caller &caller) const {
    if (caller.uid != 0) return Error(EPERM, "only root may change the volume as a whole");
    TRY(writable(engine_));
    if (superblock_from_ != BlockNo(0))
        return Error(EUCLEAN, "the superblock is damaged: unmount the volume and run fsck.pmfs -p");
    return {};
}

// Extends the region and the tables in memory to `blocks`, and writes the new groups.
Result<> Tuning::grow_medium(std::uint64_t blocks) {
    const std::uint64_t before = engine_.superblock.block_count.get();
    TRY(engine_.region->extend(blocks * kBlockSize));
    {
        ExclusiveLock held(engine_.lock);
        TRY(engine_.allocator->map().may_grow(blocks));
        TRY(engine_.journal->reserve(blocks));
    }
    media::Superblock grown = engine_.superblock;
    grown.block_count = media::le64(blocks);
    const pm::ScatteredAccess scattered(*engine_.region);
    TRY(journal::write_groups(*engine_.region, grown, GroupNo(media::group_count(before))));
    return journal::write_superblock(*engine_.region, grown);
}

Result<> Tuning::grow_to(std::uint64_t blocks) {
    TRY(grow_medium(blocks));
    return commits_.between([&]() -> Result<> {
        ExclusiveLock held(engine_.lock);
        engine_.journal->grow(blocks);
        TRY(engine_.allocator->map().grow(blocks));
        engine_.superblock.block_count.set(blocks);
        return {};
    });
}

Result<> Tuning::grow(std::uint64_t size, const Caller &caller, Growth *growth) {
    Lock one(run_);
    growth->before = growth->now = engine_.superblock.block_count.get() * kBlockSize;
    growth->medium = TRY(engine_.region->medium_size());
    TRY(may_tune(caller));
    const std::uint64_t wanted = size != 0 ? size : growth->medium;
    if (wanted > growth->medium)
        return Error(ENOSPC, "the medium is smaller than the requested size");
    const std::uint64_t after = align_down(std::min(wanted, media::kVolumeSizeMax), kChunkSize);
    if (after == growth->before) return {};
    if (after < growth->before && size == 0)
        return Error(EIO, "the medium was truncated while it was mounted");
    if (after < growth->before) return Error(EINVAL, "a volume cannot shrink");
    TRY(grow_to(after / kBlockSize));
    growth->now = after;
    return {};
}

Result<> Tuning::note_minor_version() {
    const auto noted = [this] {
        SharedLock held(engine_.lock);
        return engine_.superblock.version_minor.get() >= media::kVersionMinor;
    };
    if (noted()) return {};
    Lock one(run_);
    if (noted()) return {};
    TRY(may_tune(Caller{}));
    media::Superblock newer = engine_.superblock;
    newer.version_minor.set(media::kVersionMinor);
    TRY(journal::write_superblock(*engine_.region, newer));
    ExclusiveLock held(engine_.lock);
    engine_.superblock.version_minor.set(media::kVersionMinor);
    return {};
}

Result<> Tuning::set_root_reserve(std::uint32_t reserve, const Caller &caller) {
    Lock one(run_);
    TRY(may_tune(caller));
    if (reserve > media::kRootReserveMax)
        return Error(EINVAL, "the reserve for root is at most half of the volume");
    media::Superblock tuned = engine_.superblock;
    tuned.root_reserve.set(reserve);
    TRY(journal::write_superblock(*engine_.region, tuned));
    ExclusiveLock held(engine_.lock);
    engine_.superblock.root_reserve.set(reserve);
    return {};
}

}  // namespace pmfs
