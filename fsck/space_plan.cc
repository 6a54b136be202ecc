// How a repair makes bitmaps and summaries agree with the claims: see space.h.
#include <bit>
#include <cstring>

#include "fsck/space.h"
#include "media/geometry.h"

namespace pmfs::fsck {

using namespace media;

void Space::set_inodes(std::uint64_t group, std::uint32_t used, std::uint32_t made) {
    const Summary *summary = groups_[group].summary;
    if (summary == nullptr) return;
    groups_[group].inodes = Inodes{used, made};
    groups_[group].suspect |=
        summary->inodes_used.get() != used || summary->inodes_made.get() != made;
}

void Space::set_list(std::uint64_t group, std::size_t head_offset, std::uint64_t head) {
    groups_[group].heads.push_back({head_offset, head});
    groups_[group].suspect = true;
}

// What has an owner that could not be read must not become free: then the bitmaps stay as they are,
// and of the summaries only a lost copy is made again.
void Space::plan(std::uint64_t group) {
    if (!context_.lost_owners && !owned_twice_)
        for (const bool classes : {false, true}) plan_bitmaps(group, classes);
    if (groups_[group].summary != nullptr) plan_summaries(group);
}

void Space::plan_bitmaps(std::uint64_t group, bool classes) {
    const std::uint64_t chunks = group_chunks(context_.block_count(), group);
    const GroupLayout layout = layout_of(group);
    const unsigned whole = classes ? groups_[group].classes_whole : groups_[group].usage_whole;
    const LazyArray<std::uint64_t> &right = classes ? owned_metadata_ : owned_;
    for (std::uint64_t i = 0; i < kBitmapBlocks; ++i) {
        BitmapBlock bitmap{};
        for (std::uint64_t row = 0; row < kBitmapChunks; ++row) {
            const std::uint64_t chunk = i * kBitmapChunks + row;
            if (chunk >= chunks) break;
            const std::uint64_t first = (group * kGroupChunks + chunk) * kChunkBlocks / 64;
            for (std::uint64_t word = 0; word < kChunkBlocks / 64; ++word)
                bitmap.bits[row][word].set(right[first + word]);
        }
        const std::uint64_t block = (classes ? layout.classes : layout.bitmaps) + i;
        context_.should_be(block, Magic::bitmap, (whole >> i & 1) != 0, bitmap);
    }
}

void Space::plan_summaries(std::uint64_t group) {
    const GroupLayout layout = layout_of(group);
    Summary right = *groups_[group].summary;
    derive(group, right);
    for (const std::uint64_t block : {layout.summary_a, layout.summary_b})
        context_.should_be(block, Magic::summary,
                           context_.whole<Summary>(block, Magic::summary) != nullptr, right);
}

// What of a summary follows from the rest of the volume.
void Space::derive(std::uint64_t group, Summary &summary) const {
    const Group &found = groups_[group];
    if (found.inodes) {
        summary.inodes_used.set(found.inodes->used);
        summary.inodes_made.set(found.inodes->made);
    }
    for (const Head &head : found.heads) {
        const le64 inode(head.inode);
        std::memcpy(reinterpret_cast<std::byte *>(&summary) + head.offset, &inode, sizeof inode);
    }
    if (context_.lost_owners || owned_twice_) return;
    summary.group.set(group);
    const std::uint64_t chunks = group_chunks(context_.block_count(), group);
    std::uint32_t partial_free = 0;
    for (std::uint64_t chunk = 0; chunk < kGroupChunks; ++chunk) {
        Seen owned;
        std::uint32_t used = 0;
        const std::uint64_t first = (group * kGroupChunks + chunk) * kChunkBlocks / 64;
        for (std::uint64_t word = 0; chunk < chunks && word < kChunkBlocks / 64; ++word) {
            owned.add(owned_[first + word], owned_metadata_[first + word]);
            used += static_cast<std::uint32_t>(std::popcount(owned_[first + word]));
        }
        summary.kind[chunk] = static_cast<std::uint8_t>(owned.kind());
        if (used != 0) partial_free += static_cast<std::uint32_t>(kChunkBlocks) - used;
    }
    summary.partial_free.set(partial_free);
}

}  // namespace pmfs::fsck
