// Space: see space.h.
#include "fsck/space.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "media/geometry.h"
#include "pm/advise.h"

namespace pmfs::fsck {

using namespace media;

namespace {

std::uint64_t ones(std::uint64_t count) {
    return count >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << count) - 1;
}

}  // namespace

Result<> Space::start() {
    TRY(owned_.allocate(divide_up(context_.block_count(), 64)));
    TRY(owned_metadata_.allocate(divide_up(context_.block_count(), 64)));
    groups_.resize(group_count(context_.block_count()));
    const pm::ScatteredAccess scattered(context_.region);
    for (std::uint64_t group = 0; group < groups_.size(); ++group) {
        read_group(group);
        if (context_.give_up()) break;
    }
    claim_fixed();
    return {};
}

void Space::read_group(std::uint64_t group) {
    const GroupLayout layout = layout_of(group);
    const std::uint64_t before = context_.report.found;
    read_summaries(group, layout);
    read_bitmaps(group, layout);
    groups_[group].suspect = context_.report.found != before;
    claim(layout.superblock, layout.end - layout.superblock, BlockClass::metadata, Problem::kNone);
}

void Space::read_bitmaps(std::uint64_t group, const GroupLayout &layout) {
    const auto look = [&](std::uint64_t first) {
        std::uint16_t whole = 0;
        for (std::uint64_t i = 0; i < kBitmapBlocks; ++i)
            if (context_.whole<BitmapBlock>(first + i, Magic::bitmap) != nullptr)
                whole = static_cast<std::uint16_t>(whole | 1u << i);
            else
                context_.found_block(Code::bitmap_damaged, first + i);
        return whole;
    };
    groups_[group].usage_whole = look(layout.bitmaps);
    groups_[group].classes_whole = look(layout.classes);
}

void Space::read_summaries(std::uint64_t group, const GroupLayout &layout) {
    const auto *a = context_.whole<Summary>(layout.summary_a, Magic::summary);
    const auto *b = context_.whole<Summary>(layout.summary_b, Magic::summary);
    if (a == nullptr && b == nullptr) {
        context_.found_block(Code::summary_lost, layout.summary_a, fmt::format("group {}", group));
        return;
    }
    if (a == nullptr || b == nullptr)
        context_.found_block(Code::summary_damaged,
                             a == nullptr ? layout.summary_a : layout.summary_b,
                             fmt::format("group {}", group));
    else if (!std::ranges::equal(content_of(*a), content_of(*b)))
        context_.found_block(Code::summaries_differ, layout.summary_a,
                             fmt::format("group {}", group));
    groups_[group].summary = a != nullptr ? a : b;
    check_summary(group, *groups_[group].summary);
}

void Space::check_summary(std::uint64_t group, const Summary &summary) {
    if (summary.group.get() != group)
        context_.found_block(
            Code::summary_group_wrong, summary.header.self.get(),
            fmt::format("it says {}, its place is group {}", summary.group.get(), group));
    const std::uint64_t chunks = group_chunks(context_.block_count(), group);
    for (std::uint64_t chunk = 0; chunk < kGroupChunks; ++chunk) {
        const auto last =
            static_cast<unsigned>(chunk < chunks ? ChunkKind::mixed : ChunkKind::free);
        if (summary.kind[chunk] <= last) continue;
        context_.found_block(
            Code::chunk_kind_unknown, group_start(group) + chunk * kChunkBlocks,
            fmt::format("kind {} of chunk {}", unsigned{summary.kind[chunk]}, chunk));
    }
}

// The journal; the root's block is claimed with the other blocks of inodes.
void Space::claim_fixed() {
    const Superblock &sb = context_.sb;
    claim(sb.journal_start.get(), sb.journal_blocks.get(), BlockClass::metadata, Problem::kNone);
    if (const std::uint64_t copy = sb.copy_block.get(); copy != 0)
        claim(copy, 1, BlockClass::metadata, Problem::kNone);
}

std::optional<std::uint64_t> Space::word_of(std::uint64_t block, bool classes) const {
    const std::uint64_t group = block / kGroupBlocks;
    const std::uint64_t chunk = block % kGroupBlocks / kChunkBlocks, index = bitmap_index(chunk);
    const unsigned whole = classes ? groups_[group].classes_whole : groups_[group].usage_whole;
    if ((whole >> index & 1) == 0) return std::nullopt;
    const GroupLayout layout = layout_of(group);
    const ConstBytes bytes =
        context_.meta_block((classes ? layout.classes : layout.bitmaps) + index);
    const auto &bitmap = *reinterpret_cast<const BitmapBlock *>(bytes.data());
    return bitmap.bits[bitmap_row(chunk)][block % kChunkBlocks / 64].get();
}

