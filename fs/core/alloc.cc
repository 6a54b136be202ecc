// Placing data and metadata: see alloc.h.  Reserves and freeing are in alloc_reserve.cc.
#include "core/alloc.h"

#include <algorithm>
#include <bit>

#include "base/errors.h"
#include "media/geometry.h"

namespace pmfs::core {

using media::ChunkKind;
using media::kBitmapChunks;
using media::kChunkBlocks;

namespace {

// The class in which every run has `blocks`, and the one in which some have.
unsigned class_above(std::uint64_t blocks) {
    return static_cast<unsigned>(std::bit_width(blocks - 1));
}
unsigned class_below(std::uint64_t blocks) {
    return static_cast<unsigned>(std::bit_width(blocks)) - 1;
}
// Chunks of which one transaction can take blocks lie under one bitmap block.
bool same_bitmap(ChunkNo a, ChunkNo b) {
    return media::group_of(a) == media::group_of(b) &&
           media::bitmap_index(media::index_in_group(a)) ==
               media::bitmap_index(media::index_in_group(b));
}

}  // namespace

Result<std::unique_ptr<Allocator>> Allocator::open(journal::Journal &journal,
                                                   const media::Superblock &superblock,
                                                   bool read_only) {
    std::unique_ptr<Allocator> allocator(new Allocator(journal, superblock));
    allocator->map_ = TRY(SpaceMap::open(journal, superblock, read_only));
    return allocator;
}

GroupNo Allocator::group_for(const Goal &goal) const {
    const GroupNo group = goal.near != BlockNo(0) ? media::group_of(goal.near) : goal.group;
    return map_->existing(group);
}

bool Allocator::mine(ChunkNo chunk, std::uint64_t owner) const {
    const auto found = owner_of_.find(chunk);
    return found == owner_of_.end() || found->second == owner;
}

// The run of the chunk that fits best; a shorter one if none is long enough.
Result<Run> Allocator::best_run(Change *change, ChunkNo chunk, std::uint64_t blocks) {
    const Bits free = TRY(map_->available(change, chunk));
    const BitRun found = fitting_run(free, static_cast<unsigned>(std::min(blocks, kChunkBlocks)));
    return Run{media::first_block(chunk) + found.start,
               std::min<std::uint64_t>(found.length, blocks)};
}

// Up to `blocks` from `block` on, as far as they are free.  A large file continues in the next
// chunks as long as these are wholly free or its own.
Result<Run> Allocator::extend(Change *change, BlockNo block, std::uint64_t blocks,
                              const Goal &goal) {
    Run run{block, 0};
    const ChunkNo first = media::chunk_of(block);
    while (run.blocks < blocks) {
        const BlockNo at = run.end();
        const ChunkNo chunk = media::chunk_of(at);
        if (!same_bitmap(first, chunk) || chunk >= map_->end_chunk()) break;
        if (map_->blocked(chunk) || !mine(chunk, goal.owner)) break;
        if (chunk != first && (!goal.large || TRY(map_->chunk(chunk))->free != kChunkBlocks)) break;
        const unsigned from = media::index_in_chunk(at);
        const BitRun found = next_run(TRY(map_->available(change, chunk)), from);
        if (found.start != from) break;
        run.blocks += std::min<std::uint64_t>(found.length, blocks - run.blocks);
        if (from + found.length < kChunkBlocks) break;
    }
    return run;
}

Result<Run> Allocator::place_near(Change *change, const Goal &goal, std::uint64_t blocks) {
    const ChunkNo chunk = media::chunk_of(goal.near);
    if (goal.near == BlockNo(0) || chunk >= map_->end_chunk()) return Run{};
    if (goal.large && !media::congruent(goal.near, goal.file_block, kChunkBlocks)) return Run{};
    const SpaceMap::Chunk &c = *TRY(map_->chunk(chunk));
    if (c.kind == ChunkKind::meta || c.inodes || (c.kind == ChunkKind::free && !goal.large))
        return Run{};
    // From the start of a chunk only if all of it is free: a partly used one cannot be taken whole.
    if (goal.large && media::index_in_chunk(goal.near) == 0 && c.free != kChunkBlocks) return Run{};
    return extend(change, goal.near, blocks, goal);
}

// Free chunks of its own: a large file's blocks lie in them congruent with their file offset.
Result<Run> Allocator::place_fresh(Change *change, const Goal &goal, std::uint64_t blocks) {
    const std::uint64_t offset = goal.large ? goal.file_block % kChunkBlocks : 0;
    const auto wanted = static_cast<unsigned>(
        goal.large ? std::min((offset + blocks + kChunkBlocks - 1) / kChunkBlocks, kBitmapChunks)
                   : 1);
    auto chunk = TRY(map_->find_free(group_for(goal), wanted, 1, true));
    if (!chunk && wanted > 1) chunk = TRY(map_->find_free(group_for(goal), 1, 1, true));
    if (!chunk) return Run{};
    return extend(change, media::first_block(*chunk) + offset, blocks, goal);
}

// The class of the shortest piece that is taken from a broken chunk before a free one is broken: a
// quarter of what is wanted; the less of the free space is in whole chunks, the less.
unsigned Allocator::shortest_piece(unsigned wanted_class) const {
    const std::uint64_t whole = map_->free_chunks() * kChunkBlocks;
    const std::uint64_t broken = map_->free_blocks() - std::min(map_->free_blocks(), whole);
    const unsigned fraction = whole >= 3 * broken ? 2 : whole >= broken ? 4 : 6;  // 1 / 2^fraction
    return wanted_class > fraction ? wanted_class - fraction : 0;
}

Result<bool> Allocator::lacks_chunk(const Goal &goal) {
    if (!goal.large || TRY(place_near(nullptr, goal, 1)).blocks != 0) return false;
    return !TRY(map_->find_free(group_for(goal), 1, 1, true));
}

// Broken chunks: the shortest run that is long enough, in the group if it has one; else pieces.
Result<Run> Allocator::place_shared(Change *change, const Goal &goal, std::uint64_t blocks) {
    const std::uint64_t wanted = std::min(blocks, kChunkBlocks);
    const GroupNo group = group_for(goal);
    const unsigned above = class_above(wanted), below = class_below(wanted);
    std::optional<ChunkNo> chunk;
    for (unsigned k = below; k < kRunClasses && !chunk; ++k)
        chunk = TRY(map_->find_run_here(Side::data, k, group, static_cast<unsigned>(wanted), true));
    for (unsigned k = above; k < kRunClasses && !chunk; ++k)
        chunk = TRY(map_->find_run(Side::data, k, group, true));
    for (unsigned k = std::min(below + 1, kRunClasses), least = shortest_piece(above);
         !goal.together && k-- > least && !chunk;)
        chunk = TRY(map_->find_run(Side::data, k, group, true));
    if (!chunk) return Run{};
    return best_run(change, *chunk, wanted);
}

// Any free run, the longest first.
Result<Run> Allocator::place_anywhere(Change *change, const Goal &goal, std::uint64_t blocks) {
    for (const Side side : {Side::data, Side::meta, Side::inode}) {
        if (goal.beside_data && side != Side::data) break;
        for (unsigned k = kRunClasses; k-- > 0;)
            if (const auto chunk = TRY(map_->find_run(side, k, group_for(goal), true)); chunk)
                return best_run(change, *chunk, blocks);
    }
    return Run{};
}

Result<Run> Allocator::place_data(Change *change, const Goal &goal, std::uint64_t blocks) {
    blocks = within_reserve(blocks, need_of_data(goal.privileged));
    if (blocks == 0) return no_space();
    // Data behind a file's first chunk is placed as that of a large file.
    constexpr FileBlock kBehindFirst(kChunkBlocks);
    if (!goal.large && goal.file_block < kBehindFirst)
        blocks = std::min(blocks, kBehindFirst - goal.file_block);
    Run run;
    for (bool again = true; run.blocks == 0 && again;) {
        run = TRY(place_near(change, goal, blocks));
        if (run.blocks == 0 && goal.large) run = TRY(place_fresh(change, goal, blocks));
        if (run.blocks == 0) run = TRY(place_shared(change, goal, blocks));
        if (run.blocks == 0 && !goal.broken) run = TRY(place_fresh(change, goal, blocks));
        if (run.blocks == 0) run = TRY(place_anywhere(change, goal, blocks));
        again = run.blocks == 0 && drop_reservations();
        again = again || (run.blocks == 0 && map_->settle_meta());
    }
    if (run.blocks == 0) return no_space();
    if (goal.large && goal.owner != 0)
        for (ChunkNo c = media::chunk_of(run.start); c <= media::chunk_of(run.end() - 1); ++c)
            if (map_->wholly_free(c)) reserve_chunk(c, goal.owner);
    return run;
}

GroupNo Allocator::next_group() {
    const GroupNo group = map_->free_group(spread_).value_or(GroupNo(0));
    spread_ = group + 1;
    return group;
}

Result<> Allocator::take_run(Change &change, Run run, SpaceMap::Use use) {
    return for_each_chunk(
        run, [&](ChunkNo chunk, const Bits &bits) { return map_->take(change, chunk, bits, use); });
}

Result<Run> Allocator::take_data(Change &change, const Goal &goal, std::uint64_t blocks) {
    const Run run = TRY(place_data(&change, goal, blocks));
    TRY(take_run(change, run, SpaceMap::Use::data));
    return run;
}

Result<Run> Allocator::reserve_data(const Goal &goal, std::uint64_t blocks) {
    const Run run = TRY(place_data(nullptr, goal, blocks));
    TRY(for_each_chunk(run, [&](ChunkNo chunk, const Bits &bits) -> Result<> {
        map_->hold(chunk, bits);
        return {};
    }));
    return run;
}

Result<> Allocator::take_reserved(Change &change, Run run) {
    return take_run(change, run, SpaceMap::Use::reserved);
}

void Allocator::cancel_reserved(Run run) {
    (void)for_each_chunk(run, [&](ChunkNo chunk, const Bits &bits) -> Result<> {
        map_->unhold(chunk, bits);
        return {};
    }).ok();
}

Result<Run> Allocator::take_chunks(Change &change, std::uint64_t chunks, std::uint64_t unit,
                                   bool privileged) {
    const std::uint64_t blocks = chunks * kChunkBlocks;
    TRY(check_space(blocks, need_of_data(privileged)));
    const auto find = [&] {
        return map_->find_free(GroupNo(0), static_cast<unsigned>(chunks),
                               static_cast<unsigned>(unit / kChunkBlocks), true);
    };
    auto chunk = TRY(find());
    if (!chunk && drop_reservations()) chunk = TRY(find());
    if (!chunk && map_->settle_meta()) chunk = TRY(find());
    if (!chunk) return no_space();
    const Run run{media::first_block(*chunk), blocks};
    TRY(take_run(change, run, SpaceMap::Use::data));
    return run;
}

void Allocator::keep_chunks(ChunkNo first, std::uint64_t chunks) {
    for (ChunkNo c = first; c < first + chunks; ++c) reserve_chunk(c, kKept);
}

void Allocator::free_chunks(ChunkNo first, std::uint64_t chunks) {
    for (ChunkNo c = first; c < first + chunks; ++c) {
        const auto found = owner_of_.find(c);
        if (found == owner_of_.end() || found->second != kKept) continue;
        owner_of_.erase(found);
        map_->set_reserved(c, false);
    }
}

Result<Run> Allocator::take_kept(Change &change, ChunkNo first, std::uint64_t chunks) {
    for (ChunkNo c = first; c < first + chunks; ++c) {
        if (TRY(map_->chunk(c))->free != kChunkBlocks)
            return Error(ENOSPC, "another operation took a block of the chunk");
        if (map_->blocked(c)) map_->settle_meta();
        if (map_->blocked(c) || TRY(map_->chunk(c))->longest != kChunkBlocks) return no_space();
    }
    const Run run{media::first_block(first), chunks * kChunkBlocks};
    TRY(take_run(change, run, SpaceMap::Use::data));
    return run;
}

// First metadata chunks of the group; then a free chunk of it if there are plenty; then the same in
// other groups; finally any partly used chunk.
Result<Run> Allocator::place_meta(Change &change, GroupNo group, unsigned blocks) {
    const unsigned above = class_above(blocks);
    const auto in = [&](ChunkNo chunk) { return best_run(&change, chunk, blocks); };
    const auto in_broken = [&](Side side) -> Result<std::optional<ChunkNo>> {
        std::optional<ChunkNo> chunk;
        for (unsigned k = above; k < kRunClasses && !chunk; ++k)
            chunk = TRY(map_->find_run(side, k, group, false));
        return chunk;
    };
    for (unsigned k = above; k < kRunClasses; ++k)
        if (auto chunk = TRY(map_->find_run_here(Side::meta, k, group, blocks, false)); chunk)
            return in(*chunk);
    const auto free = TRY(map_->find_free(group, 1, 1, false));
    const bool plenty = free && map_->free_chunks() > map_->chunk_count() / 32 + 1;
    if (plenty && media::group_of(*free) == group) return in(*free);
    if (const auto chunk = TRY(in_broken(Side::meta)); chunk) return in(*chunk);
    if (plenty) return in(*free);
    if (const auto chunk = TRY(in_broken(Side::data)); chunk) return in(*chunk);
    if (free) return in(*free);
    if (const auto chunk = TRY(in_broken(Side::inode)); chunk) return in(*chunk);
    return Run{};
}

Result<Run> Allocator::take_meta(Change &change, BlockNo near, std::uint64_t blocks, Need need) {
    TRY(check_space(blocks, need));
    const GroupNo group = map_->existing(media::group_of(near));
    Run run = TRY(place_meta(change, group, static_cast<unsigned>(blocks)));
    if (run.blocks < blocks && drop_reservations())
        run = TRY(place_meta(change, group, static_cast<unsigned>(blocks)));
    if (run.blocks < blocks) return no_space();
    TRY(take_run(change, run, SpaceMap::Use::meta));
    return run;
}

Result<Run> Allocator::take_meta_in(Change &change, ChunkNo chunk) {
    const Run run = TRY(best_run(&change, chunk, 1));
    if (run.blocks == 0) return Error(ENOSPC, "the chunk is full");
    TRY(take_run(change, run, SpaceMap::Use::meta));
    return run;
}

Result<ChunkNo> Allocator::find_inode_chunk(GroupNo group) {
    for (bool again = true; again; again = drop_reservations()) {
        if (const auto chunk = TRY(map_->find_free(group, 1, 1, false)); chunk) return *chunk;
        for (const Side side : {Side::meta, Side::data})
            for (unsigned k = kRunClasses; k-- > 1;)
                if (const auto chunk = TRY(map_->find_run(side, k, group, false)); chunk)
                    return *chunk;
    }
    return no_space();
}

}  // namespace pmfs::core
