// Space: see space.h.
#include "fsck/space.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "media/geometry.h"
#include "pm/advise.h"

namespace pmfs::fsck {

using namespace media;

namespace {

// What two copies must have in common: all but the header, which says where each one is.
bool same_content(const Summary &a, const Summary &b) {
    constexpr std::size_t skip = sizeof(BlockHeader);
    return std::memcmp(reinterpret_cast<const char *>(&a) + skip,
                       reinterpret_cast<const char *>(&b) + skip, sizeof(Summary) - skip) == 0;
}

std::uint64_t ones(std::uint64_t count) {
    return count >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << count) - 1;
}

}  // namespace

Result<> Space::start() {
    TRY(owned_.allocate(divide_up(context_.block_count(), 64)));
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
    const GroupLayout layout = layout_of(context_.block_count(), group);
    read_summaries(group, layout);
    claim(layout.superblock, layout.end - layout.superblock, ChunkKind::meta, Problem::kNone);
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
    else if (!same_content(*a, *b))
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
        const auto last = static_cast<unsigned>(chunk < chunks ? ChunkKind::data : ChunkKind::free);
        if (summary.kind[chunk] <= last) continue;
        context_.found_block(
            Code::chunk_kind_unknown, group_start(group) + chunk * kChunkBlocks,
            fmt::format("kind {} of chunk {}", unsigned{summary.kind[chunk]}, chunk));
    }
}

void Space::claim_fixed() {
    const Superblock &sb = context_.sb;
    const std::uint64_t start = sb.state_block[0].get();
    claim(start, fixed_end(sb.journal_start.get(), sb.journal_blocks.get()) - start,
          ChunkKind::meta, Problem::kNone);
    if (const std::uint64_t copy = sb.copy_block.get(); copy != 0)
        claim(copy, 1, ChunkKind::data, Problem::kNone);
}

bool Space::kind_known(std::uint64_t chunk, ChunkKind *kind) const {
    const Summary *summary = groups_[chunk / kGroupChunks].summary;
    if (summary == nullptr) return false;
    const std::uint8_t raw = summary->kind[chunk % kGroupChunks];
    if (raw > static_cast<std::uint8_t>(ChunkKind::data)) return false;
    *kind = static_cast<ChunkKind>(raw);
    return true;
}

void Space::check_kinds(std::uint64_t start, std::uint64_t blocks, ChunkKind kind,
                        std::uint64_t owner) {
    for (std::uint64_t chunk = start / kChunkBlocks; chunk <= (start + blocks - 1) / kChunkBlocks;
         ++chunk) {
        ChunkKind is{};
        if (!kind_known(chunk, &is) || is == kind) continue;
        const std::uint64_t from = std::max(start, chunk * kChunkBlocks);
        context_.found({.code = kind == ChunkKind::meta ? Code::metadata_in_wrong_chunk
                                                        : Code::data_in_wrong_chunk,
                        .block = from,
                        .blocks = std::min(start + blocks, (chunk + 1) * kChunkBlocks) - from,
                        .inode = owner,
                        .detail = is == ChunkKind::free ? "the chunk is free" : ""});
    }
}

bool Space::claim(std::uint64_t start, std::uint64_t blocks, ChunkKind kind, std::uint64_t owner) {
    PMFS_ASSERT(blocks != 0 && start < context_.block_count() &&
                blocks <= context_.block_count() - start);
    check_kinds(start, blocks, kind, owner);
    std::uint64_t twice = 0, first_twice = 0;
    for (std::uint64_t at = start, end = start + blocks; at < end;) {
        const std::uint64_t count = std::min(64 - at % 64, end - at);
        const std::uint64_t bits = ones(count) << (at % 64);
        std::uint64_t &word = owned_[at / 64];
        if ((word & bits) != 0) {
            if (twice == 0)
                first_twice =
                    at / 64 * 64 + static_cast<std::uint64_t>(std::countr_zero(word & bits));
            twice += static_cast<std::uint64_t>(std::popcount(word & bits));
        }
        word |= bits;
        at += count;
    }
    context_.report.blocks_used += blocks - twice;
    if (twice == 0) return true;
    context_.found({.code = Code::block_owned_twice,
                    .block = first_twice,
                    .inode = owner,
                    .detail = twice == 1 ? "" : fmt::format("and {} more", twice - 1)});
    return false;
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
        finish_group(group);
        if (context_.give_up()) break;
    }
    end_run();
}

void Space::finish_group(std::uint64_t group) {
    const std::uint64_t chunks = group_chunks(context_.block_count(), group);
    const GroupLayout layout = layout_of(context_.block_count(), group);
    const Summary *summary = groups_[group].summary;
    std::uint32_t free_chunks = 0, meta_free = 0, data_free = 0;
    bool all_known = summary != nullptr;

    const std::uint64_t bitmaps = bitmap_blocks_of(chunks);
    for (std::uint64_t i = 0; i < bitmaps; ++i) {
        const auto *bitmap = context_.whole<BitmapBlock>(layout.bitmaps + i, Magic::bitmap);
        if (bitmap == nullptr) {
            context_.found_block(Code::bitmap_damaged, layout.bitmaps + i);
            all_known = false;
            continue;
        }
        for (std::uint64_t row = 0; row < kBitmapChunks; ++row) {
            const std::uint64_t chunk = i * kBitmapChunks + row;
            if (chunk >= chunks) {
                for (const le64 &word : bitmap->bits[row])
                    if (word.get() != 0) {
                        context_.found_block(Code::bits_past_end, layout.bitmaps + i);
                        break;
                    }
                continue;
            }
            ChunkKind kind{};
            const bool known = kind_known(group * kGroupChunks + chunk, &kind);
            all_known &= known;
            const unsigned used = finish_chunk(group * kGroupChunks + chunk, bitmap->bits[row],
                                               known && kind == ChunkKind::free);
            const auto free = static_cast<std::uint32_t>(kChunkBlocks - used);
            free_chunks += kind == ChunkKind::free;
            if (kind == ChunkKind::meta) meta_free += free;
            if (kind == ChunkKind::data) data_free += free;
        }
    }
    if (!all_known) return;
    const auto compare = [&](const char *what, std::uint32_t says, std::uint32_t is) {
        if (says != is)
            context_.found_block(
                Code::summary_count_wrong, layout.summary_a,
                fmt::format("group {}: {} is {}, should be {}", group, what, says, is));
    };
    compare("free_chunks", summary->free_chunks.get(), free_chunks);
    compare("meta_free", summary->meta_free.get(), meta_free);
    compare("data_free", summary->data_free.get(), data_free);
}

unsigned Space::finish_chunk(std::uint64_t chunk, const le64 (&bits)[8], bool free) {
    unsigned used = 0;
    const std::uint64_t first = chunk * kChunkBlocks;
    for (std::uint64_t i = 0; i < 8; ++i) {
        const std::uint64_t marked = bits[i].get(), owned = owned_[first / 64 + i];
        used += static_cast<unsigned>(std::popcount(marked));
        if (marked == owned) {
            end_run();
            continue;
        }
        compare_bits(first + i * 64, owned & ~marked, Code::block_marked_free);
        if (free)
            compare_bits(first + i * 64, marked & ~owned, Code::free_chunk_in_use);
        else if (!context_.lost_owners)
            compare_bits(first + i * 64, marked & ~owned, Code::block_leaked);
    }
    return used;
}

// Adds each run of ones in `wrong`, the bits of 64 blocks from `block` on, to what is to be said.
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
