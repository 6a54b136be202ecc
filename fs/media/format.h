// The on-media format, version 2.  docs/format.md says what each field means and why; this file
// says where it is.  A struct here is its bytes: no methods that write, no pointers, no padding.
//
//   region   = group*                         each group 1 GiB, the last one may be shorter
//   group    = chunk*                         each chunk 2 MiB = 512 blocks of 4 KiB
//   chunk 0 of every group:  superblock copy | summary A | usage bitmaps | class bitmaps |
//                            inode map | summary B | ...
//   group 0 goes on with:    journal (2 headers, ring) | the root's block of inodes | ...
//
// Where these are does not depend on how long the group is, so that a group can grow.  What is left
// of a chunk 0 is space like any other.  Each block has two bits: whether it is in use, and whether
// it is metadata.  Metadata and data have chunks of their own as long as there is room for that.
#pragma once
#include <cstddef>
#include <cstdint>

#include "media/le.h"

namespace pmfs::media {

inline constexpr std::uint64_t kBlockSize = 4096;
inline constexpr std::uint64_t kLineSize = 64;  // what the journal logs and the hardware flushes
inline constexpr std::uint64_t kLinesPerBlock = kBlockSize / kLineSize;
inline constexpr std::uint64_t kChunkBlocks = 512;
inline constexpr std::uint64_t kChunkSize = kChunkBlocks * kBlockSize;  // 2 MiB
inline constexpr std::uint64_t kGroupChunks = 512;
inline constexpr std::uint64_t kGroupBlocks = kGroupChunks * kChunkBlocks;  // 1 GiB
inline constexpr std::uint64_t kVolumeSizeMin = 4 << 20;
inline constexpr std::uint64_t kVolumeSizeMax = std::uint64_t{1} << 50;
inline constexpr std::uint64_t kFileSizeMax = std::uint64_t{1} << 50;
inline constexpr std::uint64_t kFileBlocksMax = kFileSizeMax / kBlockSize;  // 2^38
inline constexpr std::size_t kNameMax = 255;
inline constexpr std::uint32_t kLinksMax = 0xffffffff;
inline constexpr std::size_t kSymlinkMax = 4095;  // PATH_MAX with its final zero
inline constexpr std::size_t kXattrValueMax = 65536;

inline constexpr std::uint32_t kVersionMajor = 2;
inline constexpr std::uint32_t kVersionMinor = 1;
// What mkfs writes.  The first program that stores something that only a newer version knows raises
// it.
inline constexpr std::uint32_t kVersionMinorMade = 0;
inline constexpr std::uint64_t kFeaturesIncompatKnown = 0;
inline constexpr std::uint64_t kFeaturesRoCompatKnown = 0;

enum class Magic : std::uint32_t {  // as bytes on the media, in order: "pmSB", "pmGS", ...
    superblock = 0x42536d70,
    making = 0x4b4d6d70,  // in block 0 while mkfs is at work: no volume, even if old copies exist
    summary = 0x53476d70,
    bitmap = 0x4d426d70,
    inode_map = 0x4d496d70,
    node = 0x544e6d70,
    inode = 0x4e496d70,
    blob = 0x42426d70,
    ring_header = 0x484a6d70,
    record = 0x524a6d70,
};

// Every metadata block, and every inode, starts with this.  `self` and `fsid` catch a block that
// is whole but in the wrong place (a stale or misdirected write), which a checksum cannot.
struct BlockHeader {
    le32 magic;   // one of Magic
    le32 crc32c;  // over the whole block (an inode: its 512 bytes), this field taken as zero
    le64 fsid;    // the superblock's: not a leftover of an older mkfs
    le64 self;    // this block's own number; an inode: its inode number
    le64 tx;      // sequence of the transaction that last wrote it; 0 from mkfs
};
static_assert(is_media_v<BlockHeader> && sizeof(BlockHeader) == 32);

// Written by mkfs, by tuning, by growing and by a repair.  Block 0, copied to the first
// block of every group and to `copy_block` (a copy's header.self is its own block number; all else
// is equal).
struct Superblock {
    BlockHeader header;
    le32 version_major;         // a greater one: do not mount
    le32 version_minor;         // newest writer since mkfs
    le32 version_minor_oldest;  // oldest writer since mkfs; fsck relaxes checks by it
    le32 mapping_unit;          // bytes: what direct mappings are aligned to; 2^12 to 2^21
    le64 features_incompat;     // an unknown bit: do not mount
    le64 features_ro_compat;    // an unknown bit: mount read-only
    le64 features_compat;       // an unknown bit: ignore
    le64 block_count;           // a multiple of kChunkBlocks
    le64 journal_start;         // block number of ring header 0
    le64 journal_blocks;        // ring headers included
    le64 root_block;            // the block of inodes whose first one is the root
    le32 root_reserve;          // what only root may fill, in ten-thousandths of the volume
    le32 zero;
    le64 created_sec;  // seconds since 1970, UTC
    std::uint8_t uuid[16];
    std::uint8_t label[64];     // UTF-8, zero-filled; need not end with a zero
    std::uint8_t hash_key[16];  // SipHash-2-4 key of directory and xattr names
    // Where mkfs made one group only: the last block that the volume had then, with a copy; else 0.
    le64 copy_block;
    std::uint8_t reserved[4096 - 224];  // zero at mkfs; fsck does not look, so minors may use it
};
static_assert(is_media_v<Superblock> && sizeof(Superblock) == 4096);
static_assert(offsetof(Superblock, features_incompat) == 48);
static_assert(offsetof(Superblock, root_block) == 96);
static_assert(offsetof(Superblock, uuid) == 120);
static_assert(offsetof(Superblock, hash_key) == 200);
static_assert(offsetof(Superblock, copy_block) == 216);

// --- allocation -------------------------------------------------------------------------------

enum class ChunkKind : std::uint8_t {
    free = 0,   // no block in use
    meta = 1,   // every block in use is metadata
    data = 2,   // every block in use is file data or a blob
    mixed = 3,  // some are the one and some the other: there was no room for better
};

// One bit a block.  A chunk's 512 bits are one cache line: chunk c of a group is in bitmap block
// c / 63, line 1 + c % 63.  Bits of chunks that a short last group lacks are zero.  A group has
// nine such blocks for usage (1 = in use) and nine for classes (1 = in use, and metadata: whatever
// has a BlockHeader or is a block of inodes, but for blobs).
inline constexpr std::uint64_t kBitmapChunks = 63;
struct BitmapBlock {
    BlockHeader header;
    std::uint8_t reserved[32];
    le64 bits[kBitmapChunks][8];
};
static_assert(is_media_v<BitmapBlock> && sizeof(BitmapBlock) == 4096);
inline constexpr std::uint64_t kBitmapBlocks = (kGroupChunks + kBitmapChunks - 1) / kBitmapChunks;

// All that varies of a group, in two copies.  A mount reads these only, and bitmaps on first use.
struct Summary {
    BlockHeader header;
    le64 group;
    le32 partial_free;  // free blocks in chunks of which some block is in use
    le32 inodes_used;   // inodes in use: files, grant records
    le32 inodes_made;   // slots in blocks of inodes
    le32 zero;
    le64 orphan_head;  // of the lists of inodes that live in this group; 0 = none
    le64 grant_head;
    std::uint8_t reserved[2560 - 72];
    // Of each chunk that has blocks of inodes: 1 + the place of its InodeMap in it; else 0.
    le16 inode_map[kGroupChunks];
    std::uint8_t kind[kGroupChunks];  // ChunkKind; zero for chunks that a short last group lacks
};
static_assert(is_media_v<Summary> && sizeof(Summary) == 4096);
static_assert(offsetof(Summary, orphan_head) == 56);
static_assert(offsetof(Summary, inode_map) == 2560);
static_assert(offsetof(Summary, kind) == 3584);

// Where a group that starts at block `start` keeps its own metadata, whatever its length.
// Block: BlockNo (base/ids.h), or a plain number.
template <class Block>
struct LayoutOf {
    Block superblock, summary_a, bitmaps, classes, inode_map, summary_b, end;
};
using GroupLayout = LayoutOf<std::uint64_t>;
template <class Block>
constexpr LayoutOf<Block> layout_from(Block start) {
    const Block bitmaps = start + 2, classes = bitmaps + kBitmapBlocks;
    const Block map = classes + kBitmapBlocks;
    return {start, start + 1, bitmaps, classes, map, map + 1, map + 2};
}
inline constexpr GroupLayout group_layout(std::uint64_t start) {
    return layout_from(start);
}

// --- inodes -----------------------------------------------------------------------------------

inline constexpr std::uint64_t kInodeSize = 512;
inline constexpr std::uint64_t kInodesPerBlock = kBlockSize / kInodeSize;
// An inode's number says where it is: block number * 8 + slot.  But the root is number 1, in slot 0
// of Superblock::root_block.
inline constexpr std::uint64_t kChunkInodes = kChunkBlocks * kInodesPerBlock;
inline constexpr std::uint64_t kRootIno = 1;
inline constexpr std::size_t kInlineBytes = 272;

struct Time {
    le64 sec;  // two's complement
    le32 nsec;
    le32 zero;
};
static_assert(is_media_v<Time> && sizeof(Time) == 16);

enum InodeFlag : std::uint32_t {
    kSealed = 1 << 0,       // the block map is sealed, as-is or full
    kSealedFull = 1 << 1,   // ... and every block is allocated, written, private, aligned
    kTrimPending = 1 << 2,  // on the orphan list: free all blocks from `trim_from` on
    kEverMapped = 1 << 3,   // was mapped writable: bytes behind the end may be non-zero
    kGrantRecord = 1 << 4,  // no file: remembers who maps the device (see GrantHolder)
    // Those of chattr(1); minor version 1 and up.
    kImmutable = 1 << 5,     // nothing of it changes
    kAppendOnly = 1 << 6,    // nothing but what is written behind its end
    kNoDump = 1 << 7,        // for backups to see
    kNoAccessTime = 1 << 8,  // likewise: access times are not kept anyway
    kKnownInodeFlags = 0x1ff,
};

enum ExtentFlag : std::uint32_t {
    kUnwritten = 1 << 0,  // allocated; reads as zeroes
    kShared = 1 << 1,     // reserved for reflink (incompat feature): never set yet
};

struct InlineExtent {
    le64 file_block;
    le64 start;  // device block
    le32 blocks;
    le32 flags;
};
static_assert(is_media_v<InlineExtent> && sizeof(InlineExtent) == 24);
inline constexpr std::size_t kInlineExtents = kInlineBytes / sizeof(InlineExtent);  // 11

// Blocks at or past this file block are a donor range: owned by the file, on their way to another
// place in it; recovery frees them (trim_from).
inline constexpr std::uint64_t kDonorBase = std::uint64_t{1} << 40;

// In an inode with kGrantRecord, in place of the digest: the process that maps file blocks
// [`trim_from`, `rdev`) of the file `parent`, generation `entries`, from the device.  The record
// outlives the server.  While the grant lives the file's map stands still, so that says which
// blocks they are.  When the grant is lost and the process may live, the record claims them, as
// extents with file_block == start, and then has kGrantClaimed.  Each claimed block is either still
// mapped by the file or, after the file gave it up, by nothing: then only the record keeps it from
// being free. mode S_IFREG, nlink 0, size 0; `blocks` counts the tree's nodes only; uid is the
// process's.
struct GrantHolder {
    std::uint8_t boot_id[16];  // of the boot that the process lives in
    le64 start_time;           // field 22 of /proc/PID/stat, in clock ticks since boot
    le32 pid;                  // 0 = not known
    le32 flags;                // GrantFlag
};
static_assert(is_media_v<GrantHolder> && sizeof(GrantHolder) == 32);
enum GrantFlag : std::uint32_t {
    kGrantStores = 1 << 0,   // it may store
    kGrantRevoked = 1 << 1,  // a lease that was not given back in time
    kGrantClaimed = 1 << 2,  // its extents are all that the process maps
    kGrantPlaced = 1 << 3,   // there is a GrantPlace
    kGrantLent = 1 << 4,     // ... and it says where the lock of the process's descriptor is
    kGrantReasons = 0xf00,   // GrantReason << kGrantReasonShift
    kKnownGrantFlags = 0xf1f,
};
inline constexpr unsigned kGrantReasonShift = 8;
enum class GrantReason : std::uint8_t {  // why the grant was lost
    none = 0,                            // it was not yet: found so at a mount, its server died
    server_died = 1,
    late = 2,           // a lease that was not given back in time
    revoked = 3,        // by the administrator
    handle_closed = 4,  // under the mapping
    cut_off = 5,        // the connection to the broker ended
    still_mapped = 6,   // it was given back, but a process still maps
};

// In an inode with kGrantPlaced, in place of `atime` and `mtime`: what the holder's numbers mean
// where, and where the kernel tells whether any process still has the descriptor that was lent
// (kGrantLent): a lock on byte 2^62 + (generation mod 2^20) * 2^42 + inode number of the medium,
// both numbers the record's own.
struct GrantPlace {
    le64 serial;         // inode number of the process's pidfd, alone in its boot; 0 = not known
    le32 pid_namespace;  // inode numbers of the server's /proc/self/ns; 0 = not known
    le32 time_namespace;
    le64 medium_device;  // st_dev and st_ino of the medium, as the server had it open
    le64 medium_inode;
};
static_assert(is_media_v<GrantPlace> && sizeof(GrantPlace) == 32);

// `next` and `prev` chain inodes, both ways, on one of two lists of the group that they live in:
//   orphan list  (nlink == 0, or kTrimPending)
//   grant list   (kGrantRecord)
// A free inode (mode == 0) is zero but for its header and generation.
struct Inode {
    BlockHeader header;  // self = inode number
    le64 generation;     // greater each time that the number is used anew
    le32 mode;           // type and permissions; 0 = free
    le32 uid, gid;
    le32 nlink;   // a directory: 2 + its subdirectories
    le64 size;    // bytes; a directory: 0; a symlink: the target's length
    le64 blocks;  // blocks owned: data, tree nodes, blobs
    le64 rdev;    // a device node: major << 32 | minor
    Time atime, mtime, ctime, crtime;
    le32 flags;         // InodeFlag
    le32 inline_count;  // inline extents in use, when map_root == 0
    le64 map_root;      // root node of the extent map or of the directory; 0 = inline (or empty)
    le64 xattr_root;    // root node of the xattr tree; 0 = none
    le64 parent;        // a directory: its parent's inode number
    le64 next, prev;    // 0 = none
    le64 trim_from;     // file block, with kTrimPending
    le64 entries;       // a directory: entries, `.` and `..` not counted
    std::uint8_t seal_digest[32];  // of the sealed map, with kSealed: docs/format.md "Digest"
    std::uint8_t inline_bytes[kInlineBytes];  // InlineExtent[], or a symlink's target
};
static_assert(is_media_v<Inode> && sizeof(Inode) == kInodeSize);
static_assert(offsetof(Inode, size) == 56);
static_assert(offsetof(Inode, atime) == 80);
static_assert(offsetof(Inode, mtime) == offsetof(Inode, atime) + sizeof(Time));
static_assert(sizeof(GrantPlace) == 2 * sizeof(Time));
static_assert(offsetof(Inode, flags) == 144);
static_assert(offsetof(Inode, map_root) == 152);
static_assert(offsetof(Inode, seal_digest) == 208);
static_assert(offsetof(Inode, inline_bytes) == 240);

// Which blocks of a chunk hold inodes, and which of those are in use.  In chunk 0 of a group it has
// a place of its own (GroupLayout); elsewhere it comes with the first inode of its chunk and goes
// with the last one.
struct InodeMap {
    BlockHeader header;
    le32 used;    // bits in `slots`
    le32 blocks;  // bits in `made`
    std::uint8_t reserved[24];
    le64 made[kChunkBlocks / 64];   // by block of the chunk: 1 = it holds eight inodes
    le64 slots[kChunkInodes / 64];  // by block of the chunk * 8 + slot: 1 = in use
    std::uint8_t zero[4096 - 640];
};
static_assert(is_media_v<InodeMap> && sizeof(InodeMap) == 4096);
static_assert(offsetof(InodeMap, made) == 64 && offsetof(InodeMap, slots) == 128);

// --- the B+tree -------------------------------------------------------------------------------

enum class TreeKind : std::uint8_t { map = 1, directory = 2, xattr = 3 };

// A node: slots (le16 offsets of entries, in key order) grow up from byte 64; entries grow down
// from byte 4096.  An entry is le64 key, le16 value length, value.  An interior node's value is
// the le64 block number of the child that holds the keys from this entry's to the next one's;
// the first entry's key counts as minus infinity.
struct NodeHeader {
    BlockHeader header;
    le64 owner;          // inode number
    std::uint8_t kind;   // TreeKind
    std::uint8_t level;  // 0 = leaf
    le16 count;          // slots in use
    le16 heap_start;     // offset of the lowest entry; 4096 when empty
    le16 dead_bytes;     // bytes between heap_start and 4096 that no slot refers to
    std::uint8_t reserved[16];
};
static_assert(is_media_v<NodeHeader> && sizeof(NodeHeader) == 64);
inline constexpr std::size_t kEntryHeader = 10;
inline constexpr std::size_t kTreeValueMax = 1240;  // so that a node holds at least three
inline constexpr unsigned kTreeDepthMax = 16;

struct MapValue {  // TreeKind::map, key = file block
    le64 start;
    le32 blocks;
    le32 flags;
};
static_assert(is_media_v<MapValue> && sizeof(MapValue) == 16);

// Directory and xattr keys: SipHash-2-4 of the name under Superblock::hash_key, shifted right by 1
// (63 bits), its low 8 bits replaced by a collision index; a hash part of 0 becomes 256.  So a key
// is a stable readdir cookie greater than 255, and cookies 1 and 2 are `.` and `..`.
inline constexpr std::uint64_t kCollisionMask = 0xff;

struct DirValue {       // followed by the name
    le64 ino_and_type;  // inode number in the low 56 bits, DT_* of readdir(3) in the high 8
};
static_assert(is_media_v<DirValue> && sizeof(DirValue) == 8);
inline constexpr unsigned kDirTypeShift = 56;

struct XattrValue {  // followed by the name, then the value or its BlobRun[]
    le32 value_size;
    std::uint8_t name_size;  // prefix included: "user.x"
    std::uint8_t runs;       // 0 = the value follows the name; else that many BlobRun
    le16 zero;
};
static_assert(is_media_v<XattrValue> && sizeof(XattrValue) == 8);
inline constexpr std::size_t kXattrInlineMax = 900;

struct BlobRun {
    le64 start;
    le64 blocks;
};
static_assert(is_media_v<BlobRun> && sizeof(BlobRun) == 16);

// A piece of a value that is too large for a tree entry or an inode: a large xattr's, a long
// symlink's target (its inode then maps one or two blocks, inline).  Written once, before the
// transaction that refers to it, and never changed.
struct BlobBlock {
    BlockHeader header;
    le64 owner;   // inode number
    le32 offset;  // of this piece in the value
    le32 size;    // bytes of this piece
    std::uint8_t reserved[16];
    std::uint8_t bytes[4096 - 64];
};
static_assert(is_media_v<BlobBlock> && sizeof(BlobBlock) == 4096);
inline constexpr std::size_t kBlobBytes = sizeof(BlobBlock::bytes);
inline constexpr std::uint64_t blob_blocks(std::uint64_t size) {
    return (size + kBlobBytes - 1) / kBlobBytes;
}

// --- the journal ------------------------------------------------------------------------------

inline constexpr std::uint64_t kJournalSizeMin = 256 << 10;
inline constexpr std::uint64_t kRingHeaders = 2;
// The most that one transaction may change.  Four full records of this size fit the smallest ring.
inline constexpr std::size_t kTxBlocksMax = 12;

// Two blocks that say the same, written one after the other: the whole one with the greater
// generation counts.
struct RingHeader {
    BlockHeader header;  // tx = 0
    le64 generation;
    le64 tail_seq;     // sequence of the oldest record that replay must start from
    le64 tail_offset;  // its place, in bytes from the start of the ring
    le64 covers;  // image: as in a mark; not 0 while a replay stores records that no mark covers
    std::uint8_t secret[16];   // of this mount; first thing into every record's checksum
    std::uint8_t boot_id[16];  // of the kernel that mounted; all zero after a clean unmount
    std::uint8_t reserved[4096 - 96];
};
static_assert(is_media_v<RingHeader> && sizeof(RingHeader) == 4096);

enum class RecordKind : std::uint32_t {
    transaction = 1,
    mark = 2,    // image only: a group mark: everything before it was synced (docs/format.md)
    masked = 3,  // a transaction whose lines have been changed by RecordHeader::mask
};

// A record starts on a line and may wrap round the end of the ring:
//   RecordHeader | RecordEntry[entries], zero-filled to a line | for each entry, its lines in order
// Only its first line begins with Magic::record: what users store never looks like a record.  If
// another line would, the record is masked.
struct RecordHeader {
    le32 magic;
    le32 crc32c;  // of: secret, then the whole record with this field taken as zero
    le64 seq;     // one more than the record before it
    le32 size;    // bytes, a multiple of 64, this header included
    le32 kind;    // RecordKind
    le32 entries;
    le32 mask;    // of a masked record: XORed to the first four bytes of each line but the header
    le64 covers;  // a mark: every record up to this one is safe from a power cut, data included
    std::uint8_t reserved[24];
};
static_assert(is_media_v<RecordHeader> && sizeof(RecordHeader) == kLineSize);

struct RecordEntry {
    le64 block;
    le64 lines;  // bit i: line i of the block is in this record
};
static_assert(is_media_v<RecordEntry> && sizeof(RecordEntry) == 16);

inline constexpr std::size_t kRecordSizeMax =
    kLineSize + (kTxBlocksMax * sizeof(RecordEntry) + kLineSize - 1) / kLineSize * kLineSize +
    kTxBlocksMax * kBlockSize;
static_assert(4 * (kRecordSizeMax + 2 * kLineSize) <= kJournalSizeMin - kRingHeaders * kBlockSize);

}  // namespace pmfs::media
