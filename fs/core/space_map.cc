// Bitmaps, summaries and counts: see space_map.h.  The index is in space_index.cc.
#include "core/space_map.h"

#include <algorithm>
#include <utility>

#include "base/assert.h"
#include "base/errors.h"
#include "media/geometry.h"

namespace pmfs::core {

using media::ChunkKind;
using media::kChunkBlocks;
using media::Magic;

namespace {

BlockNo bitmap_block(ChunkNo chunk, bool classes) {
    const auto layout = media::layout_of(media::group_of(chunk));
    return media::bitmap_of(chunk, classes ? layout.classes : layout.bitmaps);
}
// The line of a bitmap block that describes the chunk.
journal::Lines row_lines(ChunkNo chunk) {
    constexpr std::size_t kRow = kChunkBlocks / 8;
    static_assert(kRow == media::kLineSize && offsetof(media::BitmapBlock, bits) % kRow == 0);
    return journal::lines_of(offsetof(media::BitmapBlock, bits) + media::bitmap_row(chunk) * kRow,
                             kRow);
}
Bits bits_of(const media::BitmapBlock &bitmap, ChunkNo chunk) {
    Bits bits;
    for (std::size_t i = 0; i < bits.size(); ++i)
        bits[i] = bitmap.bits[media::bitmap_row(chunk)][i].get();
    return bits;
}

// Nothing of it is free, and nothing is known of its inodes.
media::Summary full_group() {
    media::Summary full{};
    std::ranges::fill(full.kind, static_cast<std::uint8_t>(ChunkKind::data));
    return full;
}

}  // namespace

Result<std::unique_ptr<SpaceMap>> SpaceMap::open(journal::Journal &journal,
                                                 const media::Superblock &superblock,
                                                 bool read_only) {
    std::unique_ptr<SpaceMap> map(new SpaceMap(journal, superblock));
    const std::uint64_t blocks = superblock.block_count.get();
    map->set_groups(media::group_count(blocks));
    for (GroupNo g; g < map->end_group(); ++g) {
        const auto summary = map->read_summary(g);
        if (!summary.ok() && (!read_only || !is_damage(summary.error()))) return summary.error();
        map->add_group(g, summary.ok() ? *summary.value() : full_group(), blocks);
    }
    return map;
}

void SpaceMap::set_groups(std::uint64_t groups) {
    groups_.resize(groups);
    for (auto &side : by_run_)
        for (GroupSet &set : side) set.resize(groups);
    for (GroupSet *set :
         {&with_free_, &with_inodes_, &with_orphans_, &with_grants_, &with_partial_, &with_whole_})
        set->resize(groups);
}

// The state of its chunks is read when the group is loaded.
void SpaceMap::add_group(GroupNo number, const media::Summary &summary, std::uint64_t blocks) {
    Group &group = group_at(number);
    group.chunk_count = static_cast<std::uint32_t>(media::group_chunks(blocks, number));
    for (std::uint32_t c = 0; c < group.chunk_count; ++c)
        group.free_chunks += summary.kind[c] == static_cast<std::uint8_t>(ChunkKind::free);
    group.partial_free = summary.partial_free.get();
    free_ += group.free_chunks * kChunkBlocks + group.partial_free;
    free_chunks_ += group.free_chunks;
    inodes_used_ += summary.inodes_used.get();
    inodes_made_ += summary.inodes_made.get();
    note_counts(number);
    with_free_.set(number, group.free_chunks != 0);
    with_inodes_.set(number, summary.inodes_made.get() > summary.inodes_used.get());
    with_orphans_.set(number, summary.orphan_head.get() != 0);
    with_grants_.set(number, summary.grant_head.get() != 0);
    for (auto &side : by_run_)
        for (GroupSet &set : side) set.set(number, group.partial_free != 0);
}

// Chunks that the last group lacks count as free and have no bit set, so that the group can grow
// into them.
Result<> SpaceMap::may_grow(std::uint64_t blocks) {
    const GroupNo number = end_group() - 1;
    const auto *summary = TRY(read_summary(number));
    const std::uint64_t end = media::group_chunks(blocks, number);
    for (std::uint64_t c = group_at(number).chunk_count; c < end; ++c) {
        const ChunkNo chunk = media::first_chunk(number) + c;
        if (summary->kind[c] != static_cast<std::uint8_t>(ChunkKind::free) ||
            summary->inode_map[c].get() != 0 || TRY(home_bits(chunk, false)) != Bits{} ||
            TRY(home_bits(chunk, true)) != Bits{})
            return corrupt("a group has chunks in use behind its end");
    }
    return {};
}

Result<> SpaceMap::grow(std::uint64_t blocks) {
    const GroupNo before = end_group(), after(media::group_count(blocks));
    for (GroupNo g = before; g < after; ++g) TRY(read_summary(g));
    lengthen_group(before - 1, static_cast<std::uint32_t>(media::group_chunks(blocks, before - 1)));
    set_groups(media::group_count(blocks));
    for (GroupNo g = before; g < after; ++g) add_group(g, *TRY(read_summary(g)), blocks);
    return {};
}

void SpaceMap::lengthen_group(GroupNo number, std::uint32_t chunks) {
    Group &group = group_at(number);
    const std::uint32_t before = group.chunk_count, more = chunks - before;
    group.chunk_count = chunks;
    group.free_chunks += more;
    free_ += more * kChunkBlocks;
    free_chunks_ += more;
    note_counts(number);
    if (!group.chunks) return with_free_.set(number, group.free_chunks != 0);
    auto longer = std::make_unique<Chunk[]>(chunks);
    std::copy_n(group.chunks.get(), before, longer.get());
    group.chunks = std::move(longer);
    for (std::uint32_t c = before; c < chunks; ++c) {
        group.chunks[c].free = kChunkBlocks;
        index_home(media::first_chunk(number) + c);
    }
}

Result<const media::Summary *> SpaceMap::read_summary(GroupNo group) {
    const auto layout = media::layout_of(group);
    auto found = journal_.blocks().get(layout.summary_a, Magic::summary);
    if (!found.ok() && is_damage(found.error()))
        found = journal_.blocks().get(layout.summary_b, Magic::summary);
    if (!found.ok() && !is_damage(found.error())) return found.error();
    if (!found.ok())
        return corrupt(
            "both summaries of an allocation group are damaged (-o ro mounts the volume)");
    return reinterpret_cast<const media::Summary *>(found.value());
}

std::uint64_t SpaceMap::chunk_count() const {
    return superblock_.block_count.get() / kChunkBlocks;
}

SpaceMap::Chunk &SpaceMap::chunk_at(ChunkNo chunk) {
    Group &group = group_at(media::group_of(chunk));
    PMFS_ASSERT(group.chunks && media::index_in_group(chunk) < group.chunk_count);
    return group.chunks[media::index_in_group(chunk)];
}

Result<const SpaceMap::Chunk *> SpaceMap::chunk(ChunkNo chunk) {
    if (chunk >= end_chunk()) return Error(ENOENT, "there is no chunk with that number");
    TRY(load(media::group_of(chunk)));
    return &chunk_at(chunk);
}

Result<Bits> SpaceMap::home_bits(ChunkNo chunk, bool classes) {
    const auto *bitmap = reinterpret_cast<const media::BitmapBlock *>(
        TRY(journal_.blocks().get(bitmap_block(chunk, classes), Magic::bitmap)));
    return bits_of(*bitmap, chunk);
}

// The same as the change sees them.
Result<Bits> SpaceMap::bits_in(Change &change, ChunkNo chunk, bool classes) {
    return bits_of(*TRY(change.tx().read<media::BitmapBlock>(bitmap_block(chunk, classes),
                                                             Magic::bitmap, row_lines(chunk))),
                   chunk);
}

// Reads a group's bitmaps, once.  Counts that disagree with the summary are EUCLEAN: nothing is
// allocated from a group whose counts are wrong.
Result<> SpaceMap::load(GroupNo number) {
    Group &group = group_at(number);
    if (group.chunks) return {};
    const media::Summary *summary = TRY(read_summary(number));
    auto chunks = std::make_unique<Chunk[]>(group.chunk_count);
    std::uint32_t partial = 0;
    for (std::uint32_t c = 0; c < group.chunk_count; ++c) {
        const ChunkNo chunk = media::first_chunk(number) + c;
        const Bits used = TRY(home_bits(chunk, false)), classes = TRY(home_bits(chunk, true));
        bool subset = true;
        for (std::size_t i = 0; i < used.size(); ++i) subset &= (classes[i] & ~used[i]) == 0;
        const ChunkKind kind = used == Bits{}      ? ChunkKind::free
                               : classes == Bits{} ? ChunkKind::data
                               : classes == used   ? ChunkKind::meta
                                                   : ChunkKind::mixed;
        if (!subset || summary->kind[c] != static_cast<std::uint8_t>(kind))
            return corrupt("a group's bitmaps and its summary disagree");
        chunks[c].free = static_cast<std::uint16_t>(kChunkBlocks - count_bits(used));
        chunks[c].kind = kind;
        chunks[c].inodes = summary->inode_map[c].get() != 0;
        chunks[c].was_meta = classes != Bits{};
        if (kind != ChunkKind::free) partial += chunks[c].free;
    }
    if (partial != group.partial_free) return corrupt("a group's bitmaps and its summary disagree");
    TRY(check_fixed(number, *summary));
    group.chunks = std::move(chunks);
    for (std::uint32_t c = 0; c < group.chunk_count; ++c) {
        set_bit(group.free_inodes, c, group.chunks[c].inodes);
        index_home(media::first_chunk(number) + c);
    }
    index_group(number);
    return {};
}

// Blocks with a fixed use are never free: otherwise they would be allocated and overwritten.
Result<> SpaceMap::check_fixed(GroupNo number, const media::Summary &summary) {
    const auto layout = media::layout_of(number);
    const auto check = [&](BlockNo from, BlockNo end) -> Result<> {
        for (BlockNo at = from; at < end; ++at)
            for (const bool classes : {false, true})
                if (!bit_at(TRY(home_bits(media::chunk_of(at), classes)),
                            media::index_in_chunk(at)))
                    return corrupt("a bitmap marks a block free that has a fixed use");
        return {};
    };
    TRY(check(layout.superblock, layout.end));
    if (summary.inode_map[0].get() != layout.inode_map - layout.superblock + 1)
        return corrupt("a group's own inode map is not in its place");
    if (number != GroupNo(0)) return {};
    const std::uint64_t journal = superblock_.journal_start.get();
    TRY(check(BlockNo(journal),
              BlockNo(media::fixed_end(journal, superblock_.journal_blocks.get()))));
    const BlockNo copy(superblock_.copy_block.get());
    return copy == BlockNo(0) ? Result<>() : check(copy, copy + 1);
}

const Bits *SpaceMap::held_of(ChunkNo chunk) const {
    const auto found = held_.find(chunk);
    return found == held_.end() ? nullptr : &found->second;
}

Result<Bits> SpaceMap::available(Change *change, ChunkNo chunk) {
    TRY(load(media::group_of(chunk)));
    Bits bits =
        change == nullptr ? TRY(home_bits(chunk, false)) : TRY(bits_in(*change, chunk, false));
    const Bits *held = held_of(chunk);
    for (std::size_t i = 0; i < bits.size(); ++i)
        bits[i] = ~bits[i] & (held == nullptr ? ~std::uint64_t{0} : ~(*held)[i]);
    return bits;
}

void SpaceMap::account(ChunkNo chunk, std::int32_t free, ChunkKind kind) {
    Group &group = group_at(media::group_of(chunk));
    Chunk &c = chunk_at(chunk);
    const auto count = [&](bool add) {
        std::uint32_t &counter = c.kind == ChunkKind::free ? group.free_chunks : group.partial_free;
        const std::uint32_t n = c.kind == ChunkKind::free ? 1 : c.free;
        counter = add ? counter + n : counter - n;
        if (c.kind == ChunkKind::free) free_chunks_ += add ? 1 : ~std::uint64_t{0};
    };
    count(false);
    c.free = static_cast<std::uint16_t>(c.free + free);
    c.kind = kind;
    count(true);
    free_ += static_cast<std::uint64_t>(static_cast<std::int64_t>(free));
    note_counts(media::group_of(chunk));
}

void SpaceMap::note_counts(GroupNo number) {
    with_partial_.set(number, group_at(number).partial_free != 0);
    with_whole_.set(number, group_at(number).free_chunks != 0);
}

Result<> SpaceMap::write_summary(Change &change, ChunkNo chunk) {
    const Group &group = group_at(media::group_of(chunk));
    const auto kind = static_cast<std::uint8_t>(chunk_at(chunk).kind);
    const std::size_t at = offsetof(media::Summary, kind) + media::index_in_group(chunk);
    return edit_summary(change, media::group_of(chunk), journal::lines_of(at, 1),
                        [&](media::Summary *s) {
                            s->partial_free.set(group.partial_free);
                            s->kind[media::index_in_group(chunk)] = kind;
                        });
}

Result<> SpaceMap::edit_bits(Change &change, ChunkNo chunk, const Bits &bits, bool take) {
    auto *bitmap = TRY(change.tx().edit<media::BitmapBlock>(bitmap_block(chunk, false),
                                                            Magic::bitmap, row_lines(chunk)));
    auto &row = bitmap->bits[media::bitmap_row(chunk)];
    for (std::size_t i = 0; i < bits.size(); ++i) {
        const std::uint64_t was = row[i].get();
        if ((was & bits[i]) != (take ? 0 : bits[i]))
            return corrupt("a block is freed twice, or allocated while in use");
        row[i].set(was ^ bits[i]);
    }
    return {};
}

Result<> SpaceMap::take(Change &change, ChunkNo chunk, const Bits &bits, Use use) {
    const bool meta = use == Use::meta;
    TRY(load(media::group_of(chunk)));
    Chunk &c = chunk_at(chunk);
    TRY(edit_bits(change, chunk, bits, true));
    if (meta) {
        auto *classes = TRY(change.tx().edit<media::BitmapBlock>(bitmap_block(chunk, true),
                                                                 Magic::bitmap, row_lines(chunk)));
        for (std::size_t i = 0; i < bits.size(); ++i) {
            media::le64 &word = classes->bits[media::bitmap_row(chunk)][i];
            word.set(word.get() | bits[i]);
        }
        c.was_meta = true;
    } else if (c.was_meta) {
        for (BitRun r = next_run(bits, 0); r.length != 0; r = next_run(bits, r.start + r.length))
            for (unsigned i = r.start; i < r.start + r.length; ++i)
                journal_.forget_block(media::first_block(chunk) + i);
    }
    const ChunkKind own = meta ? ChunkKind::meta : ChunkKind::data;
    const auto n = static_cast<std::int32_t>(count_bits(bits));
    undo_.push_back(
        {chunk, -n, c.kind, c.inodes, false, Bits{}, use == Use::reserved ? bits : Bits{}});
    account(chunk, -n, c.kind == ChunkKind::free || c.kind == own ? own : ChunkKind::mixed);
    index(chunk, TRY(available(&change, chunk)));
    return write_summary(change, chunk);
}

// True when some of the bits were metadata.
Result<bool> SpaceMap::clear_classes(Change &change, ChunkNo chunk, const Bits &bits) {
    if (chunk_at(chunk).kind == ChunkKind::data) return false;
    const Bits classes = TRY(bits_in(change, chunk, true));
    bool any = false;
    for (std::size_t i = 0; i < bits.size(); ++i) any |= (classes[i] & bits[i]) != 0;
    if (!any) return false;
    auto *copy = TRY(change.tx().edit<media::BitmapBlock>(bitmap_block(chunk, true), Magic::bitmap,
                                                          row_lines(chunk)));
    for (std::size_t i = 0; i < bits.size(); ++i)
        copy->bits[media::bitmap_row(chunk)][i].set(classes[i] & ~bits[i]);
    return true;
}

// The kind of the chunk after its bits were edited.
Result<ChunkKind> SpaceMap::kind_without(Change &change, ChunkNo chunk, const Bits &gone) {
    const Chunk &c = chunk_at(chunk);
    if (c.free + count_bits(gone) == kChunkBlocks) return ChunkKind::free;
    if (c.kind != ChunkKind::mixed) return c.kind;
    const Bits classes = TRY(bits_in(change, chunk, true));
    if (classes == Bits{}) return ChunkKind::data;
    return classes == TRY(bits_in(change, chunk, false)) ? ChunkKind::meta : ChunkKind::mixed;
}

Result<> SpaceMap::give(Change &change, ChunkNo chunk, const Bits &bits) {
    TRY(load(media::group_of(chunk)));
    Chunk &c = chunk_at(chunk);
    TRY(edit_bits(change, chunk, bits, false));
    const bool meta = TRY(clear_classes(change, chunk, bits));
    const ChunkKind kind = TRY(kind_without(change, chunk, bits));
    const auto n = static_cast<std::int32_t>(count_bits(bits));
    undo_.push_back({chunk, n, c.kind, c.inodes, meta, bits, Bits{}});
    const bool same = kind == c.kind;
    account(chunk, n, kind);
    hold_bits(chunk, bits);
    // No more can be taken than before: freed blocks are held back.
    if (!same) index(chunk, TRY(available(&change, chunk)));
    return write_summary(change, chunk);
}

std::size_t SpaceMap::blocks_to_give(Change &change, ChunkNo chunk) {
    const auto layout = media::layout_of(media::group_of(chunk));
    std::size_t n = 0;
    for (const BlockNo block : {bitmap_block(chunk, false), bitmap_block(chunk, true),
                                layout.summary_a, layout.summary_b})
        n += change.tx().changes(block) ? 0 : 1;
    return n;
}

Result<> SpaceMap::set_inode_map(Change &change, ChunkNo chunk, std::optional<unsigned> at) {
    TRY(load(media::group_of(chunk)));
    Chunk &c = chunk_at(chunk);
    undo_.push_back({chunk, 0, c.kind, c.inodes, false, Bits{}, Bits{}});
    c.inodes = at.has_value();
    const auto value = static_cast<std::uint16_t>(at ? *at + 1 : 0);
    const std::size_t field =
        offsetof(media::Summary, inode_map) + media::index_in_group(chunk) * 2;
    TRY(edit_summary(change, media::group_of(chunk), journal::lines_of(field, 2),
                     [&](media::Summary *s) {
                         s->inode_map[media::index_in_group(chunk)] = media::le16(value);
                     }));
    index(chunk, TRY(available(&change, chunk)));
    return {};
}

Result<> SpaceMap::count_inodes(Change &change, GroupNo group, std::int32_t used,
                                std::int32_t made) {
    pending_used_ += used;
    pending_made_ += made;
    const auto add = [](media::le32 &counter, std::int32_t n) {
        counter.set(counter.get() + static_cast<std::uint32_t>(n));
    };
    return edit_summary(change, group, 0, [&](media::Summary *s) {
        add(s->inodes_used, used);
        add(s->inodes_made, made);
    });
}

std::optional<ChunkNo> SpaceMap::inode_hint(GroupNo group) const {
    const BitRun found = next_run(group_at(group).free_inodes, 0);
    if (found.length == 0) return std::nullopt;
    return media::first_chunk(group) + found.start;
}

void SpaceMap::has_free_inode(ChunkNo chunk, bool has) {
    const GroupNo group = media::group_of(chunk);
    set_bit(group_at(group).free_inodes, media::index_in_group(chunk), has);
    if (has) with_inodes_.set(group, true);
}

void SpaceMap::set_listed(GroupNo group, bool orphans, bool listed) {
    GroupSet &groups = list_groups(orphans);
    relisted_.push_back({group, orphans, groups.has(group), listed});
    if (listed) groups.set(group, true);
}

void SpaceMap::tx_committed(TxSeq seq) {
    for (const Listed &one : relisted_) list_groups(one.orphans).set(one.group, one.listed);
    relisted_.clear();
    const bool frees =
        std::any_of(undo_.begin(), undo_.end(), [](const Undo &u) { return u.held != Bits{}; });
    const std::uint64_t epoch = frees && readers_ != nullptr ? readers_->advance() : 0;
    for (const Undo &u : undo_) {
        if (u.reserved != Bits{}) unhold(u.chunk, u.reserved);
        if (u.held == Bits{}) continue;
        freed_ += static_cast<std::uint64_t>(u.free);
        if (!held_queue_.empty() && held_queue_.back().seq == seq &&
            held_queue_.back().chunk == u.chunk)
            for (std::size_t i = 0; i < u.held.size(); ++i) held_queue_.back().bits[i] |= u.held[i];
        else
            held_queue_.push_back({seq, epoch, u.chunk, u.held});
        if (!u.freed_meta) continue;
        meta_freed_[u.chunk] = seq;
        set_bit(group_at(media::group_of(u.chunk)).blocked, media::index_in_group(u.chunk), true);
    }
    undo_.clear();
    inodes_used_ += static_cast<std::uint64_t>(std::exchange(pending_used_, 0));
    inodes_made_ += static_cast<std::uint64_t>(std::exchange(pending_made_, 0));
    release_held();
}

void SpaceMap::tx_aborted() {
    for (; !relisted_.empty(); relisted_.pop_back())
        list_groups(relisted_.back().orphans).set(relisted_.back().group, relisted_.back().before);
    for (std::size_t i = undo_.size(); i-- > 0;) {
        const Undo &u = undo_[i];
        account(u.chunk, -u.free, u.old_kind);
        chunk_at(u.chunk).inodes = u.old_inodes;
        if (u.held != Bits{}) unhold(u.chunk, u.held);
    }
    for (const Undo &u : undo_) index_home(u.chunk);
    undo_.clear();
    pending_used_ = pending_made_ = 0;
}

void SpaceMap::hold_bits(ChunkNo chunk, const Bits &bits) {
    Bits &held = held_[chunk];
    const unsigned before = count_bits(held);
    for (std::size_t i = 0; i < bits.size(); ++i) held[i] |= bits[i];
    held_total_ += count_bits(held) - before;
}

void SpaceMap::hold(ChunkNo chunk, const Bits &bits) {
    hold_bits(chunk, bits);
    index_home(chunk);
}

void SpaceMap::unhold(ChunkNo chunk, const Bits &bits) {
    const auto found = held_.find(chunk);
    if (found == held_.end()) return;
    const unsigned before = count_bits(found->second);
    for (std::size_t i = 0; i < bits.size(); ++i) found->second[i] &= ~bits[i];
    const unsigned left = count_bits(found->second);
    held_total_ -= before - left;
    if (left == 0) held_.erase(found);
    index_home(chunk);
}

void SpaceMap::release_held() {
    const TxSeq durable = journal_.durable();
    const std::uint64_t oldest =
        readers_ != nullptr && !held_queue_.empty() ? readers_->oldest() : ~std::uint64_t{0};
    while (!held_queue_.empty() && held_queue_.front().seq <= durable &&
           held_queue_.front().epoch < oldest) {
        unhold(held_queue_.front().chunk, held_queue_.front().bits);
        held_queue_.pop_front();
    }
    held_count_.store(held_queue_.size(), std::memory_order_relaxed);
    const TxSeq checkpointed = journal_.checkpointed();
    if (meta_freed_.empty() || checkpointed == unblocked_) return;
    unblocked_ = checkpointed;
    std::erase_if(meta_freed_, [&](const auto &one) {
        if (one.second > checkpointed) return false;
        set_bit(group_at(media::group_of(one.first)).blocked, media::index_in_group(one.first),
                false);
        return true;
    });
}

bool SpaceMap::settle_meta() {
    if (meta_freed_.empty() || journal_.region().is_image()) return false;
    journal_.settle_tail();
    release_held();
    return meta_freed_.empty();
}

}  // namespace pmfs::core
