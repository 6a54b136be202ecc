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

// Before version 1.2 the last block of a volume was like any other.
void take_end_copy_away(pm::Region &region) {
    const auto at = [&](std::uint64_t block) {
        return const_cast<std::byte *>(region.data()) + block * kBlockSize;
    };
    auto &sb = *reinterpret_cast<Superblock *>(at(0));
    const std::uint64_t copy = sb.copy_block.get();
    if (copy == 0) return;
    const GroupLayout layout = layout_of(sb.block_count.get(), 0);
    const std::uint64_t chunk = copy / kChunkBlocks;
    for (const std::uint64_t block : {layout.summary_a, layout.summary_b}) {
        auto &summary = *reinterpret_cast<Summary *>(at(block));
        summary.kind[chunk] = static_cast<std::uint8_t>(ChunkKind::free);
        summary.free_chunks.set(summary.free_chunks.get() + 1);
        summary.data_free.set(0);
        seal_block(summary);
    }
    auto &bitmap = *reinterpret_cast<BitmapBlock *>(at(layout.bitmaps + bitmap_index(chunk)));
    bitmap.bits[bitmap_row(chunk)][7].set(0);
    seal_block(bitmap);
    std::memset(at(copy), 0, kBlockSize);
    sb.copy_block.set(0);
}

}  // namespace

std::unique_ptr<pm::Region> fixed_volume(std::uint64_t size, std::uint64_t mapping_unit,
                                         std::uint32_t minor) {
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
    if (minor == kVersionMinor) return owned;
    if (minor < 2) take_end_copy_away(*owned);
    for (std::uint64_t group = 0; group < group_count(size / kBlockSize); ++group) {
        auto &sb = *reinterpret_cast<Superblock *>(const_cast<std::byte *>(owned->data()) +
                                                   group_start(group) * kBlockSize);
        sb.version_minor.set(minor);
        sb.version_minor_oldest.set(minor);
        seal_block(sb);
    }
    return owned;
}

Builder::Builder(std::uint64_t size, std::uint64_t mapping_unit, std::uint32_t minor)
    : region_(fixed_volume(size, mapping_unit, minor)) {}

std::byte *Builder::bytes(std::uint64_t block) {
    PMFS_ASSERT(block < region_->size() / kBlockSize);
    return const_cast<std::byte *>(region_->data()) + block * kBlockSize;
}

Inode &Builder::inode(std::uint64_t number) {
    // The builder never lets the table grow.
    const auto &first = *reinterpret_cast<const InlineExtent *>(state().inode_table.inline_bytes);
    PMFS_ASSERT(number / kInodesPerBlock < first.blocks.get());
    return block<Inode[kInodesPerBlock]>(first.start.get() +
                                         number / kInodesPerBlock)[number % kInodesPerBlock];
}

State &Builder::state(unsigned copy) {
    return block<State>(sb().state_block[copy].get());
}

Summary &Builder::summary(unsigned copy) {
    const GroupLayout layout = layout_of(block_count(), 0);
    return block<Summary>(copy == 0 ? layout.summary_a : layout.summary_b);
}

void Builder::seal(std::uint64_t block) {
    seal_block(Bytes(bytes(block), kBlockSize));
}

void Builder::seal_inode(std::uint64_t number) {
    seal_block(inode(number));
}

BitmapBlock &Builder::bitmap_of(std::uint64_t number) {
    const std::uint64_t chunk = number / kChunkBlocks;
    return block<BitmapBlock>(layout_of(block_count(), 0).bitmaps + bitmap_index(chunk));
}

bool Builder::marked(std::uint64_t number) {
    const le64 &word =
        bitmap_of(number).bits[bitmap_row(number / kChunkBlocks)][number % kChunkBlocks / 64];
    return (word.get() >> (number % 64) & 1) != 0;
}

void Builder::mark(std::uint64_t start, std::uint64_t blocks, bool used) {
    for (std::uint64_t number = start; number < start + blocks; ++number) {
        le64 &word =
            bitmap_of(number).bits[bitmap_row(number / kChunkBlocks)][number % kChunkBlocks / 64];
        const std::uint64_t bit = std::uint64_t{1} << (number % 64);
        word.set(used ? word.get() | bit : word.get() & ~bit);
    }
}

