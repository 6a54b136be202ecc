// The superblock's decoder.
#include "media/verify.h"

#include <algorithm>
#include <bit>

#include "media/geometry.h"

namespace pmfs::media {
namespace {

// Only sizes that mkfs can have made, or that growing can have made of them.
bool geometry_ok(const Superblock &sb) {
    const std::uint64_t blocks = sb.block_count.get();
    if (blocks < kVolumeSizeMin / kBlockSize || blocks > kVolumeSizeMax / kBlockSize) return false;
    if (blocks % kChunkBlocks != 0) return false;

    const std::uint64_t group_end = group_chunks(blocks, 0) * kChunkBlocks;
    const std::uint64_t journal_blocks = sb.journal_blocks.get();
    if (journal_blocks < kJournalSizeMin / kBlockSize || journal_blocks >= group_end) return false;
    const std::uint64_t journal = layout_of(0).end, root = journal + journal_blocks;
    if (sb.journal_start.get() != journal || sb.root_block.get() != root || root >= group_end)
        return false;
    if (sb.root_reserve.get() > kRootReserveMax) return false;

    // It stays where mkfs put it, however the volume has grown since.
    const std::uint64_t copy = sb.copy_block.get();
    if (copy != 0 && (copy >= group_end || copy <= root || copy % kChunkBlocks != kChunkBlocks - 1))
        return false;

    const std::uint32_t unit = sb.mapping_unit.get();
    return unit >= kBlockSize && unit <= kChunkSize && std::has_single_bit(unit);
}

}  // namespace

namespace {

// A record of a grant with a GrantPlace where other inodes have two times.
bool has_place(const Inode &inode) {
    if ((inode.flags.get() & kGrantRecord) == 0) return false;
    const auto holder = load<GrantHolder>(bytes_of(inode), offsetof(Inode, seal_digest));
    return (holder.flags.get() & kGrantPlaced) != 0;
}

}  // namespace

bool reserved_zero(ConstBytes block, Magic magic) {
    const auto zero = [&](std::size_t from, std::size_t to) {
        return std::ranges::all_of(block.subspan(from, to - from),
                                   [](std::byte b) { return b == std::byte{0}; });
    };
    switch (magic) {
        case Magic::summary:
            return zero(offsetof(Summary, zero), offsetof(Summary, orphan_head)) &&
                   zero(offsetof(Summary, reserved), offsetof(Summary, inode_map));
        case Magic::bitmap:
            return zero(offsetof(BitmapBlock, reserved), offsetof(BitmapBlock, bits));
        case Magic::inode_map:
            return zero(offsetof(InodeMap, reserved), offsetof(InodeMap, made)) &&
                   zero(offsetof(InodeMap, zero), sizeof(InodeMap));
        case Magic::node:
            return zero(offsetof(NodeHeader, reserved), sizeof(NodeHeader));
        case Magic::blob:
            return zero(offsetof(BlobBlock, reserved), offsetof(BlobBlock, bytes));
        case Magic::ring_header:
            return zero(offsetof(RingHeader, reserved), sizeof(RingHeader));
        case Magic::inode: {
            const auto inode = load<Inode>(block);
            return (has_place(inode) ||
                    (inode.atime.zero.get() == 0 && inode.mtime.zero.get() == 0)) &&
                   inode.ctime.zero.get() == 0 && inode.crtime.zero.get() == 0;
        }
        case Magic::superblock:
        case Magic::making:
        case Magic::record:
            break;
    }
    return true;
}

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
        return corrupt("the superblock is damaged, and no sound copy of it was found");
    if (sb.version_major.get() > kVersionMajor)
        return Error(ENOTSUP, "the volume's format is newer than this program (update pmfs)");
    if (sb.version_major.get() == 1)
        return Error(
            ENOTSUP,
            "the volume has format 1, which this version of pmfs cannot use: copy its files "
            "off with the pmfs that made it, then make a new volume with mkfs.pmfs -f");
    if ((sb.features_incompat.get() & ~kFeaturesIncompatKnown) != 0)
        return Error(ENOTSUP,
                     "the volume uses a feature that this program does not know (update pmfs)");
    if (sb.version_major.get() == 0 || sb.header.self.get() != self || !geometry_ok(sb))
        return corrupt("the superblock contradicts itself, and no sound copy of it was found");
    if (sb.block_count.get() > region_size / kBlockSize)
        return Error(EINVAL,
                     "the volume is larger than the device or image that holds it (was it "
                     "truncated? restore its size, e.g. with truncate -s)");
    return sb;
}

}  // namespace pmfs::media
