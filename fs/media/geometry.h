// Where things are on a volume of a given size: arithmetic on format.h's constants and nothing
// else.
#pragma once
#include <algorithm>
#include <cstdint>

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

}  // namespace pmfs::media
