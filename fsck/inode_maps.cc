// Where the inodes are: see inode_maps.h.
#include "fsck/inode_maps.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "media/geometry.h"

namespace pmfs::fsck {

using namespace media;

namespace {

constexpr std::uint64_t kUnknown = ~std::uint64_t{0};

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
    if (map != nullptr) return map;
    context_.found_block(Code::inode_map_damaged, block);
    return find_again(chunk, block);
}

// A map as the chunk's blocks show it; or null, if that is not its place, or the bitmaps do not say
// which blocks are metadata (a file's data may look like inodes).  A slot that is not whole counts
// as it says itself.
const InodeMap *InodeMaps::find_again(std::uint64_t chunk, std::uint64_t block) {
    if (!space_.is_metadata(block) || holds_inodes(block)) return nullptr;
    InodeMap map{};
    map.header = header_of(Magic::inode_map, context_.fsid(), block, 0);
    const auto set = [](le64 &word, std::uint64_t bit) {
        word.set(word.get() | std::uint64_t{1} << bit % 64);
    };
    for (std::uint64_t i = 0; i < kChunkBlocks; ++i) {
        const std::uint64_t at = chunk * kChunkBlocks + i;
        if (!space_.is_metadata(at) || !holds_inodes(at)) continue;
        set(map.made[i / 64], i);
        const auto *inodes = reinterpret_cast<const Inode *>(context_.meta_block(at).data());
        for (std::uint64_t slot = 0; slot < kInodesPerBlock; ++slot)
            if (inodes[slot].mode.get() != 0)
                set(map.slots[(i * kInodesPerBlock + slot) / 64], i * kInodesPerBlock + slot);
    }
    map.used.set(static_cast<std::uint32_t>(ones_in(map.slots)));
    map.blocks.set(static_cast<std::uint32_t>(ones_in(map.made)));
    found_again_.push_back(map);
    return &found_again_.back();
}

// One slot that is whole is enough: nothing else in a block of metadata looks like that.
bool InodeMaps::holds_inodes(std::uint64_t block) const {
    const ConstBytes bytes = context_.meta_block(block);
    for (std::uint64_t slot = 0; slot < kInodesPerBlock; ++slot)
        if (block_ok(bytes.subspan(slot * kInodeSize, kInodeSize), Magic::inode, context_.fsid(),
                     number_of(block, slot)))
            return true;
    return false;
}

void InodeMaps::plan(const std::function<std::optional<bool>(std::uint64_t)> &in_use) {
    struct Count {
        std::uint64_t used = 0, made = 0;
    };
    std::vector<Count> counts(space_.groups());
    for (const Chunk &chunk : chunks_) {
        InodeMap right = *chunk.map;
        plan_chunk(chunk, in_use, right);
        Count &count = counts[chunk.number / kGroupChunks];
        count.used += ones_in(right.slots);
        count.made += ones_in(right.made) * kInodesPerBlock;
        context_.should_be(chunk.map->header.self.get(), Magic::inode_map, !chunk.found_again,
                           right);
    }
    for (const std::uint64_t chunk : lost_) counts[chunk / kGroupChunks].made = kUnknown;
    for (std::uint64_t group = 0; group < counts.size(); ++group)
        if (counts[group].made != kUnknown)
            space_.set_inodes(group, static_cast<std::uint32_t>(counts[group].used),
                              static_cast<std::uint32_t>(counts[group].made));
}

void InodeMaps::plan_chunk(const Chunk &chunk,
                           const std::function<std::optional<bool>(std::uint64_t)> &in_use,
                           InodeMap &right) const {
    std::uint64_t index = chunk.first_index;
    for (std::uint64_t i = 0; i < kChunkBlocks; ++i) {
        const bool made = bit(right.made, i), counts = (chunk.made[i / 64] >> (i % 64) & 1) != 0;
        for (std::uint64_t slot = 0; slot < kInodesPerBlock; ++slot) {
            const std::uint64_t at = i * kInodesPerBlock + slot, mask = std::uint64_t{1} << at % 64;
            const bool now = bit(right.slots, at);
            const bool used = made && (counts ? in_use(index++).value_or(now) : now);
            le64 &word = right.slots[at / 64];
            word.set(used ? word.get() | mask : word.get() & ~mask);
        }
    }
    right.used.set(static_cast<std::uint32_t>(ones_in(right.slots)));
    right.blocks.set(static_cast<std::uint32_t>(ones_in(right.made)));
}

void InodeMaps::read_chunk(std::uint64_t chunk, const InodeMap &map) {
    check_bits(chunk, map);
    const bool found_again = !found_again_.empty() && &map == &found_again_.back();
    Chunk entry{chunk, &map, {}, slots_, found_again};
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

bool InodeMaps::hides(std::uint64_t group) const {
    return space_.summary(group) == nullptr ||
           std::ranges::any_of(
               lost_, [group](std::uint64_t chunk) { return chunk / kGroupChunks == group; });
}

bool InodeMaps::hidden(std::uint64_t number) const {
    const std::uint64_t block = block_of(number);
    if (!context_.inside(block)) return false;
    return space_.summary(block / kGroupBlocks) == nullptr ||
           std::ranges::binary_search(lost_, block / kChunkBlocks);
}

}  // namespace pmfs::fsck
