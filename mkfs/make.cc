// Makes a volume.  The order of writes is the point: see make().
#include "mkfs/make.h"

#include <sys/random.h>
#include <sys/stat.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <memory>
#include <utility>

#include "base/bytes.h"
#include "media/geometry.h"
#include "media/verify.h"
#include "pm/advise.h"

namespace pmfs::mkfs {

using namespace media;
using pm::Region;
using pm::Unfenced;

namespace {

Result<> fill_random(Bytes bytes) {
    while (!bytes.empty()) {
        const ssize_t got = ::getrandom(bytes.data(), bytes.size(), 0);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return Error(EIO, "the kernel gives no random numbers");
        bytes = bytes.subspan(static_cast<std::size_t>(got));
    }
    return {};
}

template <class T>
Result<T> given_or_random(const std::optional<T> &given) {
    if (given) return *given;
    T value{};
    TRY(fill_random(writable_bytes_of(value)));
    return value;
}

// RFC 4122, version 4.
Result<std::array<std::uint8_t, 16>> given_or_random_uuid(const MakeOptions &options) {
    auto uuid = TRY(given_or_random(options.uuid));
    if (!options.uuid) {
        uuid[6] = static_cast<std::uint8_t>((uuid[6] & 0x0f) | 0x40);
        uuid[8] = static_cast<std::uint8_t>((uuid[8] & 0x3f) | 0x80);
    }
    return uuid;
}

Time media_time(const Timespec &time) {
    return {le64(static_cast<std::uint64_t>(time.seconds)), le32(time.nanoseconds), le32(0)};
}

// Writes one new volume; every function is one kind of block.
class Maker {
public:
    Maker(Region &region, const Superblock &sb, const MakeOptions &options,
          const std::array<std::uint8_t, 16> &secret)
        : region_(region), sb_(sb), options_(options), secret_(secret) {}

    Result<> run();

private:
    std::uint64_t block_count() const { return sb_.block_count.get(); }
    std::uint64_t fsid() const { return sb_.header.fsid.get(); }
    // Of the chunk that the root's block of inodes is in.
    std::uint64_t root_map() const { return root_map_of(sb_); }
    // The first block of `group` that is free.
    std::uint64_t used_end(std::uint64_t group) const {
        if (group != 0) return layout_of(group).end;
        return std::max(sb_.root_block.get(), root_map()) + 1;
    }
    bool has_copy(std::uint64_t first_block, std::uint64_t blocks) const {
        const std::uint64_t copy = sb_.copy_block.get();
        return copy != 0 && copy >= first_block && copy - first_block < blocks;
    }
    BlockHeader header(Magic magic, std::uint64_t self) const {
        return header_of(magic, fsid(), self, 0);
    }

    // Seals and writes a block; run() fences.
    template <class T>
    void put(std::uint64_t block, T &content) {
        static_assert(sizeof(T) == kBlockSize);
        seal_block(content);
        put_bytes(block, bytes_of(content));
    }
    void put_bytes(std::uint64_t block, ConstBytes bytes) {
        if (region_.is_image())
            region_.store_home(block * kBlockSize, bytes);
        else
            duty_.add(region_.write(block * kBlockSize, bytes));
    }
    Result<> settle();

    void put_superblock(std::uint64_t block);
    void put_group(std::uint64_t group);
    void put_summaries(std::uint64_t group);
    void put_bitmap(std::uint64_t block, std::uint64_t first_block, std::uint64_t used_end);
    void put_inode_map(std::uint64_t block);
    void put_mark_of_making();
    void put_journal();
    void put_root_block();
    Inode root_inode() const;

