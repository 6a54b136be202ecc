// A volume written by hand: mkfs, then files, trees and lists straight into the bytes.
//
// Shares no code with the engine or with fsck, so that neither judges its own work.  Tests of fsck
// plant one fault in it; golden digests hold the format still.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "media/format.h"
#include "pm/region.h"

namespace pmfs::test {

// Everything that mkfs would draw by lot is fixed.
std::unique_ptr<pm::Region> fixed_volume(std::uint64_t size, std::uint64_t mapping_unit = 4096);

using TreeEntry = std::pair<std::uint64_t, std::vector<std::byte>>;

class Builder {
public:
    explicit Builder(std::uint64_t size, std::uint64_t mapping_unit = 4096);

    pm::Region &region() { return *region_; }
    const media::Superblock &sb() { return block<media::Superblock>(0); }
    std::uint64_t block_count() { return sb().block_count.get(); }

    // The block's bytes on the volume, to read and to change.
    std::byte *bytes(std::uint64_t block);
    template <class T>
    T &block(std::uint64_t number) {
        return *reinterpret_cast<T *>(bytes(number));
    }
    media::Inode &inode(std::uint64_t number);
    media::Summary &summary(std::uint64_t group = 0);  // its first copy; finish() makes the other
    media::InodeMap &inode_map(std::uint64_t chunk);   // which must have one
    std::uint64_t inode_map_block(std::uint64_t chunk);
    void seal(std::uint64_t block);  // a 4 KiB block's checksum
    void seal_inode(std::uint64_t number);
    void seal_summary(std::uint64_t group = 0);  // both copies

    // --- space.  Bitmaps change at once, kinds and counts with finish().
    // Free blocks in a row that are now `kind`: meta or data; in `chunk`, or in the first one that
    // is of that kind or free.
    static constexpr std::uint64_t kAnyChunk = ~std::uint64_t{0};
    std::uint64_t take(media::ChunkKind kind, std::uint64_t blocks = 1,
                       std::uint64_t chunk = kAnyChunk);
    void release(std::uint64_t start, std::uint64_t blocks);          // both bits
    void mark(std::uint64_t start, std::uint64_t blocks, bool used);  // in use or not
    void classify(std::uint64_t start, std::uint64_t blocks, bool metadata);
    bool marked(std::uint64_t block);
    bool is_metadata(std::uint64_t block);
    media::ChunkKind kind_of(std::uint64_t chunk);  // by its bits

    // --- content
    // Takes the next free inode of the chunk (the root's), with new blocks when it has none.
    // Directories begin with nlink 2.
    std::uint64_t make(std::uint32_t mode, std::uint64_t chunk = kAnyChunk);
    // The first slot that is free in `chunk`, or 0.
    std::uint64_t free_inode(std::uint64_t chunk);
    void set_slot(std::uint64_t number, bool used);
    void add_xattrs(std::uint64_t number,
                    const std::vector<std::pair<std::string, std::string>> &xattrs);
    // Blocks of a file, in file order.
    void set_inline(std::uint64_t number, const std::vector<media::InlineExtent> &extents);
    void set_map_tree(std::uint64_t number, const std::vector<media::InlineExtent> &extents,
                      std::size_t per_leaf);
    void set_target(std::uint64_t number, std::string_view target);
    // The piece of a large value that begins at `offset`; gives its block.
    std::uint64_t put_blob(std::uint64_t owner, std::string_view value, std::uint64_t offset);
    void seal_map(std::uint64_t number, bool full);
    // All entries of a directory at once: names and inode numbers; counts links.
    void set_entries(std::uint64_t number,
                     const std::vector<std::pair<std::string, std::uint64_t>> &entries,
                     std::size_t per_leaf = 40);
    void set_orphans(const std::vector<std::uint64_t> &numbers);
    // A grant record of a process that maps blocks of `file`, which must still have the generation
    // that is meant.  Extents, each under the number of its first block, are for set_inline() or
    // set_map_tree(): a record does not count their blocks.
    std::uint64_t make_grant(std::uint64_t file, std::uint32_t flags);
    void set_grants(const std::vector<std::uint64_t> &numbers);

    // Makes counts, copies and checksums agree with what was put in.
    void finish();

    // Blocks of the nodes of the last tree that was made: root first.
    const std::vector<std::uint64_t> &last_nodes() const { return last_nodes_; }

    std::uint64_t name_key(std::string_view name) const;

private:
    std::uint64_t make_tree(std::uint64_t owner, media::TreeKind kind,
                            const std::vector<TreeEntry> &entries, std::size_t per_leaf);
    std::uint64_t put_node(std::uint64_t owner, media::TreeKind kind, unsigned level,
                           const TreeEntry *entries, std::size_t count);
    media::le64 &word_of(std::uint64_t block, bool classes);
    void set_bits(std::uint64_t start, std::uint64_t blocks, bool classes, bool on);
    void make_block(std::uint64_t chunk);  // of inodes
    std::uint64_t number_of(std::uint64_t block, std::uint64_t slot);
    void finish_group(std::uint64_t group);
    void finish_inodes(std::uint64_t chunk);

    void chain(const std::vector<std::uint64_t> &numbers);

    std::unique_ptr<pm::Region> region_;
    std::vector<std::uint64_t> last_nodes_;
};

// A volume with one of everything.  Numbers of inodes and blocks that tests plant faults in.
struct Populated {
    explicit Populated(std::uint64_t mapping_unit = 4096);
    Builder b;

    std::uint64_t file, tree_file, sealed, as_is, many_links, attributes, short_link, long_link,
        pipe, device, directory, subdirectory, big_directory, orphan, trimming, freed;
    static constexpr std::uint64_t kFarChunk = 3;    // of `pipe`: it has an inode map of its own
    std::uint64_t map_root, map_leaf, map_leaf_2;    // of tree_file
    std::uint64_t directory_leaf;                    // of directory
    std::uint64_t big_root, big_leaf, big_leaf_2;    // of big_directory
    std::uint64_t xattr_leaf, xattr_blob;            // of attributes
    std::uint64_t link_blob;                         // of long_link
    std::uint64_t grant, grant_again, grant_tree;    // the first two are of `file`
    std::uint64_t kept;                              // 3 blocks that `file` gave up
    std::uint64_t grant_root, grant_leaf;            // of grant_tree
    std::uint64_t free_meta, free_data, free_chunk;  // unused blocks

private:
    void make_files();
    void make_values();
    void make_orphans();
    void make_names();
    void make_grants();
};

}  // namespace pmfs::test
