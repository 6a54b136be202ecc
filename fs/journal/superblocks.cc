// Changing blocks that the journal does not cover: see superblocks.h.
#include "journal/superblocks.h"

#include "base/bytes.h"
#include "media/geometry.h"
#include "media/make_group.h"
#include "media/verify.h"
#include "pm/in_place.h"

namespace pmfs::journal {

using media::kBlockSize;

namespace {

Result<> settle(pm::InPlace &blocks, pm::FaultScope &faults) {
    TRY(blocks.settle());
    if (faults.met())
        return Error(EIO, "the medium did not store everything that was written to it");
    return {};
}

}  // namespace

Result<> write_groups(pm::Region &region, const media::Superblock &sb, GroupNo first) {
    pm::FaultScope faults;
    pm::InPlace blocks(region);
    const media::PutBlock put = [&](std::uint64_t block, ConstBytes bytes) {
        blocks.put(block * kBlockSize, bytes);
    };
    const GroupNo end(media::group_count(sb.block_count.get()));
    for (GroupNo group = first; group < end; ++group) media::make_group(sb, group.value(), put);
    return settle(blocks, faults);
}

Result<> write_superblock(pm::Region &region, const media::Superblock &sb) {
    pm::FaultScope faults;
    pm::InPlace blocks(region);
    const auto put = [&](std::uint64_t block) {
        blocks.put(block * kBlockSize, bytes_of(media::superblock_for(sb, block)));
    };
    media::for_each_copy(sb, put);
    TRY(settle(blocks, faults));
    put(0);
    TRY(settle(blocks, faults));
    if (region.keeps(0, bytes_of(media::superblock_for(sb, 0)))) return {};
    return Error(EIO, "the medium does not keep what is stored to it");
}

}  // namespace pmfs::journal
