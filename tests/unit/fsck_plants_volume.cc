// Faults in what the whole volume rests on: journal headers, state, lists, space and trees.
#include "unit/fsck_plants.h"

namespace pmfs::test {
namespace {

const Plant kPlants[] = {
    // --- state and lists
    {Code::ring_headers_damaged, "both",
     [](Populated &p) {
         damage(p, p.b.sb().journal_start.get());
         damage(p, p.b.sb().journal_start.get() + 1);
     }},
    {Code::ring_tail_outside, "past the ring",
     [](Populated &p) {
         for (std::uint64_t i = 0; i < 2; ++i) {
             const std::uint64_t block = p.b.sb().journal_start.get() + i;
             p.b.block<RingHeader>(block).tail_offset.set(1 << 20);
             p.b.seal(block);
         }
     }},
    {Code::state_copy_damaged, "the first",
     [](Populated &p) { damage(p, p.b.sb().state_block[0].get()); }, false},
    {Code::state_copy_damaged, "the second",
     [](Populated &p) { damage(p, p.b.sb().state_block[1].get()); }, false},
    {Code::state_copies_differ, "one count",
     [](Populated &p) {
         p.b.state(1).inodes_used.set(1);
         p.b.seal(p.b.sb().state_block[1].get());
     },
     false},
    {Code::state_lost, "both",
     [](Populated &p) {
         damage(p, p.b.sb().state_block[0].get());
         damage(p, p.b.sb().state_block[1].get());
     },
     false},
    {Code::inodes_used_wrong, "one more",
     [](Populated &p) { p.b.state().inodes_used.set(p.b.state().inodes_used.get() + 1); }},
    {Code::inodes_total_wrong, "a block less",
     [](Populated &p) { p.b.state().inodes_total.set(24); }},
    {Code::free_list_wrong_inode, "one in use",
     [](Populated &p) { p.b.state().free_inode_head.set(p.file); }},
    {Code::free_list_wrong_inode, "past the table",
     [](Populated &p) { p.b.inode(p.freed).next.set(1'000'000); }},
    {Code::free_list_loop, "to itself", [](Populated &p) { p.b.inode(p.freed).next.set(p.freed); }},
    {Code::free_inode_not_listed, "the first left out",
     [](Populated &p) { p.b.state().free_inode_head = p.b.inode(p.freed).next; }},
    {Code::orphan_list_wrong_inode, "one that has a name",
     [](Populated &p) { p.b.inode(p.trimming).next.set(p.file); }},
    {Code::orphan_list_wrong_inode, "past the table",
     [](Populated &p) { p.b.inode(p.trimming).next.set(~std::uint64_t{0}); }},
    {Code::orphan_list_links, "no link back",
     [](Populated &p) { p.b.inode(p.trimming).prev.set(0); }},
    {Code::orphan_list_links, "a circle",
     [](Populated &p) {
         p.b.inode(p.trimming).next.set(p.orphan);
         p.b.inode(p.orphan).prev.set(0);
     }},
    {Code::orphan_not_listed, "the first left out",
     [](Populated &p) {
         p.b.state().orphan_head.set(p.trimming);
         p.b.inode(p.trimming).prev.set(0);
     }},
    {Code::stray_list_links, "in a file", [](Populated &p) { p.b.inode(p.file).next.set(7); }},

    // --- space
    {Code::summary_damaged, "the first", [](Populated &p) { damage(p, 1); }, false},
    {Code::summary_damaged, "the second", [](Populated &p) { damage(p, 3); }, false},
    {Code::summaries_differ, "one count",
     [](Populated &p) {
         p.b.summary(1).meta_free.set(1);
         p.b.seal(3);
     },
     false},
    {Code::summary_lost, "both",
     [](Populated &p) {
         damage(p, 1);
         damage(p, 3);
     },
     false},
    {Code::bitmap_damaged, "one bit", [](Populated &p) { damage(p, 2); }, false},
    {Code::summary_count_wrong, "one more",
     [](Populated &p) {
         for (unsigned i = 0; i < 2; ++i)
             p.b.summary(i).data_free.set(p.b.summary(i).data_free.get() + 1);
         p.b.seal(1);
         p.b.seal(3);
     },
     false},
    {Code::chunk_kind_unknown, "7",
     [](Populated &p) { p.b.summary(0).kind[2] = p.b.summary(1).kind[2] = 7; }},
    {Code::chunk_kind_unknown, "past the end",
     [](Populated &p) { p.b.summary(0).kind[4] = p.b.summary(1).kind[4] = 1; }},
    {Code::block_marked_free, "a file's",
     [](Populated &p) { p.b.mark(inline_extent(p, p.file, 1).start.get(), 3, false); }},
    {Code::block_marked_free, "a node's", [](Populated &p) { p.b.mark(p.map_leaf, 1, false); }},
    {Code::block_leaked, "data", [](Populated &p) { p.b.mark(p.free_data, 1, true); }},
    {Code::block_leaked, "metadata", [](Populated &p) { p.b.mark(p.free_meta, 1, true); }},
    {Code::block_owned_twice, "within a file",
     [](Populated &p) {
         p.b.mark(inline_extent(p, p.file, 2).start.get(), 1, false);
         inline_extent(p, p.file, 2).start = inline_extent(p, p.file, 0).start;
     }},
    {Code::block_owned_twice, "of two files",
     [](Populated &p) {
         p.b.mark(inline_extent(p, p.file, 2).start.get(), 1, false);
         inline_extent(p, p.file, 2).start = inline_extent(p, p.orphan, 0).start;
     }},
    {Code::metadata_in_wrong_chunk, "a node among data",
     [](Populated &p) {
         move_block(p, p.directory_leaf, p.free_data);
         p.b.inode(p.directory).map_root.set(p.free_data);
     }},
    {Code::metadata_in_wrong_chunk, "a node in a free chunk",
     [](Populated &p) {
         move_block(p, p.directory_leaf, p.free_chunk);
         p.b.inode(p.directory).map_root.set(p.free_chunk);
     }},
    {Code::data_in_wrong_chunk, "among metadata",
     [](Populated &p) {
         p.b.mark(inline_extent(p, p.file, 2).start.get(), 1, false);
         p.b.mark(p.free_meta, 1, true);
         inline_extent(p, p.file, 2).start.set(p.free_meta);
     }},
    {Code::free_chunk_in_use, "a bit", [](Populated &p) { p.b.mark(p.free_chunk, 1, true); }},
    {Code::bits_past_end, "a bit",
     [](Populated &p) { p.b.block<BitmapBlock>(2).bits[10][3].set(4); }},
    {Code::summary_group_wrong, "1",
     [](Populated &p) {
         p.b.summary(0).group.set(1);
         p.b.summary(1).group.set(1);
     }},

    // --- trees
    {Code::node_damaged, "a leaf", [](Populated &p) { damage(p, p.map_leaf); }},
    {Code::node_damaged, "a root", [](Populated &p) { damage(p, p.map_root); }},
    {Code::node_damaged, "a directory's", [](Populated &p) { damage(p, p.big_leaf); }},
    {Code::node_of_other_tree, "another owner",
     [](Populated &p) {
         p.b.block<NodeHeader>(p.map_leaf).owner.set(p.file);
         p.b.seal(p.map_leaf);
     }},
    {Code::node_of_other_tree, "another kind",
     [](Populated &p) {
         p.b.block<NodeHeader>(p.xattr_leaf).kind = 1;
         p.b.seal(p.xattr_leaf);
     }},
    {Code::node_level_wrong, "a leaf of level 1",
     [](Populated &p) {
         p.b.block<NodeHeader>(p.map_leaf).level = 1;
         p.b.seal(p.map_leaf);
     }},
    {Code::node_level_wrong, "a root of level 16",
     [](Populated &p) {
         p.b.block<NodeHeader>(p.map_root).level = 16;
         p.b.seal(p.map_root);
     }},
    {Code::node_entries_broken, "a slot past the end",
     [](Populated &p) {
         const le16 slot(4095);
         std::memcpy(p.b.bytes(p.map_leaf) + sizeof(NodeHeader), &slot, sizeof slot);
         p.b.seal(p.map_leaf);
     }},
    {Code::node_entries_broken, "an entry past the end",
     [](Populated &p) {
         const le16 size(1200);
         std::memcpy(entry(p, p.map_leaf, 0) + 8, &size, sizeof size);
         p.b.seal(p.map_leaf);
     }},
    {Code::node_entries_broken, "two on each other",
     [](Populated &p) {
         std::byte *slots = p.b.bytes(p.map_leaf) + sizeof(NodeHeader);
         std::memcpy(slots + 2, slots, 2);
         p.b.seal(p.map_leaf);
     }},
    {Code::node_entries_broken, "dead bytes",
     [](Populated &p) {
         p.b.block<NodeHeader>(p.map_leaf).dead_bytes.set(1);
         p.b.seal(p.map_leaf);
     }},
    {Code::node_entries_broken, "more slots than fit",
     [](Populated &p) {
         p.b.block<NodeHeader>(p.map_leaf).count.set(65535);
         p.b.seal(p.map_leaf);
     }},
    {Code::node_keys_unordered, "two exchanged",
     [](Populated &p) {
         const std::uint64_t third = key(p, p.map_leaf, 3);
         set_key(p, p.map_leaf, 3, key(p, p.map_leaf, 4));
         set_key(p, p.map_leaf, 4, third);
     }},
    {Code::node_keys_outside, "too low",
     [](Populated &p) { set_key(p, p.map_leaf_2, 0, key(p, p.map_leaf_2, 0) - 1); }},
    {Code::node_keys_outside, "too high",
     [](Populated &p) { set_key(p, p.map_leaf, 99, key(p, p.map_leaf_2, 0)); }},
    {Code::node_empty, "a root",
     [](Populated &p) {
         auto &header = p.b.block<NodeHeader>(p.map_root);
         header.count.set(0);
         header.heap_start.set(4096);
         p.b.seal(p.map_root);
     }},
    {Code::pointer_outside, "far out",
     [](Populated &p) {
         const le64 far(std::uint64_t{1} << 40);
         std::memcpy(entry(p, p.map_root, 1) + kEntryHeader, &far, sizeof far);
         p.b.seal(p.map_root);
     }},
    {Code::pointer_outside, "an inode's",
     [](Populated &p) { p.b.inode(p.tree_file).map_root.set(~std::uint64_t{0}); }},
};

}  // namespace

std::span<const Plant> volume_plants() {
    return kPlants;
}

}  // namespace pmfs::test
