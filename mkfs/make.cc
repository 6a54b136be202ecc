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
    std::uint64_t table_start() const {
        return fixed_end(sb_.journal_start.get(), sb_.journal_blocks.get());
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
    void put_bitmap(std::uint64_t block, std::uint64_t first_block, std::uint64_t used_end);
    void put_mark_of_making();
    void put_state();
    void put_journal();
    void put_inode_table();
    Inode free_inode(std::uint64_t ino) const;
    Inode root_inode() const;
    Inode table_inode() const;

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

// The bits of the kBitmapChunks chunks from `first_block` on: all below `used_end` are in use, and
// the volume's last block where it has a copy of the superblock.
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
    const std::uint64_t copy = sb_.copy_block.get();
    if (copy != 0 && copy >= first_block && copy - first_block < kBitmapChunks * kChunkBlocks)
        bitmap.bits[(copy - first_block) / kChunkBlocks][7] = le64(std::uint64_t{1} << 63);
    put(block, bitmap);
}

void Maker::put_group(std::uint64_t group) {
    const std::uint64_t start = group_start(group);
    const std::uint64_t chunks = group_chunks(block_count(), group);
    const GroupLayout layout = layout_of(block_count(), group);
    const std::uint64_t used_end = group == 0 ? table_start() + kFirstTableBlocks : layout.end;
    const std::uint64_t meta_chunks = divide_up(used_end - start, kChunkBlocks);

    if (group != 0) put_superblock(layout.superblock);

    // A copy of the superblock at the end lies in a chunk for data, which is not free then.
    const std::uint64_t data_chunks = sb_.copy_block.get() != 0 ? 1 : 0;
    if (data_chunks != 0) put_superblock(sb_.copy_block.get());

    Summary summary{};
    summary.group = le64(group);
    summary.free_chunks = le32(static_cast<std::uint32_t>(chunks - meta_chunks - data_chunks));
    summary.data_free = le32(static_cast<std::uint32_t>(data_chunks * (kChunkBlocks - 1)));
    if (data_chunks != 0) summary.kind[chunks - 1] = static_cast<std::uint8_t>(ChunkKind::data);
    summary.meta_free =
        le32(static_cast<std::uint32_t>(meta_chunks * kChunkBlocks - (used_end - start)));
    std::fill_n(summary.kind, meta_chunks, static_cast<std::uint8_t>(ChunkKind::meta));
    for (const std::uint64_t block : {layout.summary_a, layout.summary_b}) {
        summary.header = header(Magic::summary, block);
        put(block, summary);
    }
    for (std::uint64_t i = 0; i < bitmap_blocks_of(chunks); ++i)
        put_bitmap(layout.bitmaps + i, start + i * kBitmapChunks * kChunkBlocks, used_end);
}

Inode Maker::free_inode(std::uint64_t ino) const {
    Inode inode{};
    inode.header = header(Magic::inode, ino);
    return inode;
}

Inode Maker::root_inode() const {
    Inode inode = free_inode(kRootIno);
    inode.generation = le64(1);
    inode.mode = le32(S_IFDIR | 0755);
    inode.uid = le32(options_.root_uid);
    inode.gid = le32(options_.root_gid);
    inode.nlink = le32(2);
    inode.parent = le64(kRootIno);
    inode.atime = inode.mtime = inode.ctime = inode.crtime = media_time(*options_.time);
    return inode;
}

// A file like any other, except that it is no slot of itself and nobody can name it.
Inode Maker::table_inode() const {
    Inode inode = free_inode(kInodeTableIno);
    inode.generation = le64(1);
    inode.mode = le32(S_IFREG);
    inode.nlink = le32(1);
    inode.size = le64(kFirstTableBlocks * kBlockSize);
    inode.blocks = le64(kFirstTableBlocks);
    inode.atime = inode.mtime = inode.ctime = inode.crtime = media_time(*options_.time);
    inode.inline_count = le32(1);
    const InlineExtent extent{le64(0), le64(table_start()), le32(kFirstTableBlocks), le32(0)};
    std::memcpy(inode.inline_bytes, &extent, sizeof extent);
    return inode;
}

void Maker::put_state() {
    State state{};
    state.free_inode_head = le64(kRootIno + 1);
    state.inodes_used = le64(1);
    state.inodes_total = le64(kFirstTableBlocks * kInodesPerBlock);
    state.inode_table = table_inode();
    seal_block(state.inode_table);
    for (const le64 &block : sb_.state_block) {
        state.header = header(Magic::state, block.get());
        put(block.get(), state);
    }
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

// Slot 0 is never used and on no list; the root is slot 1; all others are chained in order.
void Maker::put_inode_table() {
    constexpr std::uint64_t total = kFirstTableBlocks * kInodesPerBlock;
    for (std::uint64_t i = 0; i < kFirstTableBlocks; ++i) {
        Inode slots[kInodesPerBlock];
        for (std::uint64_t slot = 0; slot < kInodesPerBlock; ++slot) {
            const std::uint64_t ino = i * kInodesPerBlock + slot;
            slots[slot] = ino == kRootIno ? root_inode() : free_inode(ino);
            if (ino > kRootIno && ino + 1 < total) slots[slot].next = le64(ino + 1);
            seal_block(slots[slot]);
        }
        put_bytes(table_start() + i, bytes_of(slots));
    }
}

Result<> Maker::run() {
    put_mark_of_making();
    TRY(settle());
    for (std::uint64_t group = 0; group < group_count(block_count()); ++group) put_group(group);
    put_state();
    put_journal();
    put_inode_table();
    TRY(settle());
    put_superblock(0);
    TRY(settle());
    if (region_.keeps(0, bytes_of(sb_))) return {};
    return Error(
        EROFS, "the medium does not keep what is stored to it: is it read-only for this machine?");
}

}  // namespace

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
        return Error(EINVAL, "the journal must have at least 64 KiB, in multiples of 4 KiB");
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
    const std::uint64_t state_a = layout_of(size / kBlockSize, 0).end;
    sb.journal_start = le64(state_a + 1);
    sb.journal_blocks = le64(journal_size / kBlockSize);
    sb.state_block[0] = le64(state_a);
    sb.state_block[1] = le64(state_a + 1 + journal_size / kBlockSize);
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
