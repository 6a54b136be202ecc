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
#include "media/make_group.h"
#include "media/verify.h"
#include "pm/advise.h"
#include "pm/in_place.h"

namespace pmfs::mkfs {

using namespace media;
using pm::Region;

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
        : region_(region), sb_(sb), options_(options), secret_(secret), blocks_(region) {}

    Result<> run();

private:
    BlockHeader header(Magic magic, std::uint64_t self) const {
        return header_of(magic, sb_.header.fsid.get(), self, 0);
    }

    // Seals and writes a block; run() makes it durable.
    template <class T>
    void put(std::uint64_t block, T &content) {
        static_assert(sizeof(T) == kBlockSize);
        seal_block(content);
        put_(block, bytes_of(content));
    }

    void put_superblock(std::uint64_t block) { put_(block, bytes_of(superblock_for(sb_, block))); }
    void put_mark_of_making();
    void put_journal();
    void put_root_block();
    Inode root_inode() const;

    Region &region_;
    const Superblock sb_;
    const MakeOptions &options_;
    const std::array<std::uint8_t, 16> secret_;
    pm::InPlace blocks_;
    const PutBlock put_ = [this](std::uint64_t block, ConstBytes bytes) {
        blocks_.put(block * kBlockSize, bytes);
    };
};

void Maker::put_mark_of_making() {
    struct {
        BlockHeader header;
        std::byte zero[kBlockSize - sizeof(BlockHeader)];
    } mark{};
    mark.header = header(Magic::making, 0);
    put(0, mark);
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

// Two clean headers.  The ring is left as it is: nothing in it was made with this secret.  (Older
// programs write them in turns, and want the even generation first.)
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

// The root, which has a number of its own, and seven free inodes.
void Maker::put_root_block() {
    const std::uint64_t block = sb_.root_block.get();
    Inode slots[kInodesPerBlock]{};
    slots[0] = root_inode();
    for (std::uint64_t slot = 1; slot < kInodesPerBlock; ++slot)
        slots[slot].header = header(Magic::inode, block * kInodesPerBlock + slot);
    for (Inode &slot : slots) seal_block(slot);
    put_(block, bytes_of(slots));
    const std::uint64_t map = root_map_of(sb_);
    if (map != layout_of(0).inode_map) make_inode_map(sb_, map, put_);
}

Result<> Maker::run() {
    put_mark_of_making();
    TRY(blocks_.settle());
    const std::uint64_t groups = group_count(sb_.block_count.get());
    for (std::uint64_t group = 0; group < groups; ++group) make_group(sb_, group, put_);
    for_each_copy(sb_, [this](std::uint64_t block) { put_superblock(block); });
    put_journal();
    put_root_block();
    TRY(blocks_.settle());
    put_superblock(0);
    TRY(blocks_.settle());
    if (region_.keeps(0, bytes_of(superblock_for(sb_, 0)))) return {};
    return Error(
        EROFS, "the medium does not keep what is stored to it: is it read-only for this machine?");
}

// The root's block must not be the last one of its chunk, because its inode map needs a block after
// it.
std::uint64_t journal_blocks_of(std::uint64_t journal_start, std::uint64_t journal_size) {
    const std::uint64_t blocks = journal_size / kBlockSize;
    return (journal_start + blocks + 1) % kChunkBlocks == 0 ? blocks - 1 : blocks;
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
        return Error(EINVAL, "the journal size must be at least 256 KiB, and a multiple of 4 KiB");
    // A quarter of the first group: enough for any journal, and on the smallest volume it leaves
    // room for files.
    if (journal_size > std::min(size, kGroupBlocks * kBlockSize) / 4)
        return Error(
            EINVAL,
            "the journal size must be at most a quarter of the volume, and at most 256 MiB");

    const std::uint64_t unit =
        options.mapping_unit != 0 ? options.mapping_unit : region_mapping_unit;
    if (unit < kBlockSize || unit > kChunkSize || !std::has_single_bit(unit))
        return Error(
            EINVAL,
            "the mapping unit must be a power of two from 4 KiB to 2 MiB (if the device has "
            "larger pages, recreate its namespace with an alignment of 2 MiB)");
    if (unit < region_mapping_unit)
        return Error(EINVAL, "the mapping unit must not be smaller than the device's page size");
    if (options.root_reserve > kRootReserveMax)
        return Error(EINVAL,
                     "the reserve for root must be at most half of the volume (50 percent)");
    if (options.label.size() > sizeof(Superblock::label))
        return Error(EINVAL, "the label is longer than 64 bytes");

    Superblock sb{};
    const std::uint64_t fsid = TRY(given_or_random(options.fsid));
    sb.header = header_of(Magic::superblock, fsid, 0, 0);
    sb.version_major = le32(kVersionMajor);
    sb.version_minor = le32(kVersionMinorMade);
    sb.version_minor_oldest = le32(kVersionMinorMade);
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
    if (region.read_only())
        return Error(EROFS, "it is open only for reading, so no volume can be made");
    MakeOptions options = given;
    if (!options.time) options.time = now();
    const Superblock sb = TRY(plan(region.size(), region.mapping_unit(), options));
    const auto secret = TRY(given_or_random(options.journal_secret));
    const pm::ScatteredAccess scattered(region);
    pm::FaultScope faults;
    TRY(Maker(region, sb, options, secret).run());
    if (faults.met())
        return Error(
            EIO,
            "the medium did not accept all data that was written to it (see the kernel's log)");
    return sb;
}

}  // namespace pmfs::mkfs