std::uint64_t Builder::take(ChunkKind kind, std::uint64_t blocks) {
    for (std::uint64_t chunk = 0; chunk < block_count() / kChunkBlocks; ++chunk) {
        const auto is = static_cast<ChunkKind>(summary().kind[chunk]);
        if (is != kind && is != ChunkKind::free) continue;
        std::uint64_t run = 0;
        for (std::uint64_t i = 0; i < kChunkBlocks; ++i) {
            const std::uint64_t number = chunk * kChunkBlocks + i;
            run = marked(number) ? 0 : run + 1;
            if (run < blocks) continue;
            for (unsigned copy = 0; copy < 2; ++copy)
                summary(copy).kind[chunk] = static_cast<std::uint8_t>(kind);
            mark(number + 1 - blocks, blocks, true);
            return number + 1 - blocks;
        }
    }
    FAIL("the builder's volume is full");
    return 0;
}

std::uint64_t Builder::make(std::uint32_t mode) {
    State &root = state();
    const std::uint64_t number = root.free_inode_head.get();
    REQUIRE(number != 0);
    Inode &made = inode(number);
    root.free_inode_head = made.next;
    root.inodes_used.set(root.inodes_used.get() + 1);
    made.next.set(0);
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
    state().orphan_head.set(numbers.empty() ? 0 : numbers[0]);
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
    state().grant_head.set(numbers.empty() ? 0 : numbers[0]);
}

void Builder::finish() {
    REQUIRE(group_count(block_count()) == 1);
    const GroupLayout layout = layout_of(block_count(), 0);
    std::uint32_t free_chunks = 0, free[3] = {};
    for (std::uint64_t chunk = 0; chunk < block_count() / kChunkBlocks; ++chunk) {
        const std::uint8_t kind = summary().kind[chunk];
        free_chunks += kind == 0;
        for (std::uint64_t i = 0; i < kChunkBlocks; ++i)
            if (kind < 3) free[kind] += !marked(chunk * kChunkBlocks + i);
    }
    for (unsigned copy = 0; copy < 2; ++copy) {
        summary(copy).free_chunks.set(free_chunks);
        summary(copy).meta_free.set(free[1]);
        summary(copy).data_free.set(free[2]);
    }
    for (std::uint64_t number = layout.summary_a; number < layout.end; ++number) seal(number);

    for (std::uint64_t number = 0; number < state().inodes_total.get(); ++number)
        seal_inode(number);
    seal_block(state().inode_table);
    const BlockHeader header = state(1).header;
    state(1) = state(0);
    state(1).header = header;
    seal(sb().state_block[0].get());
    seal(sb().state_block[1].get());
}

namespace {

InlineExtent extent(std::uint64_t at, std::uint64_t start, std::uint32_t blocks,
                    std::uint32_t flags = 0) {
    return {le64(at), le64(start), le32(blocks), le32(flags)};
}

}  // namespace

Populated::Populated(std::uint64_t mapping_unit, std::uint32_t minor)
    : b(8 * kMiB, mapping_unit, minor) {
    directory = b.make(S_IFDIR | 0755);
    subdirectory = b.make(S_IFDIR | 0700);
    big_directory = b.make(S_IFDIR | 0755);
    make_files();
    make_values();
    make_orphans();
    make_names();
    if (minor != 0) make_grants();
    freed = b.state().free_inode_head.get();
    free_meta = b.take(ChunkKind::meta);
    free_data = b.take(ChunkKind::data);
    b.mark(free_meta, 1, false);
    b.mark(free_data, 1, false);
    free_chunk = 2 * kChunkBlocks;
    b.finish();
}

void Populated::make_files() {
    sealed = b.make(S_IFREG | 0644);  // first, for its alignment
    const std::uint64_t sealed_start = b.take(ChunkKind::data, 16);
    b.inode(sealed).size.set(7 * kBlockSize + 100);
    b.set_inline(sealed, {extent(0, sealed_start, 4), extent(4, sealed_start + 8, 4)});
    b.mark(sealed_start + 4, 4, false);
    b.mark(sealed_start + 12, 4, false);
    b.seal_map(sealed, true);

    file = b.make(S_IFREG | 0640);
    const std::uint64_t start = b.take(ChunkKind::data, 6);
    b.inode(file).size.set(100 * kBlockSize);
    b.set_inline(file, {extent(0, start, 2), extent(50, start + 2, 3, kUnwritten),
                        extent(99, start + 5, 1)});

    tree_file = b.make(S_IFREG | 0600);
    std::vector<InlineExtent> extents;
    for (std::uint64_t i = 0; i < 200; ++i)
        extents.push_back(extent(2 * i, b.take(ChunkKind::data), 1));
    b.inode(tree_file).size.set(400 * kBlockSize);
    b.set_map_tree(tree_file, extents, 100);
    map_root = b.last_nodes()[0];
    map_leaf = b.last_nodes()[1];
    map_leaf_2 = b.last_nodes()[2];

    as_is = b.make(S_IFREG | 0644);
    b.inode(as_is).size.set(10 * kBlockSize);
    b.set_inline(as_is, {extent(1, b.take(ChunkKind::data), 1, kUnwritten),
                         extent(9, b.take(ChunkKind::data), 1)});
    b.seal_map(as_is, false);
    many_links = b.make(S_IFREG | 0644);
}

