// Is this block whole, ours and sane?  The engine, mkfs and fsck all ask this.
//
// Whole: its checksum is right.  Ours: it carries the right magic, this filesystem's id and its own
// place, so that it is no leftover and no stray write.  Sane: what it says can be true.  Only the
// superblock's sanity is here; the engine and fsck judge the rest, each for itself.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/result.h"
#include "media/format.h"

namespace pmfs::media {

// The checksum of a block or an inode: CRC-32C of all its bytes, the field itself taken as zero.
// `block` is at least a BlockHeader.
inline std::uint32_t checksum_of(ConstBytes block) {
    std::byte start[8] = {};  // magic, then the field as zero
    static_assert(offsetof(BlockHeader, crc32c) == 4 && sizeof(BlockHeader::crc32c) == 4);
    PMFS_ASSERT(block.size() >= sizeof(BlockHeader));
    std::memcpy(start, block.data(), 4);
    return crc32c(crc32c(0, start), block.subspan(sizeof start));
}

inline bool checksum_ok(ConstBytes block) {
    return load<le32>(block, offsetof(BlockHeader, crc32c)).get() == checksum_of(block);
}

// Sets the checksum: the last step before a block is written to the medium.
inline void seal_block(Bytes block) {
    const le32 sum(checksum_of(block));
    std::memcpy(block.data() + offsetof(BlockHeader, crc32c), &sum, sizeof sum);
}
template <class T>
requires(is_media_v<T> && sizeof(T) > sizeof(BlockHeader)) void seal_block(T &block) {
    seal_block(writable_bytes_of(block));
}

// Ours: what the header says of itself, its checksum not looked at.
constexpr bool header_ok(const BlockHeader &header, Magic magic, std::uint64_t fsid,
                         std::uint64_t self) {
    return header.magic.get() == static_cast<std::uint32_t>(magic) && header.fsid.get() == fsid &&
           header.self.get() == self;
}

// Whole and ours.  `block` is in its place on the medium: an inode's 512 bytes, all else 4096.
inline bool block_ok(ConstBytes block, Magic magic, std::uint64_t fsid, std::uint64_t self) {
    return header_ok(load<BlockHeader>(block), magic, fsid, self) && checksum_ok(block);
}

// Bytes of a whole block (an inode: of its times) that the format leaves unused are zero.  Asked
// only of volumes that no newer minor version has written: that may have put something there.
bool reserved_zero(ConstBytes block, Magic magic);
inline bool knows_all_fields(const Superblock &sb) {
    return sb.version_minor.get() <= kVersionMinor;
}

constexpr BlockHeader header_of(Magic magic, std::uint64_t fsid, std::uint64_t self,
                                std::uint64_t tx) {
    return {le32(static_cast<std::uint32_t>(magic)), le32(0), le64(fsid), le64(self), le64(tx)};
}

// Reads the superblock, or one of its copies, that stands in `block` (4096 bytes) at block number
// `self` of a region of `region_size` bytes.  What it returns is safe to do arithmetic with: every
// place that it names is inside the volume, and the volume is inside the region.
// Errors, a sentence each:
//   EINVAL   not a pmfs volume; or the region is shorter than the volume on it
//   ENOTSUP  a newer or an older major version, or an unknown incompatible feature
//   EUCLEAN  damaged (find_superblock() tries the copies)
Result<Superblock> read_superblock(ConstBytes block, std::uint64_t self, std::uint64_t region_size);

// The superblock of the volume that `region` (all of its bytes) holds: block 0, or where that is
// damaged a copy.  A copy counts only if something else of its volume exists (an older mkfs may
// have left copies) and if its block is metadata (a file may contain a copy).  If another program
// has overwritten block 0, or mkfs was interrupted, that is no damage.  A copy may have the size to
// which the volume was growing.  The one reader for mount, fsck, mkfs and tools.  Errors:
// read_superblock's for block 0.
struct FoundSuperblock {
    Superblock sb;
    std::uint64_t block = 0;  // that it was read from
};
Result<FoundSuperblock> find_superblock(ConstBytes region);

// Of Superblock::root_reserve: half of the volume.
inline constexpr std::uint32_t kRootReserveMax = 5000;

// Calls `f(block)` for each block that holds a copy.
template <class F>
void for_each_copy(const Superblock &sb, F f) {
    const std::uint64_t blocks = sb.block_count.get();
    for (std::uint64_t at = kGroupBlocks; at < blocks; at += kGroupBlocks) f(at);
    if (sb.copy_block.get() != 0) f(sb.copy_block.get());
}

// True when `block` says that it is a pmfs superblock, whole or not: mkfs must not overwrite it
// unasked.
bool looks_like_superblock(ConstBytes block);

// Features that this program may read but must not write.
inline bool must_mount_read_only(const Superblock &sb) {
    return (sb.features_ro_compat.get() & ~kFeaturesRoCompatKnown) != 0;
}

}  // namespace pmfs::media
