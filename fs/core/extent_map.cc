// Reading and changing block maps: see extent_map.h.
#include "core/extent_map.h"

#include <algorithm>
#include <cstring>

#include "base/assert.h"
#include "core/btree.h"
#include "core/budget.h"
#include "core/inode.h"
#include "media/geometry.h"

namespace pmfs::core {

using media::InlineExtent;
using media::kInlineExtents;
using media::MapValue;

namespace {

// Behind every file and every donor range; its byte offset still fits 64 bits.
constexpr FileBlock kEndOfFiles(std::uint64_t{1} << 51);
static_assert(kEndOfFiles.value() > 2 * media::kDonorBase);

TreeId tree_of(InodeNo ino) {
    return {ino, media::TreeKind::map};
}

InlineExtent *inline_of(media::Inode *inode) {
    return reinterpret_cast<InlineExtent *>(inode->inline_bytes);
}
const InlineExtent *inline_of(const media::Inode &inode) {
    return reinterpret_cast<const InlineExtent *>(inode.inline_bytes);
}
unsigned inline_count(const media::Inode &inode) {
    return std::min<unsigned>(inode.inline_count.get(), kInlineExtents);
}

Extent decode(std::uint64_t key, std::uint64_t start, std::uint32_t blocks, std::uint32_t flags) {
    return {FileBlock(key), BlockNo(start), blocks, (flags & media::kUnwritten) != 0,
            (flags & media::kShared) != 0};
}
Extent decode(const InlineExtent &e) {
    return decode(e.file_block.get(), e.start.get(), e.blocks.get(), e.flags.get());
}
std::uint32_t flags_of(const Extent &e) {
    return (e.unwritten ? media::kUnwritten : 0u) | (e.shared ? media::kShared : 0u);
}
InlineExtent encode(const Extent &e) {
    return {media::le64(e.file_block.value()), media::le64(e.start.value()),
            media::le32(static_cast<std::uint32_t>(e.blocks)), media::le32(flags_of(e))};
}
MapValue encode_value(const Extent &e) {
    return {media::le64(e.start.value()), media::le32(static_cast<std::uint32_t>(e.blocks)),
            media::le32(flags_of(e))};
}

// Whether all blocks [from, end) of a chunk have this bit in the bitmaps that begin at `bitmaps`.
Result<bool> all_bits_are(const Reader &reader, BlockNo from, BlockNo end, BlockNo bitmaps,
                          bool value) {
    const ChunkNo chunk = media::chunk_of(from);
    const std::uint64_t row = media::bitmap_row(chunk);
    const std::size_t at = offsetof(media::BitmapBlock, bits) + row * media::kLineSize;
    const auto *bitmap =
        TRY(reader.get<media::BitmapBlock>(media::bitmap_of(chunk, bitmaps), media::Magic::bitmap,
                                           journal::lines_of(at, media::kLineSize)));
    const Bits blocks = bit_range(media::index_in_chunk(from), static_cast<unsigned>(end - from));
    for (std::size_t i = 0; i < blocks.size(); ++i) {
        const std::uint64_t word = bitmap->bits[row][i].get();
        if (((value ? ~word : word) & blocks[i]) != 0) return false;
    }
    return true;
}

// A chunk that also holds metadata: none of the extent's blocks may be metadata.
Result<> check_classes(const Reader &reader, BlockNo from, BlockNo end) {
    const BlockNo classes = media::layout_of(media::group_of(from)).classes;
    if (TRY(all_bits_are(reader, from, end, classes, false))) return {};
    return corrupt("an extent covers metadata");
}

// The same of an extent, when both summaries of its group are damaged: by the bitmaps alone.
Result<> check_bitmaps(const Reader &reader, BlockNo from, BlockNo end) {
    const BlockNo usage = media::layout_of(media::group_of(from)).bitmaps;
    for (BlockNo at = from; at < end;) {
        const BlockNo upto = std::min(end, media::first_block(media::chunk_of(at) + 1));
        if (!TRY(all_bits_are(reader, at, upto, usage, true)))
            return corrupt("an extent covers free blocks");
        TRY(check_classes(reader, at, upto));
        at = upto;
    }
    return {};
}

// An extent from the media must be inside the volume, or reading through it would leave the region;
// and it must cover file data only, or a write to the file would change metadata unnoticed.
Result<Extent> checked(const Reader &reader, const Extent &e) {
    const BlockNo total(reader.core().blocks().count());
    if (e.blocks == 0 || e.hole() || e.start >= total || e.blocks > total - e.start ||
        e.file_block >= kEndOfFiles || e.blocks > kEndOfFiles - e.file_block)
        return corrupt("an extent points outside the volume");
    const BlockNo end = e.start + e.blocks;
    const GroupNo group = media::group_of(e.start);
    if (media::group_of(end - 1) != group)
        return corrupt("an extent reaches into the next group");  // which begins with metadata
    const ChunkNo first = media::chunk_of(e.start), last = media::chunk_of(end - 1);
    const std::size_t kinds = offsetof(media::Summary, kind) + media::index_in_group(first);
    const auto read = read_summary(reader, group, journal::lines_of(kinds, last - first + 1));
    if (!read.ok()) {
        if (!is_damage(read.error())) return read.error();
        TRY(check_bitmaps(reader, e.start, end));
        return e;
    }
    const media::Summary *summary = read.value();
    // (A long extent has hundreds of chunks, and is looked at for each read and write.)
    constexpr auto kData = static_cast<std::uint8_t>(media::ChunkKind::data);
    const auto *const found = &summary->kind[media::index_in_group(first)];
    if (*found == kData && std::memcmp(found, found + 1, last - first) == 0) return e;
    for (BlockNo at = e.start; at < end;) {
        const ChunkNo chunk = media::chunk_of(at);
        const BlockNo upto = std::min(end, media::first_block(chunk + 1));
        const auto kind =
            static_cast<media::ChunkKind>(summary->kind[media::index_in_group(chunk)]);
        if (kind == media::ChunkKind::mixed)
            TRY(check_classes(reader, at, upto));
        else if (kind != media::ChunkKind::data)
            return corrupt("an extent is in chunks of another kind");
        at = upto;
    }
    return e;
}

Result<Extent> decode_entry(const Reader &reader, const Cursor &at) {
    const auto value = at.value();
    if (value.size() != sizeof(MapValue)) return corrupt("an extent's entry has a wrong size");
    MapValue v;
    std::memcpy(&v, value.data(), sizeof v);
    return checked(reader, decode(at.key(), v.start.get(), v.blocks.get(), v.flags.get()));
}

bool joins(const Extent &left, const Extent &right) {
    return !left.hole() && !right.hole() && left.end() == right.file_block &&
           left.start + left.blocks == right.start && left.unwritten == right.unwritten &&
           left.shared == right.shared && left.blocks + right.blocks <= media::kGroupBlocks;
}

}  // namespace

Result<Extent> last_extent(const Reader &reader, const media::Inode &inode, InodeNo ino,
                           FileBlock file_block) {
    if (inode.map_root.get() == 0) {
        const InlineExtent *extents = inline_of(inode);
        for (unsigned i = inline_count(inode); i-- > 0;)
            if (extents[i].file_block.get() <= file_block.value())
                return checked(reader, decode(extents[i]));
        return Extent{};
    }
    Cursor at(reader, inode, tree_of(ino));
    TRY(at.seek_floor(file_block.value()));
    if (at.at_end()) return Extent{};
    return decode_entry(reader, at);
}

// The first extent that begins at `file_block` or behind it; a hole: there is none.
static Result<Extent> extent_behind(const Reader &reader, const media::Inode &inode, InodeNo ino,
                                    FileBlock file_block) {
    if (inode.map_root.get() == 0) {
        const InlineExtent *extents = inline_of(inode);
        for (unsigned i = 0; i < inline_count(inode); ++i)
            if (extents[i].file_block.get() >= file_block.value())
                return checked(reader, decode(extents[i]));
        return Extent{};
    }
    Cursor at(reader, inode, tree_of(ino));
    TRY(at.seek(file_block.value()));
    if (at.at_end()) return Extent{};
    return decode_entry(reader, at);
}

Result<Extent> next_extent(const Reader &reader, const media::Inode &inode, InodeNo ino,
                           FileBlock file_block) {
    const Extent before = TRY(last_extent(reader, inode, ino, file_block));
    if (!before.hole() && before.end() > file_block) return before;
    return extent_behind(reader, inode, ino, file_block);
}

Result<Extent> find_extent(const Reader &reader, const media::Inode &inode, InodeNo ino,
                           FileBlock file_block) {
    const Extent found = TRY(last_extent(reader, inode, ino, file_block));
    if (!found.hole() && found.end() > file_block) return found;
    const Extent next = TRY(extent_behind(reader, inode, ino, file_block));
    const FileBlock end = next.hole() ? kEndOfFiles : next.file_block;
    return Extent{file_block, BlockNo(0), end - file_block, false, false};
}

namespace {

// --- one record of the map, inline or in the tree

Result<> put(Change &change, media::Inode *inode, InodeNo ino, const Extent &e) {
    if (inode->map_root.get() != 0) {
        const MapValue v = encode_value(e);
        return tree_insert(change, inode, tree_of(ino), e.file_block.value(),
                           std::as_bytes(std::span(&v, 1)));
    }
    InlineExtent *extents = inline_of(inode);
    const unsigned count = inline_count(*inode);
    if (count >= kInlineExtents) return corrupt("an inline map lacks the room that was made");
    unsigned at = count;
    for (; at > 0 && extents[at - 1].file_block.get() > e.file_block.value(); --at)
        extents[at] = extents[at - 1];
    extents[at] = encode(e);
    inode->inline_count.set(count + 1);
    return {};
}

Result<> drop(Change &change, media::Inode *inode, InodeNo ino, FileBlock key) {
    if (inode->map_root.get() != 0) return tree_erase(change, inode, tree_of(ino), key.value());
    InlineExtent *extents = inline_of(inode);
    const unsigned count = inline_count(*inode);
    unsigned at = 0;
    while (at < count && extents[at].file_block.get() != key.value()) ++at;
    if (at == count) return corrupt("an inline extent is gone");
    std::memmove(extents + at, extents + at + 1, (count - at - 1) * sizeof *extents);
    extents[count - 1] = InlineExtent{};
    inode->inline_count.set(count - 1);
    return {};
}

// The same key with another length or other flags.
Result<> update(Change &change, media::Inode *inode, InodeNo ino, const Extent &e) {
    if (inode->map_root.get() != 0) {
        const MapValue v = encode_value(e);
        return tree_replace(change, inode, tree_of(ino), e.file_block.value(),
                            std::as_bytes(std::span(&v, 1)));
    }
    InlineExtent *extents = inline_of(inode);
    for (unsigned i = 0; i < inline_count(*inode); ++i) {
        if (extents[i].file_block.get() != e.file_block.value()) continue;
        extents[i] = encode(e);
        return {};
    }
    return corrupt("an inline extent is gone");
}

// Moves a full inline map into a tree.
Result<> outgrow(Core &core, InodeNo ino) {
    Change change(core);
    TRY(change.begin());
    media::Inode *inode = TRY(edit_inode(change, ino));
    std::vector<Extent> extents;
    for (unsigned i = 0; i < inline_count(*inode); ++i)
        extents.push_back(decode(inline_of(inode)[i]));
    std::memset(inode->inline_bytes, 0, sizeof inode->inline_bytes);
    inode->inline_count.set(0);
    for (const Extent &e : extents) {
        const MapValue v = encode_value(e);
        TRY(tree_insert(change, inode, tree_of(ino), e.file_block.value(),
                        std::as_bytes(std::span(&v, 1))));
    }
    TRY(change.commit());
    return {};
}

}  // namespace

Result<> map_make_room(Core &core, InodeNo ino, FileBlock file_block, unsigned extents) {
    const Reader reader(core);
    const media::Inode *inode = TRY(read_inode(reader, ino));
    if (inode->map_root.get() == 0) {
        if (inline_count(*inode) + extents <= kInlineExtents) return {};
        TRY(outgrow(core, ino));
    }
    return tree_make_room(core, tree_of(ino), file_block.value(),
                          extents * NodeView::cost(sizeof(MapValue)), Need::essential);
}

Result<> map_tidy(Core &core, InodeNo ino, FileBlock file_block) {
    return tree_tidy(core, tree_of(ino), file_block.value());
}

Result<> map_insert(Change &change, media::Inode *inode, InodeNo ino, const Extent &extent,
                    const MapPermit &) {
    const Reader reader(change);
    const FileBlock first = extent.file_block;
    if (extent.hole() || extent.blocks == 0)
        return corrupt("block 0 was allocated, which is never free");
    const Extent left =
        first == FileBlock(0) ? Extent{} : TRY(last_extent(reader, *inode, ino, first - 1));
    const Extent right = TRY(extent_behind(reader, *inode, ino, first));
    if ((!left.hole() && left.end() > first) || (!right.hole() && right.file_block < extent.end()))
        return corrupt("extents overlap");
    std::uint64_t blocks = extent.blocks;
    if (joins(extent, right)) {
        TRY(drop(change, inode, ino, right.file_block));
        blocks += right.blocks;
    }
    const bool joined = joins(left, extent) && left.blocks + blocks <= media::kGroupBlocks;
    Extent whole = joined ? left : extent;
    whole.blocks = joined ? left.blocks + blocks : blocks;
    return joined ? update(change, inode, ino, whole) : put(change, inode, ino, whole);
}

Result<Run> map_remove(Change &change, media::Inode *inode, InodeNo ino, FileBlock first,
                       FileBlock end, const MapPermit &) {
    const Extent e = TRY(find_extent(Reader(change), *inode, ino, first));
    if (e.hole() || e.end() < end || first >= end)
        return corrupt("a block map changed during an operation");
    if (e.file_block < first) {
        Extent head = e;
        head.blocks = first - e.file_block;
        TRY(update(change, inode, ino, head));
    } else {
        TRY(drop(change, inode, ino, e.file_block));
    }
    if (e.end() > end) {
        Extent tail = e;
        tail.file_block = end;
        tail.start = e.place_of(end);
        tail.blocks = e.end() - end;
        TRY(put(change, inode, ino, tail));
    }
    return Run{e.place_of(first), end - first};
}

Result<> map_set_written(Change &change, media::Inode *inode, InodeNo ino, FileBlock first,
                         FileBlock end, const MapPermit &permit) {
    const Run run = TRY(map_remove(change, inode, ino, first, end, permit));
    return map_insert(change, inode, ino, {first, run.start, run.blocks, false, false}, permit);
}

Result<bool> map_trim(Change &change, media::Inode *inode, InodeNo ino, FileBlock from,
                      const MapPermit &permit) {
    for (unsigned n = 0;; ++n) {
        const Extent e = TRY(last_extent(Reader(change), *inode, ino, kEndOfFiles));
        if (e.hole() || e.end() <= from) return true;
        if (n == kTrimExtentsMax) return false;
        const FileBlock first = std::max(e.file_block, from);
        const Run tail{e.place_of(first), e.end() - first};
        const Run piece = change.core().allocator.tail_piece(tail);
        const std::size_t gives = change.core().allocator.blocks_to_give_back(change, piece);
        // The caller is responsible for the orphan list.
        if (!change.has_room(budget::kLeaf + gives + budget::kListChange)) return false;
        TRY(map_remove(change, inode, ino, e.end() - piece.blocks, e.end(), permit));
        TRY(change.core().allocator.give_back(change, piece));
        inode->blocks.set(inode->blocks.get() - piece.blocks);
    }
}

}  // namespace pmfs::core
