// Making a group: see make_group.h.
#include "media/make_group.h"

#include <algorithm>

#include "media/geometry.h"
#include "media/verify.h"

namespace pmfs::media {
namespace {

// Makes the blocks of one group; every function is one kind of block.
class GroupMaker {
public:
    GroupMaker(const Superblock &sb, std::uint64_t group, const PutBlock &put)
        : sb_(sb), group_(group), start_(group_start(group)), layout_(layout_of(group)), put_(put) {
        used_end_ = layout_.end;
        if (group == 0) used_end_ = std::max(sb.root_block.get(), root_map_of(sb)) + 1;
    }

    void run() {
        put_summaries();
        make_inode_map(sb_, layout_.inode_map, put_);
        for (std::uint64_t i = 0; i < kBitmapBlocks; ++i) {
            const std::uint64_t first = start_ + i * kBitmapChunks * kChunkBlocks;
            put_bitmap(layout_.bitmaps + i, first);
            put_bitmap(layout_.classes + i, first);
        }
    }

private:
    bool has_copy(std::uint64_t first_block, std::uint64_t blocks) const {
        const std::uint64_t copy = sb_.copy_block.get();
        return copy != 0 && copy >= first_block && copy - first_block < blocks;
    }
    BlockHeader header(Magic magic, std::uint64_t self) const {
        return header_of(magic, sb_.header.fsid.get(), self, 0);
    }
    void put_bitmap(std::uint64_t block, std::uint64_t first_block);
    void put_summaries();

    const Superblock &sb_;
    const std::uint64_t group_, start_;
    const GroupLayout layout_;
    const PutBlock &put_;
    std::uint64_t used_end_;  // the first block of the group that is free
};

// The bits of the kBitmapChunks chunks from `first_block` on, in use or metadata, which is the same
// yet: all below `used_end_`, and the volume's last block where it has a copy of the superblock.
void GroupMaker::put_bitmap(std::uint64_t block, std::uint64_t first_block) {
    BitmapBlock bitmap{};
    bitmap.header = header(Magic::bitmap, block);
    for (std::uint64_t row = 0; row < kBitmapChunks; ++row)
        for (std::uint64_t word = 0; word < 8; ++word) {
            const std::uint64_t from = first_block + row * kChunkBlocks + word * 64;
            if (from >= used_end_) break;
            const std::uint64_t used = std::min<std::uint64_t>(used_end_ - from, 64);
            bitmap.bits[row][word] = le64(~std::uint64_t{0} >> (64 - used));
        }
    if (has_copy(first_block, kBitmapChunks * kChunkBlocks))
        bitmap.bits[(sb_.copy_block.get() - first_block) / kChunkBlocks][7] =
            le64(std::uint64_t{1} << 63);
    seal_block(bitmap);
    put_(block, bytes_of(bitmap));
}

void GroupMaker::put_summaries() {
    const std::uint64_t chunks = group_chunks(sb_.block_count.get(), group_);
    const std::uint64_t meta_chunks = divide_up(used_end_ - start_, kChunkBlocks);
    Summary summary{};
    summary.group = le64(group_);
    summary.inode_map[0] = le16(static_cast<std::uint16_t>(1 + layout_.inode_map - start_));
    if (group_ == 0) {
        const std::uint64_t root_map = root_map_of(sb_);
        summary.inodes_used = le32(1);
        summary.inodes_made = le32(kInodesPerBlock);
        summary.inode_map[root_map / kChunkBlocks] =
            le16(static_cast<std::uint16_t>(1 + root_map % kChunkBlocks));
    }
    std::fill_n(summary.kind, meta_chunks, static_cast<std::uint8_t>(ChunkKind::meta));
    std::uint64_t partial_free = meta_chunks * kChunkBlocks - (used_end_ - start_);
    if (has_copy(start_, chunks * kChunkBlocks)) {
        // The journal takes a quarter at most, so this chunk has nothing else yet.
        summary.kind[(sb_.copy_block.get() - start_) / kChunkBlocks] =
            static_cast<std::uint8_t>(ChunkKind::meta);
        partial_free += kChunkBlocks - 1;
    }
    summary.partial_free = le32(static_cast<std::uint32_t>(partial_free));
    for (const std::uint64_t block : {layout_.summary_a, layout_.summary_b}) {
        summary.header = header(Magic::summary, block);
        seal_block(summary);
        put_(block, bytes_of(summary));
    }
}

}  // namespace

void make_group(const Superblock &sb, std::uint64_t group, const PutBlock &put) {
    GroupMaker(sb, group, put).run();
}

void make_inode_map(const Superblock &sb, std::uint64_t block, const PutBlock &put) {
    InodeMap map{};
    map.header = header_of(Magic::inode_map, sb.header.fsid.get(), block, 0);
    if (block == root_map_of(sb)) {
        const std::uint64_t place = sb.root_block.get() % kChunkBlocks;
        const std::uint64_t slot = place * kInodesPerBlock;
        map.used = map.blocks = le32(1);
        map.made[place / 64] = le64(std::uint64_t{1} << (place % 64));
        map.slots[slot / 64] = le64(std::uint64_t{1} << (slot % 64));
    }
    seal_block(map);
    put(block, bytes_of(map));
}

std::uint64_t root_map_of(const Superblock &sb) {
    const std::uint64_t root = sb.root_block.get();
    return root < kChunkBlocks ? layout_of(0).inode_map : root + 1;
}

Superblock superblock_for(const Superblock &sb, std::uint64_t block) {
    Superblock copy = sb;
    copy.header = header_of(Magic::superblock, sb.header.fsid.get(), block, 0);
    seal_block(copy);
    return copy;
}

}  // namespace pmfs::media
