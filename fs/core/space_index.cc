// The index of chunks by the longest run that can be taken from them: see space_map.h.
//
// Each chunk is on at most one shelf of its group: one for each side and class, one for wholly free
// chunks.  For each shelf the volume knows the groups that have something there.  A group that was
// not loaded yet counts as having everything.
#include <algorithm>
#include <bit>

#include "core/space_map.h"
#include "media/geometry.h"

namespace pmfs::core {

using media::ChunkKind;
using media::kBitmapChunks;
using media::kChunkBlocks;

namespace {

constexpr std::uint8_t kNoShelf = 0xff, kFreeShelf = 0xfe;
static_assert(kSides * kRunClasses < kFreeShelf);

}  // namespace

std::uint8_t SpaceMap::shelf_of(ChunkNo chunk) {
    const Chunk &c = chunk_at(chunk);
    if (c.reserved || c.longest == 0) return kNoShelf;
    if (c.kind == ChunkKind::free) return c.longest == kChunkBlocks ? kFreeShelf : kNoShelf;
    // The superblock's copy is far from everything else, so its chunk does not count as a place for
    // metadata.
    const bool copy = chunk == media::chunk_of(BlockNo(superblock_.copy_block.get()));
    const bool meta = c.kind == ChunkKind::meta && !copy;
    const Side side = c.inodes ? Side::inode : meta ? Side::meta : Side::data;
    const auto k = static_cast<unsigned>(std::bit_width(std::min<unsigned>(c.longest, 511)) - 1);
    return static_cast<std::uint8_t>(static_cast<unsigned>(side) * kRunClasses + k);
}

void SpaceMap::put_on_shelf(ChunkNo chunk, std::uint8_t shelf) {
    const GroupNo number = media::group_of(chunk);
    const unsigned bit = media::index_in_group(chunk);
    Group &group = group_at(number);
    const auto put = [&](std::uint8_t which, bool there) {
        if (which == kNoShelf) return;
        const unsigned side = which / kRunClasses, k = which % kRunClasses;
        Bits &set = which == kFreeShelf ? group.free : group.runs[side][k];
        set_bit(set, bit, there);
        (which == kFreeShelf ? with_free_ : by_run_[side][k]).set(number, set != Bits{});
    };
    Chunk &c = chunk_at(chunk);
    if (c.shelf == shelf) return;
    put(c.shelf, false);
    put(shelf, true);
    c.shelf = shelf;
}

void SpaceMap::index(ChunkNo chunk, const Bits &available) {
    Chunk &c = chunk_at(chunk);
    c.longest = static_cast<std::uint16_t>(fitting_run(available, kBits + 1).length);
    put_on_shelf(chunk, shelf_of(chunk));
}

// As it is on the medium; no transaction changes the chunk.  Its bitmap was read when the group was
// loaded, so it can be read again; if that fails, nothing can be taken there.
void SpaceMap::index_home(ChunkNo chunk) {
    const pm::NoWaiting waits(false);
    const auto bits = available(nullptr, chunk);
    index(chunk, bits.ok() ? bits.value() : Bits{});
}

// The first chunk that `look` finds in a group of the set, from `near` on, wrapping around.
template <class F>
Result<std::optional<ChunkNo>> SpaceMap::in_groups(const GroupSet &set, GroupNo near, F look) {
    const auto between = [&](GroupNo from, GroupNo end) -> Result<std::optional<ChunkNo>> {
        for (auto g = set.search(from); g && *g < end; g = set.search(*g + 1)) {
            TRY(load(*g));
            if (const auto found = look(*g); found) return found;
        }
        return std::optional<ChunkNo>();
    };
    auto found = TRY(between(near, end_group()));
    if (!found) found = TRY(between(GroupNo(0), near));
    return found;
}

// Now it is known what the group has.
void SpaceMap::index_group(GroupNo number) {
    const Group &group = group_at(number);
    with_free_.set(number, group.free != Bits{});
    for (unsigned side = 0; side < kSides; ++side)
        for (unsigned k = 0; k < kRunClasses; ++k)
            by_run_[side][k].set(number, group.runs[side][k] != Bits{});
}

void SpaceMap::set_reserved(ChunkNo chunk, bool reserved) {
    Chunk &c = chunk_at(chunk);
    c.reserved = reserved;
    put_on_shelf(chunk, shelf_of(chunk));
}

bool SpaceMap::wholly_free(ChunkNo chunk) {
    return chunk_at(chunk).shelf == kFreeShelf;
}

Result<std::optional<ChunkNo>> SpaceMap::find_run(Side side, unsigned k, GroupNo near,
                                                  bool for_data) {
    const auto s = static_cast<unsigned>(side);
    return in_groups(by_run_[s][k], near, [&](GroupNo g) -> std::optional<ChunkNo> {
        const Group &group = group_at(g);
        for (std::size_t i = 0; i < group.free.size(); ++i) {
            const std::uint64_t word = group.runs[s][k][i] & (for_data ? ~group.blocked[i] : ~0ull);
            if (word != 0)
                return media::first_chunk(g) + i * 64 +
                       static_cast<unsigned>(std::countr_zero(word));
        }
        return std::nullopt;
    });
}

Result<std::optional<ChunkNo>> SpaceMap::find_run_here(Side side, unsigned k, GroupNo near,
                                                       unsigned blocks, bool for_data) {
    TRY(load(near));
    const Group &group = group_at(near);
    const Bits &set = group.runs[static_cast<unsigned>(side)][k];
    for (BitRun r = next_run(set, 0); r.length != 0; r = next_run(set, r.start + r.length))
        for (unsigned c = r.start; c < r.start + r.length; ++c)
            if (group.chunks[c].longest >= blocks && !(for_data && bit_at(group.blocked, c)))
                return std::optional(media::first_chunk(near) + c);
    return std::optional<ChunkNo>();
}

Result<std::optional<ChunkNo>> SpaceMap::find_free(GroupNo near, unsigned count, unsigned unit,
                                                   bool for_data) {
    return in_groups(with_free_, near, [&](GroupNo g) -> std::optional<ChunkNo> {
        const Group &group = group_at(g);
        if (group.free_chunks < count) return std::nullopt;
        unsigned run = 0;
        for (unsigned c = 0; c < group.chunk_count; ++c) {
            if (c % kBitmapChunks == 0) run = 0;  // a transaction changes one bitmap block
            if (run == 0 && (media::first_chunk(g) + c) % unit != 0) continue;
            const bool free = bit_at(group.free, c) && !(for_data && bit_at(group.blocked, c));
            run = free ? run + 1 : 0;
            if (run == count) return media::first_chunk(g) + (c + 1 - count);
        }
        return std::nullopt;
    });
}

Result<std::optional<SpaceMap::Window>> SpaceMap::fewest_used(GroupNo number, Wanted wanted,
                                                              std::uint64_t used_least,
                                                              const std::set<ChunkNo> &but) {
    TRY(load(number));
    const Group &group = group_at(number);
    const auto used_of = [&](unsigned c) { return kChunkBlocks - group.chunks[c].free; };
    std::optional<Window> best;
    std::uint64_t used = 0;  // in the last ones of so many that will do, up to `count` of them
    unsigned fit = 0;
    for (unsigned c = 0; c < group.chunk_count; ++c) {
        const Chunk &one = group.chunks[c];
        const bool data = one.kind == ChunkKind::data || one.kind == ChunkKind::free;
        if (one.reserved || one.inodes || !data || but.contains(media::first_chunk(number) + c)) {
            used = fit = 0;
            continue;
        }
        used += used_of(c);
        if (++fit > wanted.count) used -= used_of(c - wanted.count);
        if (fit < wanted.count) continue;
        const unsigned from = c + 1 - wanted.count;
        const ChunkNo first = media::first_chunk(number) + from;
        if (first % wanted.unit != 0) continue;
        if (!wanted.across && from / kBitmapChunks != c / kBitmapChunks) continue;
        if (used >= used_least && used < wanted.count * kChunkBlocks &&
            (!best || used < best->used))
            best = Window{first, used};
    }
    return best;
}

std::optional<GroupNo> SpaceMap::broken_group(GroupNo from, bool whole) const {
    const auto broken = with_partial_.search(from);
    const auto free = whole ? with_whole_.search(from) : std::nullopt;
    return broken && free ? std::min(broken, free) : broken ? broken : free;
}

}  // namespace pmfs::core
