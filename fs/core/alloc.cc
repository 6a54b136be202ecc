// Finding blocks: see alloc.h.  What is recorded, and how it is undone, is in alloc_space.cc.
#include "core/alloc.h"

#include <algorithm>
#include <bit>

#include "base/errors.h"
#include "media/geometry.h"

namespace pmfs::core {

using media::ChunkKind;
using media::kBitmapChunks;
using media::kChunkBlocks;
using media::kGroupChunks;

namespace {

// The first run of set bits at or after `from` in 512 bits: its start (512 = none) and length.
struct BitRun {
    unsigned start, length;
};
BitRun next_run(const std::array<std::uint64_t, 8> &bits, unsigned from) {
    unsigned at = from;
    while (at < kChunkBlocks) {
        const std::uint64_t word = bits[at / 64] >> (at % 64);
        if (word != 0) {
            at += static_cast<unsigned>(std::countr_zero(word));
            break;
        }
        at = (at / 64 + 1) * 64;
    }
    if (at >= kChunkBlocks) return {kChunkBlocks, 0};
    unsigned end = at;
    while (end < kChunkBlocks) {
        const auto ones = static_cast<unsigned>(std::countr_one(bits[end / 64] >> (end % 64)));
        end += ones;
        if (end % 64 != 0 || ones == 0) break;
    }
    return {at, std::min<unsigned>(end, kChunkBlocks) - at};
}

}  // namespace

// What the open transaction itself holds back does not count: it would wait for its own end.
Error Allocator::no_space() const {
    bool waits = !held_queue_.empty();
    if (journal_.region().is_image())
        for (const auto &[chunk, seq] : emptied_meta_)
            waits = waits || journal_.checkpointed() < seq;
    if (waits) return Error(kParkErrno, "freed blocks wait for a group commit");
    return Error(ENOSPC, "the volume is full");
}

bool Allocator::usable(const Chunk &chunk, ChunkKind kind, std::uint64_t owner,
                       bool desperate) const {
    if (chunk.kind != kind || chunk.free <= chunk.held) return false;
    return chunk.reserved_for == 0 || chunk.reserved_for == owner || desperate;
}

// Takes up to `blocks` from `block` on, which is available; goes on into the chunks behind it,
// within one bitmap block, as far as they are available too.
Result<Run> Allocator::take_at(Change &change, std::uint64_t block, std::uint64_t blocks,
                               ChunkKind kind) {
    Run run{block, 0};
    const std::uint64_t bitmap = block / kChunkBlocks % kGroupChunks / kBitmapChunks;
    const std::uint64_t group = group_of(block);
    while (run.blocks < blocks) {
        const std::uint64_t at = block + run.blocks, chunk = at / kChunkBlocks;
        const std::uint64_t index = chunk % kGroupChunks;
        if (group_of(at) != group || index / kBitmapChunks != bitmap) break;
        if (index >= groups_[group].chunk_count) break;
        const Chunk &c = chunk_of(chunk);
        const bool first = run.blocks == 0;
        if (!first && !(c.kind == ChunkKind::free ? wholly_free(c) : c.kind == kind)) break;
        if (!first && c.reserved_for != 0 &&
            c.reserved_for != chunk_of(block / kChunkBlocks).reserved_for)
            break;
        const Bits free = TRY(available_bits(change, chunk));
        const auto from = static_cast<unsigned>(at % kChunkBlocks);
        const BitRun found = next_run(free, from);
        if (found.start != from) break;
        const std::uint64_t n = std::min<std::uint64_t>(found.length, blocks - run.blocks);
        Bits take{};
        for (std::uint64_t i = 0; i < n; ++i)
            take[(from + i) / 64] |= std::uint64_t{1} << ((from + i) % 64);
        TRY(edit_bits(change, chunk, take, true, kind));
        run.blocks += n;
        if (from + n < kChunkBlocks) break;
    }
    return run;
}

Result<Run> Allocator::take_near(Change &change, const Goal &goal, std::uint64_t blocks) {
    const std::uint64_t near = goal.near, chunk = near / kChunkBlocks;
    if (near == 0 || near >= superblock_.block_count.get()) return Run{};
    if (goal.large && (near - goal.file_block) % kChunkBlocks != 0) return Run{};
    TRY(load(group_of(near)));
    const Chunk &c = chunk_of(chunk);
    const bool whole =
        c.kind == ChunkKind::free && goal.large && wholly_free(c) && c.reserved_for == 0;
    if (!whole && !usable(c, ChunkKind::data, goal.owner, false)) return Run{};
    return take_at(change, near, blocks, ChunkKind::data);
}

// The first place in a chunk of `kind` with `blocks` free in one run; if none and not `whole`, the
// longest run of the fullest choice.
Result<Run> Allocator::take_in_group(Change &change, std::uint64_t number, ChunkKind kind,
                                     std::uint64_t owner, std::uint64_t blocks, bool whole,
                                     bool desperate) {
    Group &group = *TRY(load(number));
    std::uint64_t best = 0;
    unsigned best_length = 0;
    for (std::uint64_t i = 0; i < group.chunk_count; ++i) {
        const Chunk &c = group.chunks[i];
        if (!usable(c, kind, owner, desperate)) continue;
        if (static_cast<unsigned>(c.free - c.held) <= best_length) continue;
        const std::uint64_t chunk = number * kGroupChunks + i;
        const Bits free = TRY(available_bits(change, chunk));
        for (BitRun r = next_run(free, 0); r.length != 0; r = next_run(free, r.start + r.length)) {
            if (r.length > best_length) {
                best_length = r.length;
                best = chunk * kChunkBlocks + r.start;
            }
            if (best_length >= blocks) return take_at(change, best, blocks, kind);
        }
    }
    if (best_length == 0 || whole) return Run{};
    return take_at(change, best, best_length, kind);
}

// Looks through the groups for broken chunks, from the one of `near` (0: where the last search
// ended).  Groups without free blocks of the kind cost one comparison.
Result<Run> Allocator::search(Change &change, std::uint64_t near, ChunkKind kind,
                              std::uint64_t owner, std::uint64_t blocks, bool whole,
                              bool desperate) {
    const std::uint64_t first = near != 0 ? group_of(near) : cursor_;
    for (std::uint64_t i = 0; i < groups_.size(); ++i) {
        const std::uint64_t g = (first + i) % groups_.size();
        const Group &group = groups_[g];
        if ((kind == ChunkKind::data ? group.data_free : group.meta_free) == 0) continue;
        const Run run = TRY(take_in_group(change, g, kind, owner, blocks, whole, desperate));
        if (run.blocks != 0) {
            cursor_ = g;
            return run;
        }
    }
    return Run{};
}

Result<std::uint64_t> Allocator::find_free_chunks(std::uint64_t near_group, std::uint64_t count,
                                                  std::uint64_t unit_chunks) {
    for (std::uint64_t i = 0; i < groups_.size(); ++i) {
        const std::uint64_t g = (near_group + i) % groups_.size();
        if (groups_[g].free_chunks < count) continue;
        const Group &group = *TRY(load(g));
        std::uint64_t run = 0;
        for (std::uint64_t c = 0; c < group.chunk_count; ++c) {
            const Chunk &chunk = group.chunks[c];
            if (c % kBitmapChunks == 0) run = 0;  // take_at stays under one bitmap block
            if (run == 0 && (g * kGroupChunks + c) % unit_chunks != 0) continue;
            run = wholly_free(chunk) && chunk.reserved_for == 0 ? run + 1 : 0;
            if (run == count) return g * kGroupChunks + c + 1 - count;
        }
    }
    return 0;
}

// A free chunk of its own: a large file's blocks lie in it congruent with their file offset.
Result<Run> Allocator::take_fresh(Change &change, const Goal &goal, std::uint64_t blocks) {
    const std::uint64_t offset = goal.large ? goal.file_block % kChunkBlocks : 0;
    const std::uint64_t wanted =
        std::min<std::uint64_t>((offset + blocks + kChunkBlocks - 1) / kChunkBlocks, kBitmapChunks);
    const std::uint64_t group = goal.near != 0 ? group_of(goal.near) : cursor_;
    std::uint64_t chunk = TRY(find_free_chunks(group, wanted, 1));
    if (chunk == 0 && wanted > 1) chunk = TRY(find_free_chunks(group, 1, 1));
    if (chunk == 0) return Run{};
    const Run run = TRY(take_at(change, chunk * kChunkBlocks + offset, blocks, ChunkKind::data));
    if (goal.large && goal.owner != 0) {
        const std::uint64_t last = (run.start + run.blocks - 1) / kChunkBlocks;
        for (std::uint64_t c = chunk; c <= last; ++c) {
            if (chunk_of(c).free == 0 || chunk_of(c).reserved_for != 0) continue;
            chunk_of(c).reserved_for = goal.owner;
            reserved_[goal.owner].push_back(c);
        }
        reservations_.store(reserved_.size(), std::memory_order_release);
    }
    cursor_ = chunk / kGroupChunks;
    return run;
}

// Nothing in the run: there is no place as things are.
Result<Run> Allocator::take_somewhere(Change &change, const Goal &goal, std::uint64_t blocks) {
    Run run = TRY(take_near(change, goal, blocks));
    if (run.blocks == 0 && goal.large) run = TRY(take_fresh(change, goal, blocks));
    if (run.blocks == 0)
        run = TRY(search(change, goal.near, ChunkKind::data, goal.owner, blocks, true, false));
    if (run.blocks == 0) run = TRY(take_fresh(change, goal, blocks));
    if (run.blocks == 0)
        run = TRY(search(change, goal.near, ChunkKind::data, goal.owner, blocks, false, true));
    return run;
}

Result<Run> Allocator::take_data(Change &change, const Goal &goal, std::uint64_t blocks) {
    Run run = TRY(take_somewhere(change, goal, blocks));
    if (run.blocks == 0 && TRY(reclaim_meta_chunk(change)))
        run = TRY(take_fresh(change, goal, blocks));
    if (run.blocks == 0) return no_space();
    return run;
}

Result<Run> Allocator::take_chunks(Change &change, std::uint64_t chunks, std::uint64_t unit) {
    const std::uint64_t unit_chunks = unit / kChunkBlocks;
    std::uint64_t chunk = TRY(find_free_chunks(cursor_, chunks, unit_chunks));
    if (chunk == 0 && TRY(reclaim_meta_chunk(change)))
        chunk = TRY(find_free_chunks(cursor_, chunks, unit_chunks));
    if (chunk == 0) return no_space();
    const Run run =
        TRY(take_at(change, chunk * kChunkBlocks, chunks * kChunkBlocks, ChunkKind::data));
    cursor_ = chunk / kGroupChunks;
    return run;
}

Result<Run> Allocator::take_meta(Change &change, std::uint64_t near, std::uint64_t blocks) {
    Run run = TRY(search(change, near, ChunkKind::meta, 0, blocks, true, false));
    if (run.blocks != 0) return run;
    std::uint64_t chunk = TRY(find_free_chunks(near != 0 ? group_of(near) : cursor_, 1, 1));
    if (chunk == 0) return no_space();
    return take_at(change, chunk * kChunkBlocks, blocks, ChunkKind::meta);
}

Result<> Allocator::chunk_info(std::uint64_t chunk, std::uint8_t *kind, std::uint16_t *used) {
    if (chunk >= superblock_.block_count.get() / kChunkBlocks)
        return Error(EINVAL, "there is no chunk of that number");
    TRY(load(chunk / kGroupChunks));
    const Chunk &c = chunk_of(chunk);
    *kind = static_cast<std::uint8_t>(c.kind);
    *used = static_cast<std::uint16_t>(kChunkBlocks - c.free);
    return {};
}

}  // namespace pmfs::core
