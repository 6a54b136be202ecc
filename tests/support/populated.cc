// A volume with one of everything: see builder.h.
#include <sys/stat.h>

#include <cstring>
#include <span>
#include <string>

#include "support/builder.h"

namespace pmfs::test {

using namespace media;

namespace {

InlineExtent extent(std::uint64_t at, std::uint64_t start, std::uint32_t blocks,
                    std::uint32_t flags = 0) {
    return {le64(at), le64(start), le32(blocks), le32(flags)};
}

}  // namespace

Populated::Populated(std::uint64_t mapping_unit) : b(8 * kMiB, mapping_unit) {
    directory = b.make(S_IFDIR | 0755);
    subdirectory = b.make(S_IFDIR | 0700);
    big_directory = b.make(S_IFDIR | 0755);
    make_files();
    make_values();
    make_orphans();
    make_names();
    make_grants();
    freed = b.make(S_IFREG | 0600);
    b.inode(freed).mode.set(0);
    std::memset(static_cast<void *>(&b.inode(freed).mode), 0,
                sizeof(Inode) - offsetof(Inode, mode));
    b.set_slot(freed, false);
    free_meta = b.take(ChunkKind::meta, 1, 0);
    free_data = b.take(ChunkKind::data);
    b.release(free_meta, 1);
    b.release(free_data, 1);
    free_chunk = 2 * kChunkBlocks;
    b.finish();
}

void Populated::make_files() {
    sealed = b.make(S_IFREG | 0644);  // first, for its alignment
    const std::uint64_t sealed_start = b.take(ChunkKind::data, 16);
    b.inode(sealed).size.set(7 * kBlockSize + 100);
    b.set_inline(sealed, {extent(0, sealed_start, 4), extent(4, sealed_start + 8, 4)});
    b.release(sealed_start + 4, 4);
    b.release(sealed_start + 12, 4);
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
    pipe = b.make(S_IFIFO | 0600, kFarChunk);
    device = b.make(S_IFCHR | 0600);
    b.inode(device).rdev.set(std::uint64_t{1} << 32 | 3);
}

void Populated::make_orphans() {
    orphan = b.make(S_IFREG | 0600);
    // Among metadata: chunk 0 is a mixed one.
    b.set_inline(orphan, {extent(0, b.take(ChunkKind::data, 1, 0), 1)});
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
