// Faults in what the whole volume rests on: journal headers, inode maps, lists, space and trees.
#include "unit/fsck_plants.h"

namespace pmfs::test {
namespace {

const Planted kPlants[] = {
    // --- the journal
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
    // --- inode maps
    {Code::inode_map_damaged, "of chunk 0", [](Populated &p) { damage(p, kMap); }, false},
    {Code::inode_map_damaged, "of another chunk",
     [](Populated &p) { damage(p, p.b.inode_map_block(Populated::kFarChunk)); }, false},
    {Code::inode_map_damaged, "something where nothing is yet",
     [](Populated &p) {
         p.b.bytes(kMap)[4000] = std::byte{1};
         p.b.seal(kMap);
     },
     false},
    {Code::inode_map_misplaced, "chunk 0's",
     [](Populated &p) {
         p.b.summary().inode_map[0].set(30);
         p.b.seal_summary();
     },
     false},
    {Code::inode_map_misplaced, "chunk 0 without",
     [](Populated &p) {
         p.b.summary().inode_map[0].set(0);
         p.b.seal_summary();
     },
     false},
    {Code::inode_map_misplaced, "in another chunk",
     [](Populated &p) {
         p.b.summary().inode_map[Populated::kFarChunk].set(513);
         p.b.seal_summary();
     },
     false},
    {Code::inode_map_misplaced, "past the end",
     [](Populated &p) {
         p.b.summary().inode_map[4].set(1);
         p.b.seal_summary();
     },
     false},
    {Code::inode_map_misplaced, "in a free block",
     [](Populated &p) {
         p.b.summary().inode_map[2].set(7);
         p.b.seal_summary();
     },
     false},
    {Code::inode_map_misplaced, "a forged one among a file's data",
     [](Populated &p) {
         const std::uint64_t block = inline_extent(p, p.file, 0).start.get();
         std::memcpy(p.b.bytes(block), p.b.bytes(kMap), kBlockSize);
         p.b.block<BlockHeader>(block).self.set(block);
         p.b.seal(block);
         p.b.summary().inode_map[block / kChunkBlocks].set(
             static_cast<std::uint16_t>(1 + block % kChunkBlocks));
         p.b.seal_summary();
     },
     false},
    {Code::inode_map_count_wrong, "inodes",
     [](Populated &p) {
         p.b.inode_map(0).used.set(1);
         p.b.seal(kMap);
     },
     false},
    {Code::inode_map_count_wrong, "blocks",
     [](Populated &p) {
         p.b.inode_map(0).blocks.set(1);
         p.b.seal(kMap);
     },
     false},
    {Code::inodes_used_wrong, "one more",
     [](Populated &p) {
         p.b.summary().inodes_used.set(p.b.summary().inodes_used.get() + 1);
         p.b.seal_summary();
     },
     false},
    {Code::inodes_made_wrong, "a block less",
     [](Populated &p) {
         p.b.summary().inodes_made.set(p.b.summary().inodes_made.get() - 8);
         p.b.seal_summary();
     },
     false},
    {Code::inode_marked_free, "a file", [](Populated &p) { p.b.set_slot(p.file, false); }},
    {Code::inode_marked_free, "the root", [](Populated &p) { p.b.set_slot(kRootIno, false); }},
    {Code::free_inode_marked_used, "a free one", [](Populated &p) { p.b.set_slot(p.freed, true); }},
    {Code::free_inode_marked_used, "one that is not there",
     [](Populated &p) { p.b.set_slot(511 * kInodesPerBlock + 7, true); }},
    {Code::inode_block_unmarked, "as data",
     [](Populated &p) { p.b.classify(p.file / kInodesPerBlock, 1, false); }},
    {Code::inode_block_unmarked, "as free",
     [](Populated &p) { p.b.release(p.pipe / kInodesPerBlock, 1); }},
    {Code::inode_block_unmarked, "forged ones among a file's data",
     [](Populated &p) {
         const std::uint64_t block = inline_extent(p, p.orphan, 0).start.get();
         std::memcpy(p.b.bytes(block), p.b.bytes(p.file / kInodesPerBlock), kBlockSize);
         for (std::uint64_t slot = 0; slot < kInodesPerBlock; ++slot)
             p.b.inode(block * kInodesPerBlock + slot)
                 .header.self.set(block * kInodesPerBlock + slot);
         p.b.inode_map(0).made[block / 64].set(p.b.inode_map(0).made[block / 64].get() |
                                               std::uint64_t{1} << (block % 64));
     }},

    {Code::inode_map_damaged, "a block of inodes in its place",
     [](Populated &p) {
         p.b.summary().inode_map[Populated::kFarChunk].set(
             static_cast<std::uint16_t>(1 + p.pipe / kInodesPerBlock % kChunkBlocks));
         p.b.seal_summary();
     },
     false},
    {Code::inode_map_damaged, "of a chunk with a file that a grant record names",
     [](Populated &p) {
         p.b.inode(p.grant_tree).parent.set(p.pipe);
         p.b.finish();
         p.b.summary().inode_map[Populated::kFarChunk].set(
             static_cast<std::uint16_t>(1 + p.pipe / kInodesPerBlock % kChunkBlocks));
         p.b.seal_summary();
     },
     false},
    {Code::block_owned_twice, "an inode map in the place of the superblock's copy",
     [](Populated &p) {
         p.b.summary().inode_map[Populated::kFarChunk].set(kChunkBlocks);
         p.b.seal_summary();
     },
     false},
    {Code::block_owned_twice, "a block of inodes in the place of the inode map",
     [](Populated &p) {
         InodeMap &map = p.b.inode_map(0);
         map.made[0].set(map.made[0].get() | std::uint64_t{1} << kMap);
         map.blocks.set(map.blocks.get() + 1);
         p.b.seal(kMap);
         p.b.summary().inodes_made.set(p.b.summary().inodes_made.get() + 8);
         p.b.seal_summary();
     },
     false},

    // --- lists
    {Code::orphan_list_wrong_inode, "one that has a name",
     [](Populated &p) { p.b.inode(p.trimming).next.set(p.file); }},
    {Code::orphan_list_wrong_inode, "far out",
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
         p.b.summary().orphan_head.set(p.trimming);
         p.b.inode(p.trimming).prev.set(0);
     }},
    {Code::stray_list_links, "in a file", [](Populated &p) { p.b.inode(p.file).next.set(7); }},

