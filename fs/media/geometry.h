// Where things are on a volume of a given size: arithmetic on format.h's constants and nothing
// else.
//
// The engine's numbers are types (base/ids.h), and what turns one into another is here; mkfs and
// fsck count with plain numbers, in code of their own.
#pragma once
#include <algorithm>
#include <cstdint>

#include "base/ids.h"
#include "media/format.h"

namespace pmfs::media {

// Blocks that so many bytes need.
constexpr std::uint64_t blocks_up(std::uint64_t bytes) {
    return (bytes + kBlockSize - 1) / kBlockSize;
}
constexpr std::uint64_t group_count(std::uint64_t block_count) {
    return (block_count + kGroupBlocks - 1) / kGroupBlocks;
}
constexpr std::uint64_t group_start(std::uint64_t group) {
    return group * kGroupBlocks;
}
// Chunks of `group`; only the last group has fewer than kGroupChunks.
constexpr std::uint64_t group_chunks(std::uint64_t block_count, std::uint64_t group) {
    return std::min(kGroupBlocks, block_count - group_start(group)) / kChunkBlocks;
}
constexpr GroupLayout layout_of(std::uint64_t group) {
    return group_layout(group_start(group));
}

// --- blocks, chunks and groups of the region
constexpr ChunkNo chunk_of(BlockNo block) {
    return ChunkNo(block.value() / kChunkBlocks);
}
constexpr GroupNo group_of(BlockNo block) {
    return GroupNo(block.value() / kGroupBlocks);
}
constexpr GroupNo group_of(ChunkNo chunk) {
    return GroupNo(chunk.value() / kGroupChunks);
}
constexpr BlockNo first_block(ChunkNo chunk) {
    return BlockNo(chunk.value() * kChunkBlocks);
}
constexpr BlockNo first_block(GroupNo group) {
    return BlockNo(group_start(group.value()));
}
constexpr ChunkNo first_chunk(GroupNo group) {
    return ChunkNo(group.value() * kGroupChunks);
}
constexpr unsigned index_in_chunk(BlockNo block) {
    return static_cast<unsigned>(block % kChunkBlocks);
}
constexpr unsigned index_in_group(ChunkNo chunk) {
    return static_cast<unsigned>(chunk % kGroupChunks);
}
constexpr std::uint64_t group_chunks(std::uint64_t block_count, GroupNo group) {
    return group_chunks(block_count, group.value());
}
constexpr LayoutOf<BlockNo> layout_of(GroupNo group) {
    return layout_from(first_block(group));
}

// --- blocks and their bytes, from the start of the region or of the file
constexpr std::uint64_t byte_of(BlockNo block) {
    return block.value() * kBlockSize;
}
constexpr std::uint64_t byte_of(FileBlock block) {
    return block.value() * kBlockSize;
}
constexpr FileBlock file_block_of(std::uint64_t byte) {
    return FileBlock(byte / kBlockSize);
}
constexpr BlockNo block_of(std::uint64_t byte) {
    return BlockNo(byte / kBlockSize);
}
// The first block that begins at or behind the byte.
constexpr FileBlock file_block_from(std::uint64_t byte) {
    return FileBlock(blocks_up(byte));
}
// Rounded to a multiple of `unit` blocks.
constexpr FileBlock unit_down(FileBlock block, std::uint64_t unit) {
    return block - block % unit;
}
constexpr FileBlock unit_up(FileBlock block, std::uint64_t unit) {
    return block + (unit - block % unit) % unit;
}
// Whether a block of a file may be mapped there in units of so many blocks.
constexpr bool congruent(BlockNo block, FileBlock file_block, std::uint64_t unit) {
    return (block.value() - file_block.value()) % unit == 0;
}

// Superblock::copy_block of a volume of `block_count` blocks: as far from block 0 as can be, unless
// another group has a copy anyway.
constexpr std::uint64_t copy_block_of(std::uint64_t block_count) {
    return group_count(block_count) == 1 ? block_count - 1 : 0;
}
// The first block of group 0 that has no fixed use: behind the root's.
constexpr std::uint64_t fixed_end(std::uint64_t journal_start, std::uint64_t journal_blocks) {
    return journal_start + journal_blocks + 1;
}
// Where the bits of chunk `chunk` of a group are: which of its bitmap blocks, which row in it.
constexpr std::uint64_t bitmap_index(std::uint64_t chunk) {
    return chunk / kBitmapChunks;
}
constexpr std::uint64_t bitmap_row(std::uint64_t chunk) {
    return chunk % kBitmapChunks;
}
// The same of a chunk of the region: the block, of those from `bitmaps` on in its group, and the
// row.
constexpr BlockNo bitmap_of(ChunkNo chunk, BlockNo bitmaps) {
    return bitmaps + bitmap_index(index_in_group(chunk));
}
constexpr std::uint64_t bitmap_row(ChunkNo chunk) {
    return bitmap_row(index_in_group(chunk));
}
// A block's bit in the bitmap block that bitmap_of() gives for its chunk.
inline bool bit_of(const BitmapBlock &bitmap, BlockNo block) {
    const unsigned bit = index_in_chunk(block);
    return (bitmap.bits[bitmap_row(chunk_of(block))][bit / 64].get() >> bit % 64 & 1) != 0;
}

}  // namespace pmfs::media
