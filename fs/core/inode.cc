// Finding, making and freeing inodes, and their two lists: see inode.h.
#include "core/inode.h"

#include <algorithm>
#include <cstring>
#include <unordered_set>

#include "base/errors.h"
#include "core/alloc.h"
#include "media/geometry.h"

namespace pmfs::core {

using media::InodeMap;
using media::kChunkBlocks;
using media::kInodesPerBlock;
using media::Magic;

Result<const media::Summary *> read_summary(const Reader &reader, GroupNo group,
                                            journal::Lines lines) {
    const auto layout = media::layout_of(group);
    const auto found = reader.get<media::Summary>(layout.summary_a, Magic::summary, lines);
    if (found.ok() || !is_damage(found.error())) return found;
    return reader.get<media::Summary>(layout.summary_b, Magic::summary, lines);
}

namespace {

constexpr journal::Lines kMapLines = journal::lines_of(0, offsetof(InodeMap, zero));

// The block of a chunk's inode map; 0: it has none.
Result<BlockNo> map_block(const Reader &reader, ChunkNo chunk) {
    const std::size_t field =
        offsetof(media::Summary, inode_map) + media::index_in_group(chunk) * 2;
    const media::Summary *summary =
        TRY(read_summary(reader, media::group_of(chunk), journal::lines_of(field, 2)));
    const std::uint64_t at = summary->inode_map[media::index_in_group(chunk)].get();
    if (at > kChunkBlocks) return corrupt("a chunk's inode map is outside of it");
    return at == 0 ? BlockNo(0) : media::first_block(chunk) + (at - 1);
}

Result<const InodeMap *> read_map(const Reader &reader, ChunkNo chunk) {
    const BlockNo block = TRY(map_block(reader, chunk));
    if (block == BlockNo(0)) return nullptr;
    return reader.get<InodeMap>(block, Magic::inode_map, kMapLines);
}

Result<InodeMap *> edit_map(Change &change, ChunkNo chunk) {
    const BlockNo block = TRY(map_block(Reader(change), chunk));
    if (block == BlockNo(0)) return corrupt("a chunk with an inode has no inode map");
    return change.tx().edit<InodeMap>(block, Magic::inode_map, kMapLines);
}

bool get(const media::le64 *words, std::uint64_t bit) {
    return (words[bit / 64].get() >> (bit % 64) & 1) != 0;
}
void put(media::le64 *words, std::uint64_t bit, bool value) {
    const std::uint64_t mask = std::uint64_t{1} << (bit % 64), was = words[bit / 64].get();
    words[bit / 64].set(value ? was | mask : was & ~mask);
}

std::uint64_t slot_bit(const InodePlace &place) {
    return media::index_in_chunk(place.block) * kInodesPerBlock + place.slot;
}
// The numbers of the inodes of a block; the first one.
InodeNo first_inode(BlockNo block) {
    return InodeNo(block.value() * kInodesPerBlock);
}
// The number of the inode in a place: the root's has one of its own.
InodeNo number_of(const media::Superblock &sb, BlockNo block, unsigned slot) {
    if (block == BlockNo(sb.root_block.get()) && slot == 0) return InodeNo(media::kRootIno);
    return first_inode(block) + slot;
}
InodePlace place_of(const media::Superblock &sb, InodeNo ino) {
    if (ino.value() == media::kRootIno) return {BlockNo(sb.root_block.get()), 0};
    return {BlockNo(ino.value() / kInodesPerBlock),
            static_cast<unsigned>(ino.value() % kInodesPerBlock)};
}

}  // namespace

GroupNo group_of_inode(const media::Superblock &sb, InodeNo ino) {
    return place_of(sb, ino).group();
}

Result<InodePlace> locate_inode(const Reader &reader, InodeNo ino) {
    const media::Superblock &sb = reader.core().superblock;
    const InodePlace place = place_of(sb, ino);
    if (place.block >= BlockNo(sb.block_count.get()) ||
        number_of(sb, place.block, place.slot) != ino)
        return Error(ESTALE, "there is no inode with that number");
    if (ino.value() == media::kRootIno) return place;  // even if its map is damaged
    const auto found = read_map(reader, place.chunk());
    if (!found.ok() && is_damage(found.error())) return place;  // rely on its class and header
    const InodeMap *map = TRY(found);
    if (map == nullptr || !get(map->made, media::index_in_chunk(place.block)))
        return Error(ESTALE, "there is no inode with that number");
    return place;
}

static Result<const media::Inode *> read_placed(const Reader &reader, InodeNo ino,
                                                const InodePlace &place) {
    const media::Inode *inode = TRY(reader.inode(place.block, place.slot, ino));
    if (inode->mode.get() == 0) return Error(ESTALE, "the inode is not in use");
    if (inode->size.get() > media::kFileSizeMax) return corrupt("a file is larger than 2^50 bytes");
    return inode;
}

Result<const media::Inode *> read_inode(const Reader &reader, InodeNo ino) {
    return read_placed(reader, ino, TRY(locate_inode(reader, ino)));
}

Result<media::Inode *> edit_inode(Change &change, InodeNo ino) {
    const Reader reader(change);
    const InodePlace place = TRY(locate_inode(reader, ino));
    TRY(read_placed(reader, ino, place));
    return change.tx().edit_inode(place.block, place.slot, ino);
}

Result<> for_each_inode(const Reader &reader, ChunkNo chunk, InodeNo from,
                        const std::function<bool(InodeNo, const media::Inode &)> &each) {
    const InodeMap *map = TRY(read_map(reader, chunk));
    if (map == nullptr) return {};
    const InodeNo before = first_inode(media::first_block(chunk));
    const std::uint64_t first = from > before ? from - before : 0;
    for (std::uint64_t bit = first; bit < media::kChunkInodes; ++bit) {
        if (map->slots[bit / 64].get() == 0) {
            bit |= 63;
            continue;
        }
        if (!get(map->slots, bit) || !get(map->made, bit / kInodesPerBlock)) continue;
        const BlockNo block = media::first_block(chunk) + bit / kInodesPerBlock;
        const InodeNo ino = number_of(reader.core().superblock, block,
                                      static_cast<unsigned>(bit % kInodesPerBlock));
        const auto inode = read_inode(reader, ino);
        if (!inode.ok() && !is_damage(inode.error())) return inode.error();
        if (inode.ok() && !each(ino, *inode.value())) return {};
    }
    return {};
}

// --- taking

namespace {

// A free slot of a chunk that has a place for it already.
Result<std::optional<InodeNo>> free_slot(const Reader &reader, ChunkNo chunk) {
    const InodeMap *map = TRY(read_map(reader, chunk));
    if (map == nullptr || map->used.get() >= map->blocks.get() * kInodesPerBlock)
        return std::optional<InodeNo>();
    for (std::uint64_t bit = 0; bit < media::kChunkInodes; ++bit) {
        if (bit % 64 == 0 && map->slots[bit / 64].get() == ~std::uint64_t{0}) {
            bit += 63;
            continue;
        }
        const std::uint64_t b = bit / kInodesPerBlock;
        if (!get(map->made, b)) {
            bit += kInodesPerBlock - 1;
            continue;
        }
        if (get(map->slots, bit)) continue;
        // A damaged one, or one that is in use after all, is left for fsck.
        const BlockNo block = media::first_block(chunk) + b;
        const auto slot = static_cast<unsigned>(bit % kInodesPerBlock);
        const InodeNo ino = number_of(reader.core().superblock, block, slot);
        const auto inode = reader.inode(block, slot, ino);
        if (!inode.ok() && !is_damage(inode.error())) return inode.error();
        if (inode.ok() && inode.value()->mode.get() == 0) return std::optional(ino);
    }
    return std::optional<InodeNo>();
}

// A chunk of the group with such a slot.  While a map is damaged, no inode of its chunk is
// allocated.
Result<std::optional<InodeNo>> free_in_group(Core &core, const Reader &reader, GroupNo group) {
    const media::Summary *summary = TRY(read_summary(reader, group));
    if (summary->inodes_made.get() <= summary->inodes_used.get()) return std::optional<InodeNo>();
    SpaceMap &map = core.allocator.map();
    for (auto c = map.inode_hint(group); c; c = map.inode_hint(group)) {
        const auto found = free_slot(reader, *c);
        if (found.ok() && found.value()) return found;
        if (!found.ok() && !is_damage(found.error())) return found.error();
        map.has_free_inode(*c, false);
    }
    return std::optional<InodeNo>();
}

// The generation must differ from that of any inode that was here before.  Its block may have been
// freed and overwritten; but each transaction has a new number, and takes an inode at most once.
std::uint64_t next_generation(const Core &core) {
    return core.journal.last().value() + 1;
}

enum class Where : std::uint8_t { here, anywhere };

// The place for eight more inodes: a chunk that has inodes and a free block, or one that gets its
// first ones.  Nothing: there is none here.
struct InodeChunk {
    std::optional<ChunkNo> chunk;
    bool first = false;
};
Result<InodeChunk> chunk_for_inodes(Core &core, GroupNo group, Where where) {
    SpaceMap &space = core.allocator.map();
    for (unsigned k = 0; k < kRunClasses; ++k) {
        const auto found = where == Where::here
                               ? TRY(space.find_run_here(Side::inode, k, group, 1, false))
                               : TRY(space.find_run(Side::inode, k, group, false));
        if (found) return InodeChunk{found, false};
    }
    if (where == Where::anywhere)
        return InodeChunk{TRY(core.allocator.find_inode_chunk(group)), true};
    const auto free = TRY(space.find_free(group, 1, 1, false));
    if (free && media::group_of(*free) == group) return InodeChunk{free, true};
    return InodeChunk{};
}

// Makes eight more inodes.  Gives their group; nothing: there is no place for them here.
Result<std::optional<GroupNo>> make_inodes(Core &core, GroupNo group, Where where) {
    SpaceMap &space = core.allocator.map();
    const auto [chunk, first] = TRY(chunk_for_inodes(core, group, where));
    if (!chunk) return std::optional<GroupNo>();
    Change change(core);
    TRY(change.begin());
    InodeMap *map;
    if (!first) {
        map = TRY(edit_map(change, *chunk));
    } else {
        const Run place = TRY(core.allocator.take_meta_in(change, *chunk));
        map = TRY(change.tx().fresh<InodeMap>(place.start, Magic::inode_map));
        TRY(space.set_inode_map(change, *chunk, media::index_in_chunk(place.start)));
    }
    const Run run = TRY(core.allocator.take_meta_in(change, *chunk));
    media::Inode *slots = TRY(change.tx().fresh_inodes(run.start, first_inode(run.start)));
    // Greater than that of any inode that was here before its block was freed.
    for (unsigned slot = 0; slot < kInodesPerBlock; ++slot)
        slots[slot].generation.set(next_generation(core));
    put(map->made, media::index_in_chunk(run.start), true);
    map->blocks.set(map->blocks.get() + 1);
    TRY(space.count_inodes(change, media::group_of(*chunk), 0, kInodesPerBlock));
    TRY(change.commit());
    space.has_free_inode(*chunk, true);
    return std::optional(media::group_of(*chunk));
}

}  // namespace

Result<GroupNo> ensure_free_inode(Core &core, GroupNo group, Need need) {
    SpaceMap &map = core.allocator.map();
    const Reader reader(core);
    group = GroupNo(group % map.group_count());
    TRY(map.load(group));
    // Also for an inode that has its place already: it will need a name, and data.
    TRY(core.allocator.check_space(1, need));
    if (TRY(free_in_group(core, reader, group))) return group;
    if (const auto made = TRY(make_inodes(core, group, Where::here)); made) return *made;
    // Inodes of other groups, before those get more.
    for (auto g = map.inode_group_hint(group); g; g = map.inode_group_hint(*g)) {
        TRY(map.load(*g));
        if (TRY(free_in_group(core, reader, *g))) return *g;
        map.group_has_no_free_inode(*g);
    }
    return *TRY(make_inodes(core, group, Where::anywhere));
}

Result<NewInode> take_inode(Change &change, GroupNo group) {
    Core &core = change.core();
    const Reader reader(change);
    const auto found = TRY(free_in_group(core, reader, group));
    if (!found) return Error(ENOSPC, "there is no free inode");
    const InodeNo ino = *found;
    const InodePlace place = TRY(locate_inode(reader, ino));
    media::Inode *inode = TRY(change.tx().edit_inode(place.block, place.slot, ino));
    if (inode->mode.get() != 0) return corrupt("an inode map marks an inode free that is in use");
    InodeMap *map = TRY(edit_map(change, place.chunk()));
    put(map->slots, slot_bit(place), true);
    map->used.set(map->used.get() + 1);
    TRY(core.allocator.map().count_inodes(change, place.group(), 1, 0));
    const media::BlockHeader header = inode->header;
    std::memset(static_cast<void *>(inode), 0, sizeof *inode);
    inode->header = header;
    inode->generation.set(next_generation(core));
    return NewInode{ino, inode};
}

// --- freeing

namespace {

// The chunk has no inode any more: its inode blocks are freed and, except in chunk 0, its map.
Result<> drop_places(Change &change, ChunkNo chunk, InodeMap *map) {
    SpaceMap &space = change.core().allocator.map();
    Bits made;
    for (std::size_t i = 0; i < made.size(); ++i) made[i] = map->made[i].get();
    const auto inodes = static_cast<std::int32_t>(count_bits(made) * kInodesPerBlock);
    const BlockNo block = TRY(map_block(Reader(change), chunk));
    const unsigned at = media::index_in_chunk(block);
    if (bit_at(made, at)) return corrupt("an inode map is in a block of inodes");
    const bool fixed = media::index_in_group(chunk) == 0;
    if (fixed) {
        for (media::le64 &word : map->made) word.set(0);
        map->blocks.set(0);
    } else {
        set_bit(made, at, true);
        TRY(space.set_inode_map(change, chunk, std::nullopt));
    }
    TRY(space.count_inodes(change, media::group_of(chunk), 0, -inodes));
    return space.give(change, chunk, made);
}

// A block of eight free inodes is freed, unless they are the last free ones of the chunk: then the
// next file would need it again.
Result<> drop_block(Change &change, const InodePlace &place, InodeMap *map) {
    const unsigned at = media::index_in_chunk(place.block);
    const std::uint64_t bit = at * kInodesPerBlock;
    if ((map->slots[bit / 64].get() >> (bit % 64) & 0xff) != 0) return {};
    if (map->blocks.get() * kInodesPerBlock - map->used.get() < 2 * kInodesPerBlock) return {};
    put(map->made, at, false);
    map->blocks.set(map->blocks.get() - 1);
    SpaceMap &space = change.core().allocator.map();
    TRY(space.count_inodes(change, place.group(), 0, -static_cast<int>(kInodesPerBlock)));
    return space.give(change, place.chunk(), bit_range(at, 1));
}

}  // namespace

Result<> free_inode(Change &change, InodeNo ino, media::Inode *inode) {
    const InodePlace place = TRY(locate_inode(Reader(change), ino));
    SpaceMap &space = change.core().allocator.map();
    const std::uint64_t generation = inode->generation.get();
    const media::BlockHeader header = inode->header;
    std::memset(static_cast<void *>(inode), 0, sizeof *inode);
    inode->header = header;
    inode->generation.set(generation);
    InodeMap *map = TRY(edit_map(change, place.chunk()));
    if (!get(map->slots, slot_bit(place)) || map->used.get() == 0)
        return corrupt("an inode map marked an inode free that was in use");
    put(map->slots, slot_bit(place), false);
    map->used.set(map->used.get() - 1);
    TRY(space.count_inodes(change, place.group(), -1, 0));
    if (map->used.get() == 0) return drop_places(change, place.chunk(), map);
    space.has_free_inode(place.chunk(), true);
    return drop_block(change, place, map);
}

// --- lists

// An inode on a list is in use.
static Result<media::Inode *> edit_listed(Change &change, InodeNo ino) {
    auto inode = edit_inode(change, ino);
    if (!inode.ok() && inode.error().errno_value() == ESTALE)
        return corrupt("a list of inodes contains one that is not in use");
    return inode;
}

Result<std::vector<std::uint64_t>> all_listed(const Reader &reader, ListHead head) {
    std::vector<std::uint64_t> all;
    std::unordered_set<std::uint64_t> seen;
    const GroupSet &groups = reader.core().allocator.map().listed(head == kOrphans);
    for (auto g = groups.search(GroupNo(0)); g; g = groups.search(*g + 1)) {
        for (std::uint64_t at = (TRY(read_summary(reader, *g))->*head).get(); at != 0;) {
            const auto inode = read_inode(reader, InodeNo(at));
            if (!inode.ok() || !seen.insert(at).second)
                return corrupt("a list of inodes is damaged");
            all.push_back(at);
            at = inode.value()->next.get();
        }
    }
    return all;
}

static Result<> set_head(Change &change, GroupNo group, ListHead head, std::uint64_t ino) {
    SpaceMap &map = change.core().allocator.map();
    TRY(map.edit_summary(change, group, 0, [&](media::Summary *s) { (s->*head).set(ino); }));
    map.set_listed(group, head == kOrphans, ino != 0);
    return {};
}

Result<> push_inode(Change &change, InodeNo ino, media::Inode *inode, ListHead head) {
    const GroupNo group = group_of_inode(change.core().superblock, ino);
    const std::uint64_t first = (TRY(read_summary(Reader(change), group))->*head).get();
    inode->next.set(first);
    inode->prev.set(0);
    if (first != 0) TRY(edit_listed(change, InodeNo(first)))->prev.set(ino.value());
    return set_head(change, group, head, ino.value());
}

Result<> unlink_inode(Change &change, InodeNo ino, media::Inode *inode, ListHead head) {
    const std::uint64_t next = inode->next.get(), prev = inode->prev.get();
    if (next != 0) TRY(edit_listed(change, InodeNo(next)))->prev.set(prev);
    if (prev != 0)
        TRY(edit_listed(change, InodeNo(prev)))->next.set(next);
    else
        TRY(set_head(change, group_of_inode(change.core().superblock, ino), head, next));
    inode->next.set(0);
    inode->prev.set(0);
    return {};
}

// If the head of the list is damaged, the list begins again without it, and what was behind it is
// left for fsck: otherwise no name could be removed any more.
Result<> add_orphan(Change &change, InodeNo ino, media::Inode *inode) {
    auto pushed = push_inode(change, ino, inode, kOrphans);
    if (pushed.ok() || !is_damage(pushed.error())) return pushed;
    inode->next.set(0);
    return set_head(change, group_of_inode(change.core().superblock, ino), kOrphans, ino.value());
}

Result<> remove_orphan(Change &change, InodeNo ino, media::Inode *inode) {
    return unlink_inode(change, ino, inode, kOrphans);
}

}  // namespace pmfs::core
