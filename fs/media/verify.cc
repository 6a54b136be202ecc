// The superblock's decoder.
#include "media/verify.h"

#include <bit>

#include "media/geometry.h"

namespace pmfs::media {
namespace {

// What mkfs can have made, and nothing else.
bool geometry_ok(const Superblock &sb) {
    const std::uint64_t blocks = sb.block_count.get();
    if (blocks < kVolumeSizeMin / kBlockSize || blocks > kVolumeSizeMax / kBlockSize) return false;
    if (blocks % kChunkBlocks != 0) return false;

    const std::uint64_t group_end = group_chunks(blocks, 0) * kChunkBlocks;
    const std::uint64_t journal_blocks = sb.journal_blocks.get();
    if (journal_blocks < kJournalSizeMin / kBlockSize || journal_blocks >= group_end) return false;

    const std::uint64_t state_a = layout_of(blocks, 0).end;
    const std::uint64_t journal = state_a + 1, state_b = journal + journal_blocks;
    if (sb.state_block[0].get() != state_a || sb.journal_start.get() != journal ||
        sb.state_block[1].get() != state_b || state_b >= group_end)
        return false;

    const std::uint32_t unit = sb.mapping_unit.get();
    return unit >= kBlockSize && unit <= kChunkSize && std::has_single_bit(unit);
}

}  // namespace

bool looks_like_superblock(ConstBytes block) {
    return block.size() >= sizeof(BlockHeader) &&
           load<le32>(block).get() == static_cast<std::uint32_t>(Magic::superblock);
}

Result<Superblock> read_superblock(ConstBytes block, std::uint64_t self,
                                   std::uint64_t region_size) {
    if (block.size() < sizeof(Superblock) || !looks_like_superblock(block))
        return Error(EINVAL, "not a pmfs volume (make one with mkfs.pmfs)");
    const auto sb = load<Superblock>(block);
    // A newer version keeps these fields and the checksum where they are: that is the contract.
    if (!checksum_ok(block.first(sizeof(Superblock))))
        return corrupt("the superblock is damaged (run fsck.pmfs: it looks at the copies)");
    if (sb.version_major.get() > kVersionMajor)
        return Error(ENOTSUP, "the volume's format is newer than this program (update pmfs)");
    if ((sb.features_incompat.get() & ~kFeaturesIncompatKnown) != 0)
        return Error(ENOTSUP,
                     "the volume uses a feature that this program does not know (update pmfs)");
    if (sb.version_major.get() == 0 || sb.header.self.get() != self || !geometry_ok(sb))
        return corrupt("the superblock contradicts itself (run fsck.pmfs: it looks at the copies)");
    if (sb.block_count.get() > region_size / kBlockSize)
        return Error(EINVAL,
                     "the volume is larger than the device or image that holds it (was it "
                     "truncated?  give it its size back, e.g. with truncate -s)");
    return sb;
}

}  // namespace pmfs::media