bool Space::may_be_metadata(std::uint64_t block) const {
    const std::uint64_t bit = std::uint64_t{1} << (block % 64);
    return (word_of(block, false).value_or(bit) & bit) != 0 &&
           (word_of(block, true).value_or(bit) & bit) != 0;
}

bool Space::is_metadata(std::uint64_t block) const {
    return (word_of(block, false).value_or(0) & word_of(block, true).value_or(0)) >> block % 64 & 1;
}

void Space::Fault::add(std::uint64_t block, std::uint64_t bits) {
    if (bits == 0) return;
    if (count == 0) first = block / 64 * 64 + static_cast<std::uint64_t>(std::countr_zero(bits));
    count += static_cast<std::uint64_t>(std::popcount(bits));
}

void Space::say(Code code, const Fault &fault, std::uint64_t owner) {
    if (fault.count == 0) return;
    groups_[fault.first / kGroupBlocks].suspect = true;
    context_.found({.code = code,
                    .block = fault.first,
                    .inode = owner,
                    .detail = fault.count == 1 ? "" : fmt::format("and {} more", fault.count - 1)});
}

bool Space::claim(std::uint64_t start, std::uint64_t blocks, BlockClass as, std::uint64_t owner) {
    PMFS_ASSERT(blocks != 0 && start < context_.block_count() &&
                blocks <= context_.block_count() - start);
    const bool metadata = as == BlockClass::metadata;
    Fault twice, wrong;
    bool believed = true;
    for (std::uint64_t at = start, end = start + blocks; at < end;) {
        const std::uint64_t count = std::min(64 - at % 64, end - at);
        const std::uint64_t bits = ones(count) << (at % 64);
        const std::uint64_t fresh = bits & ~owned_[at / 64];
        twice.add(at, bits & ~fresh);
        owned_[at / 64] |= bits;
        if (metadata) owned_metadata_[at / 64] |= fresh;
        if (const auto classes = word_of(at, true)) {
            const std::uint64_t misfits = fresh & (metadata ? ~*classes : *classes);
            believed &= misfits == 0;
            wrong.add(at, misfits & word_of(at, false).value_or(bits));  // otherwise marked free
        }
        at += count;
    }
    context_.report.blocks_used += blocks - twice.count;
    say(Code::block_owned_twice, twice, owner);
    owned_twice_ |= twice.count != 0;
    say(metadata ? Code::metadata_marked_data : Code::data_marked_metadata, wrong, owner);
    return believed && twice.count == 0;
}

Space::Stretch Space::stretch(std::uint64_t start, std::uint64_t end) const {
    PMFS_ASSERT(start < end && end <= context_.block_count());
    const bool owned = (owned_[start / 64] >> (start % 64) & 1) != 0;
    for (std::uint64_t at = start; at < end;) {
        const std::uint64_t word = owned_[at / 64] >> (at % 64);
        const auto same =
            static_cast<std::uint64_t>(owned ? std::countr_one(word) : std::countr_zero(word));
        if (same < 64 - at % 64) return {std::min(at + same, end), owned};
        at += 64 - at % 64;
    }
    return {end, owned};
}

void Space::finish() {
    const pm::ScatteredAccess scattered(context_.region);
    for (std::uint64_t group = 0; group < groups_.size(); ++group) {
        const std::uint64_t before = context_.report.found;
        finish_group(group);
        groups_[group].suspect |= context_.report.found != before;
        if (context_.give_up()) break;
    }
    end_run();
    for (std::uint64_t group = 0; group < groups_.size(); ++group)
        if (groups_[group].suspect) plan(group);
}

void Space::finish_group(std::uint64_t group) {
    const std::uint64_t chunks = group_chunks(context_.block_count(), group);
    const Summary *summary = groups_[group].summary;
    std::uint32_t partial_free = 0;
    for (std::uint64_t chunk = 0; chunk < chunks; ++chunk)
        partial_free += finish_chunk(group * kGroupChunks + chunk, summary);
    finish_past_end(group);
    if (summary == nullptr || groups_[group].usage_whole != ones(kBitmapBlocks)) return;
    if (summary->partial_free.get() != partial_free)
        context_.found_block(Code::summary_count_wrong, layout_of(group).summary_a,
                             fmt::format("group {}: partial_free is {}, should be {}", group,
                                         summary->partial_free.get(), partial_free));
}

