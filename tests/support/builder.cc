// A volume written by hand: see builder.h.
#include "support/builder.h"

#include <doctest/doctest.h>
#include <sodium.h>
#include <sys/stat.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "media/geometry.h"
#include "media/verify.h"
#include "mkfs/make.h"

namespace pmfs::test {

using namespace media;

namespace {

template <class T>
std::vector<std::byte> bytes_with(const T &head, std::string_view tail) {
    std::vector<std::byte> out(sizeof head + tail.size());
    std::memcpy(out.data(), &head, sizeof head);
    std::memcpy(out.data() + sizeof head, tail.data(), tail.size());
    return out;
}

std::uint64_t type_of(const Inode &inode) {
    return (inode.mode.get() & S_IFMT) >> 12;  // DT_* is that
}

}  // namespace

std::unique_ptr<pm::Region> fixed_volume(std::uint64_t size, std::uint64_t mapping_unit) {
    auto region = pm::memory_region(size);
    REQUIRE(region.ok());
    mkfs::MakeOptions options;
    options.label = "golden";
    options.mapping_unit = mapping_unit;
    options.fsid = 0x1122334455667788;
    options.uuid.emplace();
    options.hash_key.emplace();
    options.journal_secret.emplace();
    for (std::uint8_t i = 0; i < 16; ++i) {
        (*options.uuid)[i] = i;
        (*options.hash_key)[i] = static_cast<std::uint8_t>(0x10 + i);
        (*options.journal_secret)[i] = static_cast<std::uint8_t>(0x20 + i);
    }
    options.time = Timespec{1'600'000'000, 123'456'789};
    auto owned = std::move(region).take();
    REQUIRE(mkfs::make(*owned, options).ok());
    return owned;
}

Builder::Builder(std::uint64_t size, std::uint64_t mapping_unit)
    : region_(fixed_volume(size, mapping_unit)) {}

std::byte *Builder::bytes(std::uint64_t block) {
    PMFS_ASSERT(block < region_->size() / kBlockSize);
    return const_cast<std::byte *>(region_->data()) + block * kBlockSize;
}

Inode &Builder::inode(std::uint64_t number) {
    if (number == kRootIno) return block<Inode>(sb().root_block.get());
    return block<Inode[kInodesPerBlock]>(number / kInodesPerBlock)[number % kInodesPerBlock];
}

std::uint64_t Builder::number_of(std::uint64_t number, std::uint64_t slot) {
    const bool root = number == sb().root_block.get() && slot == 0;
    return root ? kRootIno : number * kInodesPerBlock + slot;
}

Summary &Builder::summary(std::uint64_t group) {
    return block<Summary>(layout_of(group).summary_a);
}

std::uint64_t Builder::inode_map_block(std::uint64_t chunk) {
    const std::uint64_t entry = summary(chunk / kGroupChunks).inode_map[chunk % kGroupChunks].get();
    PMFS_ASSERT(entry != 0);
    return chunk * kChunkBlocks + entry - 1;
}

InodeMap &Builder::inode_map(std::uint64_t chunk) {
    return block<InodeMap>(inode_map_block(chunk));
}

void Builder::seal(std::uint64_t block) {
    seal_block(Bytes(bytes(block), kBlockSize));
}

void Builder::seal_inode(std::uint64_t number) {
    seal_block(inode(number));
}

void Builder::seal_summary(std::uint64_t group) {
    const GroupLayout layout = layout_of(group);
    auto &second = block<Summary>(layout.summary_b);
    const BlockHeader header = second.header;
    second = summary(group);
    second.header = header;
    seal(layout.summary_a);
    seal(layout.summary_b);
}

le64 &Builder::word_of(std::uint64_t number, bool classes) {
    const GroupLayout layout = layout_of(number / kGroupBlocks);
    const std::uint64_t chunk = number % kGroupBlocks / kChunkBlocks;
    auto &bitmap =
        block<BitmapBlock>((classes ? layout.classes : layout.bitmaps) + bitmap_index(chunk));
    return bitmap.bits[bitmap_row(chunk)][number % kChunkBlocks / 64];
}

void Builder::set_bits(std::uint64_t start, std::uint64_t blocks, bool classes, bool on) {
    for (std::uint64_t number = start; number < start + blocks; ++number) {
        le64 &word = word_of(number, classes);
        const std::uint64_t bit = std::uint64_t{1} << (number % 64);
        word.set(on ? word.get() | bit : word.get() & ~bit);
    }
}

bool Builder::marked(std::uint64_t number) {
    return (word_of(number, false).get() >> (number % 64) & 1) != 0;
}

bool Builder::is_metadata(std::uint64_t number) {
    return (word_of(number, true).get() >> (number % 64) & 1) != 0;
}

void Builder::mark(std::uint64_t start, std::uint64_t blocks, bool used) {
    set_bits(start, blocks, false, used);
}

void Builder::classify(std::uint64_t start, std::uint64_t blocks, bool metadata) {
    set_bits(start, blocks, true, metadata);
}

void Builder::release(std::uint64_t start, std::uint64_t blocks) {
    mark(start, blocks, false);
    classify(start, blocks, false);
}

ChunkKind Builder::kind_of(std::uint64_t chunk) {
    bool metadata = false, data = false;
    for (std::uint64_t i = 0; i < kChunkBlocks; ++i)
        if (marked(chunk * kChunkBlocks + i))
            (is_metadata(chunk * kChunkBlocks + i) ? metadata : data) = true;
    if (metadata) return data ? ChunkKind::mixed : ChunkKind::meta;
    return data ? ChunkKind::data : ChunkKind::free;
}

std::uint64_t Builder::take(ChunkKind kind, std::uint64_t blocks, std::uint64_t wanted) {
    for (std::uint64_t chunk = 0; chunk < block_count() / kChunkBlocks; ++chunk) {
        const ChunkKind is = kind_of(chunk);
        const bool fits = is == kind || is == ChunkKind::free ||
                          (is == ChunkKind::mixed && kind == ChunkKind::meta);
        if (wanted == kAnyChunk ? !fits : chunk != wanted) continue;
        std::uint64_t run = 0;
        for (std::uint64_t i = 0; i < kChunkBlocks; ++i) {
            const std::uint64_t number = chunk * kChunkBlocks + i;
            run = marked(number) ? 0 : run + 1;
            if (run < blocks) continue;
            mark(number + 1 - blocks, blocks, true);
            classify(number + 1 - blocks, blocks, kind == ChunkKind::meta);
            return number + 1 - blocks;
        }
    }
    FAIL("the builder's volume is full");
    return 0;
}

void Builder::set_slot(std::uint64_t number, bool used) {
    const std::uint64_t at = number == kRootIno ? sb().root_block.get() * kInodesPerBlock : number;
    const std::uint64_t slot = at % kChunkInodes;
    le64 &word = inode_map(at / kChunkInodes).slots[slot / 64];
    const std::uint64_t bit = std::uint64_t{1} << (slot % 64);
    word.set(used ? word.get() | bit : word.get() & ~bit);
}

void Builder::make_block(std::uint64_t chunk) {
    Summary &group = summary(chunk / kGroupChunks);
    if (group.inode_map[chunk % kGroupChunks].get() == 0) {
        const std::uint64_t at = take(ChunkKind::meta, 1, chunk);
        group.inode_map[chunk % kGroupChunks].set(
            static_cast<std::uint16_t>(1 + at % kChunkBlocks));
        auto &map = block<InodeMap>(at);
        map = {};
        map.header = header_of(Magic::inode_map, sb().header.fsid.get(), at, 0);
    }
    const std::uint64_t number = take(ChunkKind::meta, 1, chunk), place = number % kChunkBlocks;
    le64 &word = inode_map(chunk).made[place / 64];
    word.set(word.get() | std::uint64_t{1} << (place % 64));
    std::memset(bytes(number), 0, kBlockSize);
    for (std::uint64_t slot = 0; slot < kInodesPerBlock; ++slot)
        inode(number_of(number, slot)).header =
            header_of(Magic::inode, sb().header.fsid.get(), number_of(number, slot), 0);
}

std::uint64_t Builder::free_inode(std::uint64_t chunk) {
    const InodeMap &map = inode_map(chunk);
    for (std::uint64_t slot = 0; slot < kChunkInodes; ++slot) {
        const std::uint64_t place = slot / kInodesPerBlock;
        if ((map.made[place / 64].get() >> (place % 64) & 1) == 0) continue;
        if ((map.slots[slot / 64].get() >> (slot % 64) & 1) != 0) continue;
        return number_of(chunk * kChunkBlocks + place, slot % kInodesPerBlock);
    }
    return 0;
}

std::uint64_t Builder::make(std::uint32_t mode, std::uint64_t chunk) {
    if (chunk == kAnyChunk) chunk = sb().root_block.get() / kChunkBlocks;
    const bool has_map = summary(chunk / kGroupChunks).inode_map[chunk % kGroupChunks].get() != 0;
    if (!has_map || free_inode(chunk) == 0) make_block(chunk);
    const std::uint64_t number = free_inode(chunk);
    set_slot(number, true);
    Inode &made = inode(number);
    made.generation.set(1);
    made.mode.set(mode);
    made.nlink.set(S_ISDIR(mode) ? 2 : 0);
    made.atime = made.mtime = made.ctime = made.crtime = {le64(1'600'000'001), le32(5), le32(0)};
    return number;
}

std::uint64_t Builder::put_node(std::uint64_t owner, TreeKind kind, unsigned level,
                                const TreeEntry *entries, std::size_t count) {
    const std::uint64_t number = take(ChunkKind::meta);
    std::byte *out = bytes(number);
    std::memset(out, 0, kBlockSize);
    std::size_t heap = kBlockSize;
    for (std::size_t i = 0; i < count; ++i) {
        const auto &[key, value] = entries[i];
        heap -= kEntryHeader + value.size();
        const le64 media_key(key);
        const le16 size(static_cast<std::uint16_t>(value.size()));
        const le16 slot(static_cast<std::uint16_t>(heap));
        std::memcpy(out + heap, &media_key, sizeof media_key);
        std::memcpy(out + heap + 8, &size, sizeof size);
        std::memcpy(out + heap + kEntryHeader, value.data(), value.size());
        std::memcpy(out + sizeof(NodeHeader) + 2 * i, &slot, sizeof slot);
    }
    REQUIRE(sizeof(NodeHeader) + 2 * count <= heap);
    NodeHeader header{};
    header.header = header_of(Magic::node, sb().header.fsid.get(), number, 0);
    header.owner.set(owner);
    header.kind = static_cast<std::uint8_t>(kind);
    header.level = static_cast<std::uint8_t>(level);
    header.count.set(static_cast<std::uint16_t>(count));
    header.heap_start.set(static_cast<std::uint16_t>(heap));
    std::memcpy(out, &header, sizeof header);
    seal(number);
    inode(owner).blocks.set(inode(owner).blocks.get() + 1);
    return number;
}

// Two levels at most.
std::uint64_t Builder::make_tree(std::uint64_t owner, TreeKind kind,
                                 const std::vector<TreeEntry> &entries, std::size_t per_leaf) {
    std::vector<TreeEntry> leaves;
    last_nodes_.clear();
    for (std::size_t i = 0; i < entries.size(); i += per_leaf) {
        const std::uint64_t leaf =
            put_node(owner, kind, 0, &entries[i], std::min(per_leaf, entries.size() - i));
        leaves.emplace_back(entries[i].first, bytes_with(le64(leaf), ""));
        last_nodes_.push_back(leaf);
    }
    REQUIRE(!leaves.empty());
    if (leaves.size() == 1) return last_nodes_[0];
    const std::uint64_t root = put_node(owner, kind, 1, leaves.data(), leaves.size());
    last_nodes_.insert(last_nodes_.begin(), root);
    return root;
}

std::uint64_t Builder::name_key(std::string_view name) const {
    std::uint64_t hash = 0;
    const auto *sb = reinterpret_cast<const Superblock *>(region_->data());
    crypto_shorthash(reinterpret_cast<unsigned char *>(&hash),
                     reinterpret_cast<const unsigned char *>(name.data()), name.size(),
                     sb->hash_key);
    const std::uint64_t part = (hash >> 1) / 256 * 256;  // the tests run on little-endian only
    static_assert(std::endian::native == std::endian::little);
    return part == 0 ? 256 : part;
}

std::uint64_t Builder::put_blob(std::uint64_t owner, std::string_view value, std::uint64_t offset) {
    const std::uint64_t number = take(ChunkKind::data);
    auto &blob = block<BlobBlock>(number);
    blob = {};
    blob.header = header_of(Magic::blob, sb().header.fsid.get(), number, 0);
    blob.owner.set(owner);
    blob.offset.set(static_cast<std::uint32_t>(offset));
    const std::string_view piece = value.substr(offset, kBlobBytes);
    blob.size.set(static_cast<std::uint32_t>(piece.size()));
    std::memcpy(blob.bytes, piece.data(), piece.size());
    seal(number);
    inode(owner).blocks.set(inode(owner).blocks.get() + 1);
    return number;
}

void Builder::add_xattrs(std::uint64_t number,
                         const std::vector<std::pair<std::string, std::string>> &xattrs) {
    std::vector<TreeEntry> entries;
    for (const auto &[name, value] : xattrs) {
        XattrValue head{};
        head.value_size.set(static_cast<std::uint32_t>(value.size()));
        head.name_size = static_cast<std::uint8_t>(name.size());
        std::string tail = name;
        if (value.size() <= kXattrInlineMax) {
            tail += value;
        } else {
            for (std::uint64_t at = 0; at < value.size(); at += kBlobBytes) {
                const BlobRun run{le64(put_blob(number, value, at)), le64(1)};
                tail.append(reinterpret_cast<const char *>(&run), sizeof run);
                ++head.runs;
            }
        }
        entries.emplace_back(name_key(name), bytes_with(head, tail));
    }
    std::ranges::sort(entries);
    inode(number).xattr_root.set(make_tree(number, TreeKind::xattr, entries, 40));
}

void Builder::set_inline(std::uint64_t number, const std::vector<InlineExtent> &extents) {
    REQUIRE(extents.size() <= kInlineExtents);
    Inode &file = inode(number);
    if (!extents.empty())
        std::memcpy(file.inline_bytes, extents.data(), extents.size() * sizeof(InlineExtent));
    file.inline_count.set(static_cast<std::uint32_t>(extents.size()));
    if ((file.flags.get() & kGrantRecord) != 0) return;
    for (const InlineExtent &extent : extents)
        file.blocks.set(file.blocks.get() + extent.blocks.get());
}

void Builder::set_map_tree(std::uint64_t number, const std::vector<InlineExtent> &extents,
                           std::size_t per_leaf) {
    std::vector<TreeEntry> entries;
    for (const InlineExtent &extent : extents) {
        const MapValue value{extent.start, extent.blocks, extent.flags};
        entries.emplace_back(extent.file_block.get(), bytes_with(value, ""));
        if ((inode(number).flags.get() & kGrantRecord) == 0)
            inode(number).blocks.set(inode(number).blocks.get() + extent.blocks.get());
    }
    inode(number).map_root.set(make_tree(number, TreeKind::map, entries, per_leaf));
}

void Builder::set_target(std::uint64_t number, std::string_view target) {
    inode(number).size.set(target.size());
    if (target.size() <= kInlineBytes) {
        std::memcpy(inode(number).inline_bytes, target.data(), target.size());
        return;
    }
    std::uint32_t count = 0;
    for (std::size_t at = 0; at < target.size(); at += kBlobBytes, ++count) {
        const std::uint64_t block = put_blob(number, target, at);
        const InlineExtent extent{le64(count), le64(block), le32(1), le32(0)};
        std::memcpy(inode(number).inline_bytes + count * sizeof extent, &extent, sizeof extent);
    }
    inode(number).inline_count.set(count);
}

// Inline maps only; their extents do not touch each other.
void Builder::seal_map(std::uint64_t number, bool full) {
    Inode &file = inode(number);
    std::vector<std::uint64_t> words{file.size.get()};
    for (std::size_t i = 0; i < file.inline_count.get(); ++i) {
        InlineExtent extent;
        std::memcpy(&extent, file.inline_bytes + i * sizeof extent, sizeof extent);
        words.insert(words.end(), {extent.file_block.get(), extent.start.get(), extent.blocks.get(),
                                   extent.flags.get()});
    }
    crypto_generichash(file.seal_digest, 32, reinterpret_cast<const unsigned char *>(words.data()),
                       words.size() * 8, nullptr, 0);
    file.flags.set(file.flags.get() | kSealed | (full ? kSealedFull : 0u));
}

void Builder::set_entries(std::uint64_t number,
                          const std::vector<std::pair<std::string, std::uint64_t>> &names,
                          std::size_t per_leaf) {
    std::vector<TreeEntry> entries;
    for (const auto &[name, target] : names) {
        const DirValue value{le64(target | type_of(inode(target)) << kDirTypeShift)};
        entries.emplace_back(name_key(name), bytes_with(value, name));
        if (S_ISDIR(inode(target).mode.get())) {
            inode(number).nlink.set(inode(number).nlink.get() + 1);
            inode(target).parent.set(number);
        } else {
            inode(target).nlink.set(inode(target).nlink.get() + 1);
        }
    }
    std::ranges::sort(entries);
    inode(number).entries.set(entries.size());
    inode(number).map_root.set(make_tree(number, TreeKind::directory, entries, per_leaf));
}

void Builder::chain(const std::vector<std::uint64_t> &numbers) {
    for (std::size_t i = 0; i < numbers.size(); ++i) {
        inode(numbers[i]).prev.set(i == 0 ? 0 : numbers[i - 1]);
        inode(numbers[i]).next.set(i + 1 == numbers.size() ? 0 : numbers[i + 1]);
    }
}

void Builder::set_orphans(const std::vector<std::uint64_t> &numbers) {
    chain(numbers);
    summary().orphan_head.set(numbers.empty() ? 0 : numbers[0]);
}

std::uint64_t Builder::make_grant(std::uint64_t file, std::uint32_t flags) {
    const std::uint64_t number = make(S_IFREG);
    Inode &record = inode(number);
    record.flags.set(kGrantRecord);
    record.uid.set(1000);
    record.parent.set(file);
    record.entries = inode(file).generation;
    record.rdev.set(1 << 20);  // of blocks [0, here)
    GrantHolder holder{};
    for (std::uint8_t i = 0; i < 16; ++i) holder.boot_id[i] = static_cast<std::uint8_t>(0x30 + i);
    holder.start_time.set(123456);
    holder.pid.set(4321);
    holder.flags.set(flags | kGrantClaimed);
    static_assert(sizeof holder == sizeof record.seal_digest);
    std::memcpy(record.seal_digest, &holder, sizeof holder);
    return number;
}

void Builder::set_grants(const std::vector<std::uint64_t> &numbers) {
    chain(numbers);
    summary().grant_head.set(numbers.empty() ? 0 : numbers[0]);
}

void Builder::finish() {
    for (std::uint64_t group = 0; group < group_count(block_count()); ++group) finish_group(group);
}

void Builder::finish_group(std::uint64_t group) {
    const GroupLayout layout = layout_of(group);
    Summary &all = summary(group);
    std::uint32_t partial_free = 0, used = 0, made = 0;
    for (std::uint64_t i = 0; i < group_chunks(block_count(), group); ++i) {
        const std::uint64_t chunk = group * kGroupChunks + i;
        const ChunkKind kind = kind_of(chunk);
        all.kind[i] = static_cast<std::uint8_t>(kind);
        for (std::uint64_t at = 0; at < kChunkBlocks && kind != ChunkKind::free; ++at)
            partial_free += !marked(chunk * kChunkBlocks + at);
        if (all.inode_map[i].get() == 0) continue;
        finish_inodes(chunk);
        used += inode_map(chunk).used.get();
        made += inode_map(chunk).blocks.get() * static_cast<std::uint32_t>(kInodesPerBlock);
    }
    all.partial_free.set(partial_free);
    all.inodes_used.set(used);
    all.inodes_made.set(made);
    seal_summary(group);
    for (std::uint64_t i = 0; i < kBitmapBlocks; ++i) {
        seal(layout.bitmaps + i);
        seal(layout.classes + i);
    }
}

void Builder::finish_inodes(std::uint64_t chunk) {
    InodeMap &map = inode_map(chunk);
    std::uint32_t used = 0, blocks = 0;
    for (const le64 &word : map.slots)
        used += static_cast<std::uint32_t>(std::popcount(word.get()));
    for (std::uint64_t i = 0; i < kChunkBlocks; ++i) {
        if ((map.made[i / 64].get() >> (i % 64) & 1) == 0) continue;
        ++blocks;
        for (std::uint64_t slot = 0; slot < kInodesPerBlock; ++slot)
            seal_block(block<Inode[kInodesPerBlock]>(chunk * kChunkBlocks + i)[slot]);
    }
    map.used.set(used);
    map.blocks.set(blocks);
    seal(inode_map_block(chunk));
}

}  // namespace pmfs::test
