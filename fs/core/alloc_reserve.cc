// What must stay free, what is reserved for one file, and freeing: see alloc.h.
#include <algorithm>

#include "base/errors.h"
#include "core/alloc.h"
#include "media/geometry.h"

namespace pmfs::core {

using media::kBitmapChunks;
using media::kChunkBlocks;

// --- reserves

// For what must always work: renaming every file to the longest name needs a tenth of a block for
// each (280 bytes in leaves that are two thirds full), and a few splits.
std::uint64_t Allocator::essential_reserve(std::uint64_t inodes) const {
    const std::uint64_t total = superblock_.block_count.get();
    return std::min<std::uint64_t>(64, total / 128) + std::min(inodes / 10, total / 50);
}

std::uint64_t Allocator::reserve_of(Need need) const {
    const std::uint64_t essential = essential_reserve(map_->inodes_used());
    const std::uint64_t total = superblock_.block_count.get();
    const std::uint64_t root = total * superblock_.root_reserve.get() / 10000;
    switch (need) {
        case Need::user:
            return essential + root;
        case Need::root:
            return essential;
        case Need::name:
            return essential / 4 * 3 + root;
        case Need::root_name:
            return essential / 4 * 3;
        case Need::growth:
            return essential / 2;
        case Need::essential:
            return 0;
    }
    return 0;
}

// How many of `blocks` are available at once.
std::uint64_t Allocator::within_reserve(std::uint64_t blocks, Need need) const {
    const std::uint64_t keep = reserve_of(need) + map_->held_blocks();
    const std::uint64_t free = map_->free_blocks();
    return free <= keep ? 0 : std::min(blocks, free - keep);
}

Result<> Allocator::check_space(std::uint64_t blocks, Need need) {
    if (within_reserve(blocks, need) == blocks) return {};
    if (map_->free_blocks() < blocks + reserve_of(need)) return Error(ENOSPC, "the volume is full");
    return no_space();
}

// Blocks that the open transaction itself holds back do not count: it would wait for its own end.
Error Allocator::no_space() const {
    if (space_comes())
        return Error(kParkErrno, "freed blocks wait for a group commit, or for their readers");
    return Error(ENOSPC, "the volume is full");
}

std::uint64_t Allocator::available_blocks(bool privileged) const {
    const std::uint64_t keep = reserve_of(need_of_data(privileged));
    const std::uint64_t free = map_->free_blocks();
    return free <= keep ? 0 : free - keep;
}

// The space of a name in a leaf, and in the nodes above it.  The value is between those of six-byte
// and of eight-byte names, so that the estimate is within a percent for both at every size
// (measured: leaves fill up and split in waves).
constexpr double kNameBlocks = 0.0096;

// An inode takes an eighth of a block, its name takes some, and each makes the reserve grow.
std::uint64_t Allocator::available_inodes(bool privileged) const {
    const std::uint64_t used = map_->inodes_used(), made = map_->inodes_made();
    const std::uint64_t places = made - std::min(made, used);
    const std::uint64_t keep = reserve_of(privileged ? Need::root_name : Need::name);
    const std::uint64_t free = map_->free_blocks() - std::min(map_->free_blocks(), keep);
    const double each = 1.0 / media::kInodesPerBlock + kNameBlocks;
    const auto take = [&](std::uint64_t inodes) {
        const std::uint64_t fresh = inodes - std::min(inodes, places);
        const double blocks = static_cast<double>(fresh) / media::kInodesPerBlock +
                              static_cast<double>(inodes) * kNameBlocks;
        return blocks + 0.75 * static_cast<double>(essential_reserve(used + inodes) -
                                                   essential_reserve(used));
    };
    std::uint64_t low = 0,
                  high = places + static_cast<std::uint64_t>(static_cast<double>(free) / each);
    while (low < high) {  // the most that fits
        const std::uint64_t middle = low + (high - low + 1) / 2;
        if (take(middle) <= static_cast<double>(free))
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

// --- chunks that a large file keeps for itself

void Allocator::reserve_chunk(ChunkNo chunk, std::uint64_t owner) {
    if (!owner_of_.emplace(chunk, owner).second) return;
    map_->set_reserved(chunk, true);
    if (owner == kKept) return;
    reserved_[owner].push_back(chunk);
    reservations_.store(reserved_.size(), std::memory_order_release);
}

void Allocator::release_reservation(std::uint64_t owner) {
    const auto found = reserved_.find(owner);
    if (found == reserved_.end()) return;
    for (const ChunkNo chunk : found->second) {
        owner_of_.erase(chunk);
        map_->set_reserved(chunk, false);
    }
    reserved_.erase(found);
    reservations_.store(reserved_.size(), std::memory_order_release);
}

// Space is short: ends all reservations.  True if there were any.
bool Allocator::drop_reservations() {
    if (reserved_.empty()) return false;
    for (const auto &[owner, chunks] : reserved_)
        for (const ChunkNo chunk : chunks) {
            owner_of_.erase(chunk);
            map_->set_reserved(chunk, false);
        }
    reserved_.clear();
    reservations_.store(0, std::memory_order_release);
    return true;
}

// --- freeing

// The first block that the bitmap block of `block` describes.
static BlockNo bitmap_start(BlockNo block) {
    const std::uint64_t index = media::bitmap_index(media::index_in_group(media::chunk_of(block)));
    return media::first_block(media::group_of(block)) + index * kBitmapChunks * kChunkBlocks;
}

Run Allocator::piece(Run run) const {
    const BlockNo group_end = media::first_block(media::group_of(run.start) + 1);
    const BlockNo bitmap_end = bitmap_start(run.start) + kBitmapChunks * kChunkBlocks;
    return {run.start, std::min({run.end(), bitmap_end, group_end}) - run.start};
}

Run Allocator::tail_piece(Run run) const {
    const BlockNo start = std::max(run.start, bitmap_start(run.end() - 1));
    return {start, run.end() - start};
}

std::size_t Allocator::blocks_to_give_back(Change &change, Run run) {
    // Past the end: give_back() returns the error.
    if (run.start >= BlockNo(superblock_.block_count.get())) return 0;
    return map_->blocks_to_give(change, media::chunk_of(run.start));
}

Result<> Allocator::give_back(Change &change, Run run) {
    const BlockNo end(superblock_.block_count.get());
    if (run.blocks == 0 || run.start >= end || run.blocks > end - run.start)
        return corrupt("an extent points past the end of the volume");
    return for_each_chunk(run, [&](ChunkNo chunk, Bits bits) -> Result<> {
        if (!quarantine_.empty()) {
            quarantine_.strike(media::first_block(chunk), bits);
            if (bits == Bits{}) return {};
        }
        return map_->give(change, chunk, bits);
    });
}

Result<> Allocator::chunk_info(ChunkNo chunk, std::uint8_t *kind, std::uint16_t *used) {
    const SpaceMap::Chunk &c = *TRY(map_->chunk(chunk));
    *kind = static_cast<std::uint8_t>(c.kind);
    *used = static_cast<std::uint16_t>(kChunkBlocks - c.free);
    return {};
}

}  // namespace pmfs::core