    // --- space
    {Code::summary_damaged, "the first", [](Populated &p) { damage(p, kSummaryA); }, false},
    {Code::summary_damaged, "the second", [](Populated &p) { damage(p, kSummaryB); }, false},
    {Code::summaries_differ, "one count",
     [](Populated &p) {
         p.b.block<Summary>(kSummaryB).partial_free.set(1);
         p.b.seal(kSummaryB);
     },
     false},
    {Code::summary_lost, "both",
     [](Populated &p) {
         damage(p, kSummaryA);
         damage(p, kSummaryB);
     },
     false},
    {Code::bitmap_damaged, "one bit", [](Populated &p) { damage(p, kBitmap); }, false},
    {Code::bitmap_damaged, "of one that has no chunk yet",
     [](Populated &p) { damage(p, kBitmap + 8); }, false},
    {Code::bitmap_damaged, "of classes", [](Populated &p) { damage(p, kClasses); }, false},
    {Code::summary_count_wrong, "one more",
     [](Populated &p) {
         p.b.summary().partial_free.set(p.b.summary().partial_free.get() + 1);
         p.b.seal_summary();
     },
     false},
    {Code::chunk_kind_unknown, "7",
     [](Populated &p) {
         p.b.summary().kind[2] = 7;
         p.b.seal_summary();
     },
     false},
    {Code::chunk_kind_unknown, "past the end",
     [](Populated &p) {
         p.b.summary().kind[4] = 1;
         p.b.seal_summary();
     },
     false},
    {Code::chunk_kind_wrong, "a mixed one as one of data",
     [](Populated &p) {
         p.b.summary().kind[0] = 2;
         p.b.seal_summary();
     },
     false},
    {Code::chunk_kind_wrong, "one of data as a mixed one",
     [](Populated &p) {
         p.b.summary().kind[1] = 3;
         p.b.seal_summary();
     },
     false},
    {Code::chunk_kind_wrong, "one in use as a free one",
     [](Populated &p) {
         p.b.summary().kind[1] = 0;
         p.b.seal_summary();
     },
     false},
    {Code::chunk_kind_wrong, "a free one as one of metadata",
     [](Populated &p) {
         p.b.summary().kind[2] = 1;
         p.b.seal_summary();
     },
     false},
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
    {Code::block_leaked, "in a chunk that is free but for it",
     [](Populated &p) { p.b.mark(p.free_chunk, 1, true); }},
    {Code::block_leaked, "in a chunk that its group calls free",
     [](Populated &p) {
         p.b.mark(p.free_chunk, 1, true);
         p.b.finish();
         p.b.summary().kind[p.free_chunk / kChunkBlocks] = 0;
         p.b.seal_summary();
     },
     false},
    {Code::metadata_marked_data, "a node",
     [](Populated &p) { p.b.classify(p.directory_leaf, 1, false); }},
    {Code::metadata_marked_data, "a root",
     [](Populated &p) { p.b.classify(p.map_root, 1, false); }},
    {Code::metadata_marked_data, "the journal",
     [](Populated &p) { p.b.classify(p.b.sb().journal_start.get(), 3, false); }},
    {Code::metadata_marked_data, "the superblock's copy",
     [](Populated &p) { p.b.classify(p.b.sb().copy_block.get(), 1, false); }},
    {Code::metadata_marked_data, "a forged node among data, with a forged name",
     [](Populated &p) {
         move_block(p, p.directory_leaf, p.free_data);
         value_with(p, p.free_data, "tree file")[sizeof(DirValue) + 4] = std::byte{'/'};
         p.b.seal(p.free_data);
         p.b.classify(p.free_data, 1, false);
         p.b.inode(p.directory).map_root.set(p.free_data);
     }},
    {Code::data_marked_metadata, "a file's",
     [](Populated &p) { p.b.classify(inline_extent(p, p.file, 1).start.get(), 3, true); }},
    {Code::data_marked_metadata, "an attribute's value",
     [](Populated &p) { p.b.classify(p.xattr_blob, 1, true); }},
    {Code::data_marked_metadata, "among metadata",
     [](Populated &p) {
         p.b.release(inline_extent(p, p.file, 2).start.get(), 1);
         p.b.mark(p.free_meta, 1, true);
         p.b.classify(p.free_meta, 1, true);
         inline_extent(p, p.file, 2).start.set(p.free_meta);
     }},
    {Code::free_block_marked_metadata, "among data",
     [](Populated &p) { p.b.classify(p.free_data, 1, true); }},
    {Code::bits_past_end, "a bit",
     [](Populated &p) { p.b.block<BitmapBlock>(kBitmap).bits[10][3].set(4); }},
    {Code::bits_past_end, "a class",
     [](Populated &p) { p.b.block<BitmapBlock>(kClasses + 8).bits[2][0].set(1); }},
    {Code::summary_group_wrong, "1", [](Populated &p) { p.b.summary().group.set(1); }},

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

std::span<const Planted> volume_plants() {
    return kPlants;
}

}  // namespace pmfs::test