void Space::finish_past_end(std::uint64_t group) {
    const GroupLayout layout = layout_of(group);
    const auto any = [&](std::uint64_t chunk, bool classes) {
        for (std::uint64_t i = 0; i < kChunkBlocks; i += 64)
            if (word_of((group * kGroupChunks + chunk) * kChunkBlocks + i, classes).value_or(0))
                return true;
        return false;
    };
    std::uint64_t said = 0;
    for (std::uint64_t chunk = group_chunks(context_.block_count(), group); chunk < kGroupChunks;
         ++chunk)
        for (const bool classes : {false, true}) {
            const std::uint64_t block =
                (classes ? layout.classes : layout.bitmaps) + bitmap_index(chunk);
            if (said == block || !any(chunk, classes)) continue;
            context_.found_block(Code::bits_past_end, block);
            said = block;
        }
}

std::uint32_t Space::finish_chunk(std::uint64_t chunk, const Summary *summary) {
    Seen marked, owned;
    bool known = true;
    std::uint32_t used_blocks = 0;
    for (std::uint64_t i = 0; i < kChunkBlocks; i += 64) {
        const std::uint64_t block = chunk * kChunkBlocks + i;
        const std::uint64_t own = owned_[block / 64], own_metadata = owned_metadata_[block / 64];
        const auto used = word_of(block, false), classes = word_of(block, true);
        owned.add(own, own_metadata);
        known &= used && classes;
        groups_[chunk / kGroupChunks].suspect |= used != own || classes != own_metadata;
        if (!used) continue;
        used_blocks += static_cast<std::uint32_t>(std::popcount(*used));
        if (classes) marked.add(*used, *classes);
        const std::uint64_t stray = classes.value_or(0) & ~*used & ~own;
        if (*used == own && stray == 0) {
            end_run();
            continue;
        }
        compare_bits(block, own & ~*used, Code::block_marked_free);
        if (!context_.lost_owners) compare_bits(block, *used & ~own, Code::block_leaked);
        compare_bits(block, stray, Code::free_block_marked_metadata);
    }
    if (summary != nullptr && known)
        check_kind(chunk, summary->kind[chunk % kGroupChunks], marked, owned);
    return used_blocks == 0 ? 0 : static_cast<std::uint32_t>(kChunkBlocks) - used_blocks;
}

void Space::Seen::add(std::uint64_t used, std::uint64_t classes) {
    metadata |= (used & classes) != 0;
    data |= (used & ~classes) != 0;
}

ChunkKind Space::Seen::kind() const {
    if (metadata) return data ? ChunkKind::mixed : ChunkKind::meta;
    return data ? ChunkKind::data : ChunkKind::free;
}

// A kind that fits the owned blocks is right: then the bits are wrong, and that was reported.
void Space::check_kind(std::uint64_t chunk, std::uint8_t kind, Seen marked, Seen owned) {
    if (kind > static_cast<std::uint8_t>(ChunkKind::mixed)) return;  // reported already
    const auto is = static_cast<ChunkKind>(kind);
    if (is == marked.kind() || (!context_.lost_owners && is == owned.kind())) return;
    context_.found_block(Code::chunk_kind_wrong, chunk * kChunkBlocks,
                         fmt::format("chunk {} is of kind {}, its bits say {}", chunk, kind,
                                     static_cast<unsigned>(marked.kind())));
}

// Adds each run of ones in `wrong`, the bits of 64 blocks from `block` on, to the problems to
// report.
void Space::compare_bits(std::uint64_t block, std::uint64_t wrong, Code code) {
    while (wrong != 0) {
        const auto first = static_cast<std::uint64_t>(std::countr_zero(wrong));
        const auto count = static_cast<std::uint64_t>(std::countr_one(wrong >> first));
        if (run_.blocks == 0 || run_.code != code || run_.start + run_.blocks != block + first) {
            end_run();
            run_ = {code, block + first, 0};
        }
        run_.blocks += count;
        wrong &= ~(ones(count) << first);
    }
}

void Space::end_run() {
    if (run_.blocks != 0)
        context_.found({.code = run_.code, .block = run_.start, .blocks = run_.blocks});
    run_.blocks = 0;
}

}  // namespace pmfs::fsck
