// Verification at first touch: see blocks.h.
#include "journal/blocks.h"

#include <sys/mman.h>

#include "base/errors.h"
#include "media/geometry.h"
#include "media/verify.h"

namespace pmfs::journal {

Blocks::Blocks(const pm::Region &region, const media::Superblock &sb)
    : region_(region),
      fsid_(sb.header.fsid.get()),
      count_(sb.block_count.get()),
      room_(count_),
      knows_all_fields_(media::knows_all_fields(sb)) {
    void *map = ::mmap(nullptr, room_, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    touched_ = map == MAP_FAILED ? nullptr : static_cast<std::atomic<std::uint8_t> *>(map);
}

Blocks::~Blocks() {
    if (ok()) ::munmap(static_cast<void *>(touched_), room_);
}

Result<> Blocks::reserve(std::uint64_t count) {
    if (count <= room_) return {};
    void *map = ::mremap(static_cast<void *>(touched_), room_, count, MREMAP_MAYMOVE);
    if (map == MAP_FAILED) return Error(ENOMEM, "no memory to note which blocks were verified");
    touched_ = static_cast<std::atomic<std::uint8_t> *>(map);
    room_ = count;
    return {};
}

Result<const std::byte *> Blocks::get(BlockNo block, media::Magic magic) {
    if (block.value() >= count_) return corrupt("a block number points past the end of the volume");
    const std::byte *bytes = raw(block);
    std::atomic<std::uint8_t> &touched = touched_[block.value()];
    if (absent_hook_) TRY(check_present(block));
    if (touched.load(std::memory_order_relaxed) & kWhole) [[likely]] {
        // The kind is compared all the same: a damaged pointer may lead to a sound block of another
        // kind.
        const auto *header = reinterpret_cast<const media::BlockHeader *>(bytes);
        if (header->magic.get() == static_cast<std::uint32_t>(magic)) return bytes;
        return corrupt("a pointer refers to a metadata block of another kind");
    }
    TRY(check_present(block));
    if (!media::block_ok({bytes, media::kBlockSize}, magic, fsid_, block.value()))
        return corrupt("a metadata block is damaged");
    if (magic == media::Magic::node || magic == media::Magic::inode_map) TRY(check_class(block));
    if (sane_ && !sane_(bytes, magic)) return corrupt("a metadata block contradicts itself");
    if (knows_all_fields_ && !media::reserved_zero({bytes, media::kBlockSize}, magic))
        return corrupt("a metadata block has data in unused bytes");
    touched.fetch_or(kWhole, std::memory_order_relaxed);
    return bytes;
}

Result<const media::Inode *> Blocks::inode(BlockNo block, unsigned slot, InodeNo self) {
    if (block.value() >= count_) return corrupt("an inode's block is past the end of the volume");
    const std::byte *bytes = raw(block) + slot * media::kInodeSize;
    const auto *inode = reinterpret_cast<const media::Inode *>(bytes);
    std::atomic<std::uint8_t> &touched = touched_[block.value()];
    const auto bit = static_cast<std::uint8_t>(1u << slot);
    if (absent_hook_) TRY(check_present(block));
    if (touched.load(std::memory_order_relaxed) & bit) [[likely]] {
        if (media::header_ok(inode->header, media::Magic::inode, fsid_, self.value())) return inode;
        return corrupt("an inode is not in its place");
    }
    TRY(check_present(block));
    if (!media::block_ok({bytes, media::kInodeSize}, media::Magic::inode, fsid_, self.value()))
        return corrupt("an inode is damaged");
    if (knows_all_fields_ && !media::reserved_zero({bytes, media::kInodeSize}, media::Magic::inode))
        return corrupt("an inode has data in unused bytes");
    TRY(check_class(block));
    touched.fetch_or(bit, std::memory_order_relaxed);
    return inode;
}

Result<> Blocks::look_for(BlockNo block) const {
    const std::uint64_t offset = media::byte_of(block);
    if (absent_hook_ ? !absent_hook_(block) : region_.in_memory(offset)) return {};
    pm::NoWaiting::note(region_, offset);
    return Error(kAbsentErrno, "a block of metadata is not in memory");
}

Result<> Blocks::check_class(BlockNo block) {
    const ChunkNo chunk = media::chunk_of(block);
    const auto layout = media::layout_of(media::group_of(block));
    for (const BlockNo first : {layout.bitmaps, layout.classes}) {
        const auto found = get(media::bitmap_of(chunk, first), media::Magic::bitmap);
        if (!found.ok() && !is_damage(found.error())) return found.error();
        // A damaged bitmap must not make all blocks that it describes unusable.
        if (!found.ok()) return {};
        const auto *bitmap = reinterpret_cast<const media::BitmapBlock *>(found.value());
        if (!media::bit_of(*bitmap, block)) return corrupt("a metadata block is among file data");
    }
    return {};
}

}  // namespace pmfs::journal
