// Looking for the superblock: block 0, then the copies.  See verify.h.
#include <string_view>

#include "media/geometry.h"
#include "media/verify.h"

namespace pmfs::media {
namespace {

ConstBytes block_of(ConstBytes region, std::uint64_t block) {
    return region.subspan(block * kBlockSize, kBlockSize);
}

// Signatures that other programs write to the first block of a medium that they use.
bool is_foreign(ConstBytes block) {
    struct Signature {
        std::size_t offset;
        std::string_view bytes;
    };
    using namespace std::string_view_literals;
    constexpr Signature kSignatures[] = {
        {0, "XFSB"sv},        {0, "LUKS\xba\xbe"sv},  {0, "hsqs"sv},
        {510, "\x55\xaa"sv},  {512, "LABELONE"sv},    {1024, "\x10\x20\xf5\xf2"sv},
        {1080, "\x53\xef"sv}, {4086, "SWAPSPACE2"sv},
    };
    const std::string_view text(reinterpret_cast<const char *>(block.data()), block.size());
    for (const Signature &s : kSignatures)
        if (text.substr(s.offset, s.bytes.size()) == s.bytes) return true;
    return false;
}

// The volume that `sb` describes has left something else on the medium, and `block`, which holds
// this copy, does not belong to a file.
bool confirmed(ConstBytes region, const Superblock &sb, std::uint64_t block) {
    const auto whole = [&](std::uint64_t at, Magic magic) {
        return block_ok(block_of(region, at), magic, sb.header.fsid.get(), at);
    };
    const GroupLayout first = layout_of(0);
    if (!whole(first.summary_a, Magic::summary) && !whole(first.summary_b, Magic::summary) &&
        !whole(first.inode_map, Magic::inode_map) &&
        !whole(sb.journal_start.get(), Magic::ring_header))
        return false;
    const BlockNo copy(block);
    const BlockNo classes = bitmap_of(chunk_of(copy), layout_of(group_of(copy)).classes);
    if (!whole(classes.value(), Magic::bitmap)) return true;  // cannot be known
    return bit_of(load<BitmapBlock>(block_of(region, classes.value())), copy);
}

}  // namespace

Result<FoundSuperblock> find_superblock(ConstBytes region) {
    if (region.size() < kVolumeSizeMin)
        return Error(EINVAL, "not a pmfs volume: smaller than 4 MiB (make one with mkfs.pmfs)");
    const ConstBytes first = block_of(region, 0);
    const auto sb = read_superblock(first, 0, region.size());
    if (sb.ok()) return FoundSuperblock{sb.value()};
    if (load<le32>(first).get() == static_cast<std::uint32_t>(Magic::making))
        return Error(EINVAL, "not a pmfs volume: mkfs.pmfs was interrupted here (run it again)");
    const bool damaged = sb.error().errno_value() == EUCLEAN || !looks_like_superblock(first);
    if (!damaged || is_foreign(first)) return sb.error();

    const std::uint64_t blocks = region.size() / kBlockSize;
    const auto copy_at = [&](std::uint64_t block) -> Result<FoundSuperblock> {
        const Superblock copy = TRY(read_superblock(block_of(region, block), block, region.size()));
        if (!confirmed(region, copy, block))
            return corrupt("a copy of another volume's superblock");
        return FoundSuperblock{copy, block};
    };
    for (std::uint64_t block = kGroupBlocks; block < blocks; block += kGroupBlocks)
        if (const auto found = copy_at(block); found.ok()) return found;
    // The region may be larger than the volume.  From the far end, so that no file's bytes are met
    // before the copy is.
    const std::uint64_t chunks = std::min(blocks, kGroupBlocks) / kChunkBlocks;
    for (std::uint64_t chunk = chunks; chunk != 0; --chunk) {
        const auto found = copy_at(chunk * kChunkBlocks - 1);
        if (found.ok() && found.value().sb.copy_block.get() == found.value().block) return found;
    }
    return sb.error();
}

}  // namespace pmfs::media
