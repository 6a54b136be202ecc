// What is in use: bitmaps and summaries, held-back blocks, and undoing (see alloc.h).
#include <algorithm>
#include <bit>

#include "base/assert.h"
#include "core/alloc.h"
#include "media/geometry.h"

namespace pmfs::core {

using media::ChunkKind;
using media::kBitmapChunks;
using media::kChunkBlocks;
using media::kGroupBlocks;
using media::kGroupChunks;
using media::Magic;

namespace {

unsigned count_bits(const std::array<std::uint64_t, 8> &bits) {
    unsigned n = 0;
    for (const std::uint64_t word : bits) n += static_cast<unsigned>(std::popcount(word));
    return n;
}
BlockNo bitmap_block(const media::GroupLayout &layout, std::uint64_t chunk_in_group) {
    return BlockNo(layout.bitmaps + media::bitmap_index(chunk_in_group));
}

}  // namespace

Allocator::Allocator(journal::Journal &journal, const media::Superblock &superblock)
    : journal_(journal), superblock_(superblock) {}

Result<std::unique_ptr<Allocator>> Allocator::open(journal::Journal &journal,
                                                   const media::Superblock &superblock) {
    std::unique_ptr<Allocator> a(new Allocator(journal, superblock));
    const std::uint64_t blocks = superblock.block_count.get();
    a->groups_.resize(media::group_count(blocks));
    for (std::uint64_t g = 0; g < a->groups_.size(); ++g) {
        const auto layout = media::layout_of(blocks, g);
        auto found = journal.blocks().get(BlockNo(layout.summary_a), Magic::summary);
        if (!found.ok()) found = journal.blocks().get(BlockNo(layout.summary_b), Magic::summary);
        if (!found.ok()) return corrupt("both summaries of an allocation group are damaged");
        const auto *summary = reinterpret_cast<const media::Summary *>(found.value());
        Group &group = a->groups_[g];
        group.chunk_count = static_cast<std::uint32_t>(media::group_chunks(blocks, g));
        group.free_chunks = summary->free_chunks.get();
        group.meta_free = summary->meta_free.get();
        group.data_free = summary->data_free.get();
        a->free_chunks_ += group.free_chunks;
        a->meta_free_ += group.meta_free;
        a->data_free_ += group.data_free;
    }
    return a;
}

Allocator::Chunk &Allocator::chunk_of(std::uint64_t chunk) {
    Group &group = groups_[chunk / kGroupChunks];
    PMFS_ASSERT(group.chunks && chunk % kGroupChunks < group.chunk_count);
    return group.chunks[chunk % kGroupChunks];
}

// Reads a group's bitmaps, once.  Counts that disagree with the summary are EUCLEAN: nobody may
// allocate from a group whose bookkeeping is wrong.
Result<Allocator::Group *> Allocator::load(std::uint64_t number) {
    Group &group = groups_[number];
    if (group.chunks) return &group;
    const auto layout = media::layout_of(superblock_.block_count.get(), number);
    auto found = journal_.blocks().get(BlockNo(layout.summary_a), Magic::summary);
    if (!found.ok()) found = journal_.blocks().get(BlockNo(layout.summary_b), Magic::summary);
    const auto *summary = reinterpret_cast<const media::Summary *>(TRY(std::move(found)));

    auto chunks = std::make_unique<Chunk[]>(group.chunk_count);
    std::uint64_t free[3] = {};
    for (std::uint64_t i = 0; i < group.chunk_count; ++i) {
        const auto *bitmap = reinterpret_cast<const media::BitmapBlock *>(
            TRY(journal_.blocks().get(bitmap_block(layout, i), Magic::bitmap)));
        unsigned used = 0;
        for (const media::le64 &word : bitmap->bits[media::bitmap_row(i)])
            used += static_cast<unsigned>(std::popcount(word.get()));
        chunks[i].free = static_cast<std::uint16_t>(kChunkBlocks - used);
        if (summary->kind[i] > 2) return corrupt("a chunk is of a kind that does not exist");
        chunks[i].kind = static_cast<ChunkKind>(summary->kind[i]);
        free[summary->kind[i]] += chunks[i].kind == ChunkKind::free ? 1 : chunks[i].free;
        if (chunks[i].kind == ChunkKind::free && used != 0)
            return corrupt("a free chunk has blocks in use");
        // Emptied before this mount, whose replay is over.
        if (empty_meta(chunks[i])) emptied_meta_[number * kGroupChunks + i] = TxSeq(0);
    }
    if (free[0] != group.free_chunks || free[1] != group.meta_free || free[2] != group.data_free)
        return corrupt("a group's bitmaps and its summary disagree");
    TRY(check_fixed(number, *summary));
    for (std::uint64_t i = 0; i < group.chunk_count; ++i)
        if (empty_meta(chunks[i])) empty_meta_chunks_.fetch_add(1, std::memory_order_relaxed);
    group.chunks = std::move(chunks);
    return &group;
}

// What has a fixed place is never free: else it would be given out, and overwritten.
Result<> Allocator::check_fixed(std::uint64_t number, const media::Summary &summary) {
    const std::uint64_t blocks = superblock_.block_count.get();
    const auto layout = media::layout_of(blocks, number);
    const auto check = [&](std::uint64_t from, std::uint64_t end, ChunkKind kind) -> Result<> {
        for (std::uint64_t at = from; at < end; ++at) {
            const std::uint64_t chunk = at / kChunkBlocks % kGroupChunks;
            const auto *bitmap = reinterpret_cast<const media::BitmapBlock *>(
                TRY(journal_.blocks().get(bitmap_block(layout, chunk), Magic::bitmap)));
            const std::uint64_t word =
                bitmap->bits[media::bitmap_row(chunk)][at % kChunkBlocks / 64].get();
            if ((word >> (at % 64) & 1) == 0 ||
                summary.kind[chunk] != static_cast<std::uint8_t>(kind))
                return corrupt("a bitmap calls a block free that never is");
        }
        return {};
    };
    TRY(check(layout.superblock, layout.end, ChunkKind::meta));
    if (number != 0) return {};
    TRY(check(superblock_.state_block[0].get(),
              media::fixed_end(superblock_.journal_start.get(), superblock_.journal_blocks.get()),
              ChunkKind::meta));
    const std::uint64_t copy = superblock_.copy_block.get();
    return copy == 0 ? Result<>() : check(copy, copy + 1, ChunkKind::data);
}

Result<Allocator::Bits> Allocator::available_bits(Change &change, std::uint64_t chunk) {
    const auto layout = media::layout_of(superblock_.block_count.get(), chunk / kGroupChunks);
    const std::uint64_t index = chunk % kGroupChunks;
    const auto *bitmap =
        TRY(change.tx().read<media::BitmapBlock>(bitmap_block(layout, index), Magic::bitmap));
    Bits bits;
    for (std::size_t i = 0; i < bits.size(); ++i)
        bits[i] = ~bitmap->bits[media::bitmap_row(index)][i].get();
    if (const auto held = held_.find(chunk); held != held_.end())
        for (std::size_t i = 0; i < bits.size(); ++i) bits[i] &= ~held->second[i];
    return bits;
}

void Allocator::account(std::uint64_t chunk, std::int64_t free, ChunkKind kind) {
    Group &group = groups_[chunk / kGroupChunks];
    Chunk &c = chunk_of(chunk);
    const auto add = [&](std::int64_t sign) {
        const std::int64_t n = c.kind == ChunkKind::free ? sign : sign * c.free;
        std::uint32_t &count = c.kind == ChunkKind::free   ? group.free_chunks
                               : c.kind == ChunkKind::meta ? group.meta_free
                                                           : group.data_free;
        std::atomic<std::uint64_t> &total = c.kind == ChunkKind::free   ? free_chunks_
                                            : c.kind == ChunkKind::meta ? meta_free_
                                                                        : data_free_;
        count = static_cast<std::uint32_t>(count + n);
        total.fetch_add(static_cast<std::uint64_t>(n), std::memory_order_relaxed);
        if (empty_meta(c))
            empty_meta_chunks_.fetch_add(static_cast<std::uint64_t>(sign),
                                         std::memory_order_relaxed);
    };
    add(-1);
    c.free = static_cast<std::uint16_t>(c.free + free);
    c.kind = kind;
    add(+1);
}

Result<> Allocator::write_summary(Change &change, std::uint64_t chunk) {
    const std::uint64_t number = chunk / kGroupChunks;
    const Group &group = groups_[number];
    const auto layout = media::layout_of(superblock_.block_count.get(), number);
    const BlockNo place[2] = {BlockNo(layout.summary_a), BlockNo(layout.summary_b)};
    for (int i = 0; i < 2; ++i) {
        auto *s = TRY(change.edit_copy<media::Summary>(place[i], place[1 - i], Magic::summary));
        s->free_chunks.set(group.free_chunks);
        s->meta_free.set(group.meta_free);
        s->data_free.set(group.data_free);
        s->kind[chunk % kGroupChunks] = static_cast<std::uint8_t>(chunk_of(chunk).kind);
    }
    return {};
}

// Sets (take) or clears bits of one chunk, which becomes of `kind`.
Result<> Allocator::edit_bits(Change &change, std::uint64_t chunk, const Bits &bits, bool take,
                              ChunkKind kind) {
    const std::uint64_t index = chunk % kGroupChunks;
    const auto layout = media::layout_of(superblock_.block_count.get(), chunk / kGroupChunks);
    auto *bitmap =
        TRY(change.tx().edit<media::BitmapBlock>(bitmap_block(layout, index), Magic::bitmap));
    auto &row = bitmap->bits[media::bitmap_row(index)];
    for (std::size_t i = 0; i < bits.size(); ++i) {
        const std::uint64_t was = row[i].get();
        if ((was & bits[i]) != (take ? 0 : bits[i]))
            return corrupt("a block is freed twice, or taken while in use");
        row[i].set(was ^ bits[i]);
    }
    const auto n = static_cast<std::int32_t>(count_bits(bits));
    undo_.push_back({chunk, take ? -n : n, chunk_of(chunk).kind, take ? Bits{} : bits, Bits{}});
    account(chunk, take ? -n : n, kind);
    if (kind == ChunkKind::free) chunk_of(chunk).reserved_for = 0;
    if (!take) hold(chunk, bits);
    return write_summary(change, chunk);
}

void Allocator::hold(std::uint64_t chunk, const Bits &bits) {
    Bits &held = held_[chunk];
    for (std::size_t i = 0; i < bits.size(); ++i) held[i] |= bits[i];
    chunk_of(chunk).held = static_cast<std::uint16_t>(count_bits(held));
}

void Allocator::unhold(std::uint64_t chunk, const Bits &bits) {
    const auto found = held_.find(chunk);
    if (found == held_.end()) return;
    for (std::size_t i = 0; i < bits.size(); ++i) found->second[i] &= ~bits[i];
    const unsigned left = count_bits(found->second);
    chunk_of(chunk).held = static_cast<std::uint16_t>(left);
    if (left == 0) held_.erase(found);
}

// Calls `what` with each chunk that the run reaches into, and the bits of its blocks there.
template <class F>
Result<> Allocator::by_chunk(Run run, F what) {
    const std::uint64_t end = run.start + run.blocks;
    for (std::uint64_t at = run.start; at < end;) {
        const std::uint64_t chunk = at / kChunkBlocks;
        const std::uint64_t to = std::min(end, (chunk + 1) * kChunkBlocks);
        Bits bits{};
        for (; at < to; ++at) bits[at % kChunkBlocks / 64] |= std::uint64_t{1} << (at % 64);
        TRY(what(chunk, bits));
    }
    return {};
}

// Finds them as a transaction would, which is then dropped.
Result<Run> Allocator::reserve_data(const Goal &goal, std::uint64_t blocks) {
    Core core{journal_, superblock_, *this};
    Run run;
    bool begins = false;
    for (bool reclaimed = false; run.blocks == 0; reclaimed = true) {
        Change change(core);
        TRY(change.begin());
        run = TRY(take_somewhere(change, goal, blocks));
        if (run.blocks == 0) {
            if (reclaimed || !TRY(reclaim_meta_chunk(change))) return no_space();
            TRY(change.commit());
            continue;
        }
        begins = goal.large && goal.owner != 0 &&
                 chunk_of(run.start / kChunkBlocks).reserved_for == goal.owner;
    }
    if (begins) begun_[run.start] = goal.owner;
    TRY(by_chunk(run, [this](std::uint64_t chunk, const Bits &bits) -> Result<> {
        hold(chunk, bits);
        return {};
    }));
    return run;
}

Result<> Allocator::take_reserved(Change &change, Run run) {
    TRY(by_chunk(run, [&](std::uint64_t chunk, const Bits &bits) -> Result<> {
        TRY(edit_bits(change, chunk, bits, true, ChunkKind::data));
        undo_.back().reserved = bits;
        return {};
    }));
    const auto begun = begun_.find(run.start);
    if (begun == begun_.end()) return {};
    for (std::uint64_t c = run.start / kChunkBlocks;
         c <= (run.start + run.blocks - 1) / kChunkBlocks; ++c) {
        if (chunk_of(c).free == 0 || chunk_of(c).reserved_for != 0) continue;
        chunk_of(c).reserved_for = begun->second;
        reserved_[begun->second].push_back(c);
    }
    begun_.erase(begun);
    reservations_.store(reserved_.size(), std::memory_order_release);
    return {};
}

void Allocator::cancel_reserved(Run run) {
    begun_.erase(run.start);
    (void)by_chunk(run, [this](std::uint64_t chunk, const Bits &bits) -> Result<> {
        unhold(chunk, bits);
        return {};
    }).ok();
}

Run Allocator::piece(Run run) const {
    const std::uint64_t chunk = run.start / kChunkBlocks % kGroupChunks;
    const std::uint64_t group_end = (group_of(run.start) + 1) * kGroupBlocks;
    const std::uint64_t bitmap_end =
        group_of(run.start) * kGroupBlocks +
        (media::bitmap_index(chunk) + 1) * kBitmapChunks * kChunkBlocks;
    const std::uint64_t end = std::min({run.start + run.blocks, bitmap_end, group_end});
    return {run.start, end - run.start};
}

Run Allocator::tail_piece(Run run) const {
    Run last{run.start + run.blocks - 1, 1};
    const std::uint64_t chunk = last.start / kChunkBlocks % kGroupChunks;
    const std::uint64_t bitmap_start = group_of(last.start) * kGroupBlocks +
                                       media::bitmap_index(chunk) * kBitmapChunks * kChunkBlocks;
    const std::uint64_t start = std::max(run.start, bitmap_start);
    return {start, run.start + run.blocks - start};
}

std::size_t Allocator::blocks_to_give_back(Change &change, Run run) const {
    const std::uint64_t total = superblock_.block_count.get();
    if (run.start >= total) return 0;  // give_back() will say so
    const auto layout = media::layout_of(total, group_of(run.start));
    const std::uint64_t index = run.start / kChunkBlocks % kGroupChunks;
    std::size_t n = 0;
    for (const BlockNo block :
         {bitmap_block(layout, index), BlockNo(layout.summary_a), BlockNo(layout.summary_b)})
        n += change.tx().changes(block) ? 0 : 1;
    return n;
}

Result<> Allocator::give_back(Change &change, Run run) {
    const std::uint64_t total = superblock_.block_count.get();
    if (run.blocks == 0 || run.start >= total || run.blocks > total - run.start)
        return corrupt("an extent points past the end of the volume");
    TRY(load(group_of(run.start)));
    const std::uint64_t end = run.start + run.blocks;
    for (std::uint64_t at = run.start; at < end;) {
        const std::uint64_t chunk = at / kChunkBlocks;
        const std::uint64_t to = std::min(end, (chunk + 1) * kChunkBlocks);
        Bits bits{};
        for (; at < to; ++at) bits[at % kChunkBlocks / 64] |= std::uint64_t{1} << (at % 64);
        if (!quarantine_.empty()) {
            quarantine_.strike(chunk * kChunkBlocks, bits);
            if (bits == Bits{}) continue;
        }
        const Chunk &c = chunk_of(chunk);
        const bool empties = c.free + count_bits(bits) == kChunkBlocks;
        const ChunkKind kind = empties && c.kind == ChunkKind::data ? ChunkKind::free : c.kind;
        TRY(edit_bits(change, chunk, bits, false, kind));
    }
    return {};
}

void Allocator::find_empty_meta() {
    for (std::uint64_t g = 0; g < groups_.size(); ++g)
        if (!groups_[g].chunks && groups_[g].meta_free >= kChunkBlocks && !load(g).ok())
            continue;  // damaged: nothing is to be had there
}

// Makes an empty metadata chunk a free one, if no record that touches it can be replayed.
Result<bool> Allocator::reclaim_meta_chunk(Change &change) {
    find_empty_meta();
    for (auto it = emptied_meta_.begin(); it != emptied_meta_.end();) {
        const auto [chunk, seq] = *it;
        const Chunk &c = chunk_of(chunk);
        if (!empty_meta(c)) {
            it = emptied_meta_.erase(it);
            continue;
        }
        if (c.held == 0 && journal_.checkpointed() < seq) journal_.settle_tail();
        if (c.held != 0 || journal_.checkpointed() < seq) {
            ++it;
            continue;
        }
        undo_.push_back({chunk, 0, ChunkKind::meta, Bits{}, Bits{}});
        account(chunk, 0, ChunkKind::free);
        TRY(write_summary(change, chunk));
        for (std::uint64_t i = 0; i < kChunkBlocks; ++i)
            journal_.forget_block(BlockNo(chunk * kChunkBlocks + i));
        emptied_meta_.erase(it);
        return true;
    }
    return false;
}

void Allocator::release_reservation(std::uint64_t owner) {
    const auto found = reserved_.find(owner);
    if (found == reserved_.end()) return;
    for (const std::uint64_t chunk : found->second)  // some may have been freed and reserved anew
        if (chunk_of(chunk).reserved_for == owner) chunk_of(chunk).reserved_for = 0;
    reserved_.erase(found);
    reservations_.store(reserved_.size(), std::memory_order_release);
}

void Allocator::tx_committed(TxSeq seq) {
    bool freed = false;
    for (const Undo &u : undo_) freed = freed || u.held != Bits{};
    const std::uint64_t epoch = freed && readers_ != nullptr ? readers_->advance() : 0;
    for (const Undo &u : undo_) {
        if (u.held != Bits{}) held_queue_.push_back({seq, epoch, u.chunk, u.held});
        if (u.reserved != Bits{}) unhold(u.chunk, u.reserved);
        if (empty_meta(chunk_of(u.chunk))) emptied_meta_[u.chunk] = seq;
    }
    undo_.clear();
    release_held();
}

void Allocator::tx_aborted() {
    for (std::size_t i = undo_.size(); i-- > 0;) {
        const Undo &u = undo_[i];
        account(u.chunk, -u.free, u.old_kind);
        if (u.held != Bits{}) unhold(u.chunk, u.held);
        Chunk &c = chunk_of(u.chunk);
        if (c.kind == ChunkKind::free) c.reserved_for = 0;  // reserved by what did not happen
        // reclaim_meta_chunk() may have struck it off; last() is late enough, whenever it emptied.
        if (empty_meta(c)) emptied_meta_.emplace(u.chunk, journal_.last());
    }
    undo_.clear();
}

void Allocator::release_held() {
    if (held_queue_.empty()) return;
    const TxSeq durable = journal_.durable();
    const std::uint64_t oldest = readers_ != nullptr ? readers_->oldest() : ~std::uint64_t{0};
    while (!held_queue_.empty() && held_queue_.front().seq <= durable &&
           held_queue_.front().epoch < oldest) {
        unhold(held_queue_.front().chunk, held_queue_.front().bits);
        held_queue_.pop_front();
    }
    held_count_.store(held_queue_.size(), std::memory_order_relaxed);
}

}  // namespace pmfs::core
