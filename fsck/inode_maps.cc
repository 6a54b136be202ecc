// Where the inodes are: see inode_maps.h.
#include "fsck/inode_maps.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "media/geometry.h"

namespace pmfs::fsck {

using namespace media;

namespace {

template <std::size_t kSize>
std::uint64_t ones_in(const le64 (&words)[kSize]) {
    std::uint64_t count = 0;
    for (const le64 &word : words) count += static_cast<std::uint64_t>(std::popcount(word.get()));
    return count;
}

}  // namespace

void InodeMaps::read() {
    for (std::uint64_t group = 0; group < space_.groups(); ++group) {
        const Summary *summary = space_.summary(group);
        if (summary != nullptr)
            read_group(group, *summary);
        else
            context_.lost_owners = context_.lost_names = true;
        if (context_.give_up()) return;
    }
}

void InodeMaps::lose(std::uint64_t chunk) {
    if (lost_.empty() || lost_.back() != chunk) lost_.push_back(chunk);
    context_.lost_owners = context_.lost_names = true;
}

void InodeMaps::read_group(std::uint64_t group, const Summary &summary) {
    const GroupLayout layout = layout_of(group);
    const std::uint64_t chunks = group_chunks(context_.block_count(), group);
    std::uint64_t used = 0, made = 0;
    bool all_known = true;
    for (std::uint64_t i = 0; i < kGroupChunks; ++i) {
        const std::uint64_t entry = summary.inode_map[i].get(), chunk = group * kGroupChunks + i;
        const bool fixed = entry == 1 + layout.inode_map - group_start(group);
        if (entry == 0 && i != 0) continue;
        if (i >= chunks || entry > kChunkBlocks || (i == 0 && !fixed)) {
            context_.found_block(Code::inode_map_misplaced, chunk * kChunkBlocks,
                                 fmt::format("chunk {}: {}", chunk, entry));
            all_known = false;
            if (i < chunks) lose(chunk);
            continue;
        }
        const InodeMap *map = map_of(chunk, entry - 1);
        if (map == nullptr) {
            all_known = false;
            lose(chunk);
            continue;
        }
        used += ones_in(map->slots);
        made += ones_in(map->made) * kInodesPerBlock;
        read_chunk(chunk, *map);
    }
    if (!all_known) return;
    const auto compare = [&](Code code, std::uint64_t says, std::uint64_t is) {
        if (says != is)
            context_.found_block(
                code, layout.summary_a,
                fmt::format("group {}: it says {}, there are {}", group, says, is));
    };
    compare(Code::inodes_used_wrong, summary.inodes_used.get(), used);
    compare(Code::inodes_made_wrong, summary.inodes_made.get(), made);
}

// The map at `place` of the chunk, claimed; or null, after that was reported.
const InodeMap *InodeMaps::map_of(std::uint64_t chunk, std::uint64_t place) {
    const std::uint64_t block = chunk * kChunkBlocks + place;
    if (chunk % kGroupChunks != 0) {  // otherwise it is claimed with the group
        if (!space_.may_be_metadata(block)) {
            context_.found_block(Code::inode_map_misplaced, block, "marked free, or as file data");
            return nullptr;
        }
        if (!space_.claim(block, 1, BlockClass::metadata, Problem::kNone)) return nullptr;
    }
    const auto *map = context_.whole<InodeMap>(block, Magic::inode_map);
    if (map == nullptr) context_.found_block(Code::inode_map_damaged, block);
    return map;
}

void InodeMaps::read_chunk(std::uint64_t chunk, const InodeMap &map) {
    check_bits(chunk, map);
    Chunk entry{chunk, &map, {}, slots_};
    for (std::uint64_t i = 0; i < kChunkBlocks; ++i) {
        if (!bit(map.made, i)) continue;
        const std::uint64_t block = chunk * kChunkBlocks + i;
        if (!space_.may_be_metadata(block)) {
            context_.found_block(Code::inode_block_unmarked, block);
            lose(chunk);
            continue;
        }
        if (!space_.claim(block, 1, BlockClass::metadata, Problem::kNone)) {
            lose(chunk);
            continue;
        }
        entry.made[i / 64] |= std::uint64_t{1} << (i % 64);
        slots_ += kInodesPerBlock;
    }
    chunks_.push_back(entry);
}

void InodeMaps::check_bits(std::uint64_t chunk, const InodeMap &map) {
    const std::uint64_t block = map.header.self.get();
    const auto compare = [&](const char *what, std::uint64_t says, std::uint64_t is) {
        if (says != is)
            context_.found_block(Code::inode_map_count_wrong, block,
                                 fmt::format("{} is {}, should be {}", what, says, is));
    };
    compare("used", map.used.get(), ones_in(map.slots));
    compare("blocks", map.blocks.get(), ones_in(map.made));
    for (std::uint64_t slot = 0; slot < kChunkInodes; ++slot) {
        if (map.slots[slot / 64].get() == 0) {
            slot += 63;
            continue;
        }
        if (!bit(map.slots, slot) || bit(map.made, slot / kInodesPerBlock)) continue;
        context_.found_block(
            Code::free_inode_marked_used, block,
            fmt::format("slot {} of block {}, which has no inodes", slot % kInodesPerBlock,
                        chunk * kChunkBlocks + slot / kInodesPerBlock));
    }
}

std::optional<InodeMaps::Place> InodeMaps::find(std::uint64_t number) const {
    const std::uint64_t block = block_of(number);
    const std::uint64_t slot = number == kRootIno ? 0 : number % kInodesPerBlock;
    if (!context_.inside(block) || number_of(block, slot) != number) return std::nullopt;
    const std::uint64_t i = block % kChunkBlocks;
    const auto chunk = std::ranges::lower_bound(chunks_, block / kChunkBlocks, {}, &Chunk::number);
    if (chunk == chunks_.end() || chunk->number != block / kChunkBlocks) return std::nullopt;
    if ((chunk->made[i / 64] >> (i % 64) & 1) == 0) return std::nullopt;
    std::uint64_t before = 0;
    for (std::uint64_t word = 0; word < i / 64; ++word)
        before += static_cast<std::uint64_t>(std::popcount(chunk->made[word]));
    const std::uint64_t below = chunk->made[i / 64] & ((std::uint64_t{1} << (i % 64)) - 1);
    before += static_cast<std::uint64_t>(std::popcount(below));
    return Place{block, slot, chunk->first_index + before * kInodesPerBlock + slot};
}

bool InodeMaps::hidden(std::uint64_t number) const {
    const std::uint64_t block = block_of(number);
    if (!context_.inside(block)) return false;
    return space_.summary(block / kGroupBlocks) == nullptr ||
           std::ranges::binary_search(lost_, block / kChunkBlocks);
}

}  // namespace pmfs::fsck