    Region &region_;
    Superblock sb_;
    const MakeOptions &options_;
    const std::array<std::uint8_t, 16> secret_;
    Unfenced duty_;
};

// Durable against a power cut, on every medium.
Result<> Maker::settle() {
    region_.fence(std::move(duty_));
    if (region_.is_image()) TRY(region_.sync());
    return {};
}

void Maker::put_superblock(std::uint64_t block) {
    sb_.header = header(Magic::superblock, block);
    put(block, sb_);
}

void Maker::put_mark_of_making() {
    struct {
        BlockHeader header;
        std::byte zero[kBlockSize - sizeof(BlockHeader)];
    } mark{};
    mark.header = header(Magic::making, 0);
    put(0, mark);
}

// The bits of the kBitmapChunks chunks from `first_block` on, in use or metadata, which is the same
// yet: all below `used_end`, and the volume's last block where it has a copy of the superblock.
void Maker::put_bitmap(std::uint64_t block, std::uint64_t first_block, std::uint64_t used_end) {
    BitmapBlock bitmap{};
    bitmap.header = header(Magic::bitmap, block);
    for (std::uint64_t row = 0; row < kBitmapChunks; ++row)
        for (std::uint64_t word = 0; word < 8; ++word) {
            const std::uint64_t from = first_block + row * kChunkBlocks + word * 64;
            if (from >= used_end) break;
            const std::uint64_t used = std::min<std::uint64_t>(used_end - from, 64);
            bitmap.bits[row][word] = le64(~std::uint64_t{0} >> (64 - used));
        }
    if (has_copy(first_block, kBitmapChunks * kChunkBlocks))
        bitmap.bits[(sb_.copy_block.get() - first_block) / kChunkBlocks][7] =
            le64(std::uint64_t{1} << 63);
    put(block, bitmap);
}

// Inodes are in the root's block only.
void Maker::put_inode_map(std::uint64_t block) {
    InodeMap map{};
    map.header = header(Magic::inode_map, block);
    if (block == root_map()) {
        const std::uint64_t place = sb_.root_block.get() % kChunkBlocks;
        const std::uint64_t slot = place * kInodesPerBlock;
        map.used = map.blocks = le32(1);
        map.made[place / 64] = le64(std::uint64_t{1} << (place % 64));
        map.slots[slot / 64] = le64(std::uint64_t{1} << (slot % 64));
    }
    put(block, map);
}

void Maker::put_summaries(std::uint64_t group) {
    const std::uint64_t start = group_start(group), end = used_end(group);
    const std::uint64_t chunks = group_chunks(block_count(), group);
    const std::uint64_t meta_chunks = divide_up(end - start, kChunkBlocks);
    const GroupLayout layout = layout_of(group);

    Summary summary{};
    summary.group = le64(group);
    summary.inode_map[0] = le16(static_cast<std::uint16_t>(1 + layout.inode_map - start));
    if (group == 0) {
        summary.inodes_used = le32(1);
        summary.inodes_made = le32(kInodesPerBlock);
        summary.inode_map[root_map() / kChunkBlocks] =
            le16(static_cast<std::uint16_t>(1 + root_map() % kChunkBlocks));
    }
    std::fill_n(summary.kind, meta_chunks, static_cast<std::uint8_t>(ChunkKind::meta));
    std::uint64_t partial_free = meta_chunks * kChunkBlocks - (end - start);
    if (has_copy(start, chunks * kChunkBlocks)) {
        // The journal takes a quarter at most, so this chunk has nothing else yet.
        summary.kind[chunks - 1] = static_cast<std::uint8_t>(ChunkKind::meta);
        partial_free += kChunkBlocks - 1;
    }
    summary.partial_free = le32(static_cast<std::uint32_t>(partial_free));
    for (const std::uint64_t block : {layout.summary_a, layout.summary_b}) {
        summary.header = header(Magic::summary, block);
        put(block, summary);
    }
}

void Maker::put_group(std::uint64_t group) {
    const GroupLayout layout = layout_of(group);
    if (group != 0) put_superblock(layout.superblock);
    if (group == 0 && sb_.copy_block.get() != 0) put_superblock(sb_.copy_block.get());
    put_summaries(group);
    put_inode_map(layout.inode_map);
    for (std::uint64_t i = 0; i < kBitmapBlocks; ++i) {
        const std::uint64_t first = group_start(group) + i * kBitmapChunks * kChunkBlocks;
        put_bitmap(layout.bitmaps + i, first, used_end(group));
        put_bitmap(layout.classes + i, first, used_end(group));
    }
}

Inode Maker::root_inode() const {
    Inode inode{};
    inode.header = header(Magic::inode, kRootIno);
    inode.generation = le64(1);
    inode.mode = le32(S_IFDIR | 0755);
    inode.uid = le32(options_.root_uid);
    inode.gid = le32(options_.root_gid);
    inode.nlink = le32(2);
    inode.parent = le64(kRootIno);
    inode.atime = inode.mtime = inode.ctime = inode.crtime = media_time(*options_.time);
    return inode;
}

// Two clean headers.  The ring is left as it is: whatever lies there was not made with this secret.
// (Older programs write them in turns, and want the even generation first.)
void Maker::put_journal() {
    for (std::uint64_t i = 0; i < kRingHeaders; ++i) {
        const std::uint64_t block = sb_.journal_start.get() + i;
        RingHeader ring{};
        ring.header = header(Magic::ring_header, block);
        ring.generation = le64(2 - i);
        ring.tail_seq = le64(1);
        std::ranges::copy(secret_, ring.secret);
        put(block, ring);
    }
}

// The root, which has a number of its own, and seven that are free.
void Maker::put_root_block() {
    const std::uint64_t block = sb_.root_block.get();
    Inode slots[kInodesPerBlock]{};
    slots[0] = root_inode();
    for (std::uint64_t slot = 1; slot < kInodesPerBlock; ++slot)
        slots[slot].header = header(Magic::inode, block * kInodesPerBlock + slot);
    for (Inode &slot : slots) seal_block(slot);
    put_bytes(block, bytes_of(slots));
    if (root_map() != layout_of(0).inode_map) put_inode_map(root_map());
}

Result<> Maker::run() {
    put_mark_of_making();
    TRY(settle());
    for (std::uint64_t group = 0; group < group_count(block_count()); ++group) put_group(group);
    put_journal();
    put_root_block();
    TRY(settle());
    put_superblock(0);
    TRY(settle());
    if (region_.keeps(0, bytes_of(sb_))) return {};
    return Error(
        EROFS, "the medium does not keep what is stored to it: is it read-only for this machine?");
}

// The root's block must not be the last one of its chunk, where its inode map would find no room.
std::uint64_t journal_blocks_of(std::uint64_t journal_start, std::uint64_t journal_size) {
    const std::uint64_t blocks = journal_size / kBlockSize;
    return (journal_start + blocks + 1) % kChunkBlocks == 0 ? blocks - 1 : blocks;
}

}  // namespace

std::uint64_t root_map_of(const Superblock &sb) {
    const std::uint64_t root = sb.root_block.get();
    return root < kChunkBlocks ? layout_of(0).inode_map : root + 1;
}

std::uint64_t default_journal_size(std::uint64_t volume_size) {
    return std::clamp(align_down(volume_size / 256, kJournalSizeMin), kJournalSizeMin, 128 * kMiB);
}

Result<Superblock> plan(std::uint64_t region_size, std::uint64_t region_mapping_unit,
                        const MakeOptions &options) {
    if (region_size < kVolumeSizeMin)
        return Error(EINVAL, "too small for a volume: it needs at least 4 MiB");
    const std::uint64_t size = align_down(std::min(region_size, kVolumeSizeMax), kChunkSize);
    const std::uint64_t journal_size =
        options.journal_size != 0 ? options.journal_size : default_journal_size(size);
    if (journal_size < kJournalSizeMin || !is_aligned(journal_size, kBlockSize))
        return Error(EINVAL, "the journal must have at least 256 KiB, in multiples of 4 KiB");
    // A quarter of the first group: enough for any journal, and on the smallest volume it leaves
    // room for files.
    if (journal_size > std::min(size, kGroupBlocks * kBlockSize) / 4)
        return Error(EINVAL, "the journal may take a quarter of the volume at most, and 256 MiB");

    const std::uint64_t unit =
        options.mapping_unit != 0 ? options.mapping_unit : region_mapping_unit;
    if (unit < kBlockSize || unit > kChunkSize || !std::has_single_bit(unit))
        return Error(EINVAL,
                     "the mapping unit must be a power of two from 4 KiB to 2 MiB (a device with "
                     "larger pages: give its namespace an alignment of 2 MiB)");
    if (unit < region_mapping_unit)
        return Error(EINVAL, "the mapping unit may not be smaller than the device's page");
    if (options.root_reserve > kRootReserveMax)
        return Error(EINVAL, "the reserve for root may be half of the volume at most (50)");
    if (options.label.size() > sizeof(Superblock::label))
        return Error(EINVAL, "the label is longer than 64 bytes");

    Superblock sb{};
    const std::uint64_t fsid = TRY(given_or_random(options.fsid));
    sb.header = header_of(Magic::superblock, fsid, 0, 0);
    sb.version_major = le32(kVersionMajor);
    sb.version_minor = le32(kVersionMinor);
    sb.version_minor_oldest = le32(kVersionMinor);
    sb.mapping_unit = le32(static_cast<std::uint32_t>(unit));
    sb.block_count = le64(size / kBlockSize);
    const std::uint64_t journal_start = layout_of(0).end;
    const std::uint64_t journal_blocks = journal_blocks_of(journal_start, journal_size);
    sb.journal_start = le64(journal_start);
    sb.journal_blocks = le64(journal_blocks);
    sb.root_block = le64(journal_start + journal_blocks);
    sb.root_reserve = le32(options.root_reserve);
    sb.copy_block = le64(copy_block_of(size / kBlockSize));
    sb.created_sec = le64(static_cast<std::uint64_t>(options.time.value_or(now()).seconds));
    const auto uuid = TRY(given_or_random_uuid(options));
    std::ranges::copy(uuid, sb.uuid);
    std::memcpy(sb.label, options.label.data(), options.label.size());
    const auto hash_key = TRY(given_or_random(options.hash_key));
    std::ranges::copy(hash_key, sb.hash_key);
    return sb;
}

Result<Superblock> make(Region &region, const MakeOptions &given) {
    if (region.read_only()) return Error(EROFS, "opened read-only: nothing can be made here");
    MakeOptions options = given;
    if (!options.time) options.time = now();
    const Superblock sb = TRY(plan(region.size(), region.mapping_unit(), options));
    const auto secret = TRY(given_or_random(options.journal_secret));
    const pm::ScatteredAccess scattered(region);
    pm::FaultScope faults;
    TRY(Maker(region, sb, options, secret).run());
    if (faults.met()) return Error(EIO, "the medium did not take all that was written to it");
    return sb;
}

}  // namespace pmfs::mkfs