void Populated::make_values() {
    attributes = b.make(S_IFREG | 0644);
    b.add_xattrs(attributes, {{"user.small", "a value"},
                              {"user.empty", ""},
                              {"user.large", std::string(2 * kBlobBytes - 1, 'x')}});
    xattr_leaf = b.last_nodes()[0];
    short_link = b.make(S_IFLNK | 0777);
    b.set_target(short_link, "directory/file");
    long_link = b.make(S_IFLNK | 0777);
    b.set_target(long_link, std::string(1000, 'y'));
    link_blob =
        load<InlineExtent>(std::as_bytes(std::span(b.inode(long_link).inline_bytes))).start.get();
    xattr_blob = link_blob - 1;  // the one before: the last piece of user.large
    pipe = b.make(S_IFIFO | 0600);
    device = b.make(S_IFCHR | 0600);
    b.inode(device).rdev.set(std::uint64_t{1} << 32 | 3);
}

void Populated::make_orphans() {
    orphan = b.make(S_IFREG | 0600);
    b.set_inline(orphan, {extent(0, b.take(ChunkKind::data), 1)});
    trimming = b.make(S_IFREG | 0600);
    b.inode(trimming).flags.set(kTrimPending);
    b.inode(trimming).trim_from.set(kDonorBase);
    b.set_inline(trimming, {extent(kDonorBase + 5, b.take(ChunkKind::data), 1)});
    b.set_orphans({orphan, trimming});
}

void Populated::make_names() {
    std::vector<std::pair<std::string, std::uint64_t>> links;
    for (unsigned i = 0; i < 90; ++i) links.emplace_back("name " + std::to_string(i), many_links);
    b.set_entries(big_directory, links);
    big_root = b.last_nodes()[0];
    big_leaf = b.last_nodes()[1];
    big_leaf_2 = b.last_nodes()[2];
    b.set_entries(directory, {{"file", file},
                              {"file again", file},
                              {"tree file", tree_file},
                              {"sub", subdirectory},
                              {"sealed", sealed},
                              {"as is", as_is}});
    directory_leaf = b.last_nodes()[0];
    b.set_entries(kRootIno, {{"directory", directory},
                             {"big", big_directory},
                             {"attributes", attributes},
                             {"short link", short_link},
                             {"long link", long_link},
                             {"pipe", pipe},
                             {"device", device},
                             {"trimming", trimming}});
}

// Two processes map the start of `file`, and blocks that it had once.  A third one maps what was a
// file in the slot that `device` has now.
void Populated::make_grants() {
    const std::uint64_t start =
        load<InlineExtent>(std::as_bytes(std::span(b.inode(file).inline_bytes))).start.get();
    kept = b.take(ChunkKind::data, 3);
    grant = b.make_grant(file, kGrantStores);
    b.set_inline(grant, {extent(start, start, 2), extent(kept, kept, 2)});
    grant_again = b.make_grant(file, kGrantStores | kGrantRevoked);
    b.set_inline(grant_again, {extent(start + 1, start + 1, 1), extent(kept + 1, kept + 1, 2)});

    grant_tree = b.make_grant(device, 0);
    b.inode(device).generation.set(2);
    std::vector<InlineExtent> extents;
    for (std::uint64_t i = 0; i < 20; ++i) {
        const std::uint64_t block = b.take(ChunkKind::data);
        extents.push_back(extent(block, block, 1));
    }
    b.set_map_tree(grant_tree, extents, 10);
    grant_root = b.last_nodes()[0];
    grant_leaf = b.last_nodes()[1];
    b.set_grants({grant, grant_again, grant_tree});
}

}  // namespace pmfs::test
