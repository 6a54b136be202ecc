// Every problem that fsck knows: one fault is planted, and exactly its code is expected.
#include <doctest/doctest.h>
#include <sys/stat.h>

#include <cstring>
#include <functional>
#include <set>

#include "base/crc32c.h"
#include "fsck/check.h"
#include "media/geometry.h"
#include "media/verify.h"
#include "support/builder.h"

using namespace pmfs;
using namespace pmfs::media;
using fsck::Code;
using test::Builder;
using test::Populated;

namespace {

std::string codes_of(const fsck::Report &report) {
    std::set<std::string> codes;
    for (const fsck::Problem &problem : report.problems) codes.insert(fsck::text_of(problem));
    std::string text;
    for (const std::string &code : codes) text += code + "\n";
    return text;
}

void expect_exactly(pm::Region &region, Code code) {
    const auto report = fsck::check(region);
    REQUIRE(report.ok());
    INFO(codes_of(report.value()));
    CHECK(report.value().found != 0);
    for (const fsck::Problem &problem : report.value().problems)
        CHECK(fsck::id_of(problem.code) == fsck::id_of(code));
}

InlineExtent &inline_extent(Populated &p, std::uint64_t number, std::size_t i) {
    return reinterpret_cast<InlineExtent *>(p.b.inode(number).inline_bytes)[i];
}
void damage(Populated &p, std::uint64_t block) {
    p.b.bytes(block)[2000] ^= std::byte{1};
}
// The i-th entry of a node, in key order.
std::byte *entry(Populated &p, std::uint64_t node, std::size_t i) {
    std::byte *bytes = p.b.bytes(node);
    const auto slot = load<le16>(ConstBytes(bytes, kBlockSize), sizeof(NodeHeader) + 2 * i);
    return bytes + slot.get();
}
std::uint64_t key(Populated &p, std::uint64_t node, std::size_t i) {
    return load<le64>(ConstBytes(entry(p, node, i), kEntryHeader)).get();
}
void set_key(Populated &p, std::uint64_t node, std::size_t i, std::uint64_t value) {
    const le64 raw(value);
    std::memcpy(entry(p, node, i), &raw, sizeof raw);
    p.b.seal(node);
}
// The value of the one entry of `node` whose bytes end in `text`.
std::byte *value_with(Populated &p, std::uint64_t node, std::string_view text) {
    const std::size_t count = p.b.block<NodeHeader>(node).count.get();
    for (std::size_t i = 0; i < count; ++i) {
        std::byte *at = entry(p, node, i);
        const std::size_t size = load<le16>(ConstBytes(at, kEntryHeader), 8).get();
        const std::string_view value(reinterpret_cast<char *>(at) + kEntryHeader, size);
        if (value.find(text) != value.npos) return at + kEntryHeader;
    }
    FAIL("no such entry");
    return nullptr;
}
void set_target(Populated &p, std::uint64_t node, std::string_view name, std::uint64_t ino,
                std::uint64_t type) {
    const le64 packed(ino | type << kDirTypeShift);
    std::memcpy(value_with(p, node, name), &packed, sizeof packed);
    p.b.seal(node);
}
// The same metadata block at another place.
void move_block(Populated &p, std::uint64_t from, std::uint64_t to) {
    std::memcpy(p.b.bytes(to), p.b.bytes(from), kBlockSize);
    p.b.block<BlockHeader>(to).self.set(to);
    p.b.seal(to);
    p.b.mark(to, 1, true);
    p.b.mark(from, 1, false);
}

struct Plant {
    Code code;
    const char *how;
    std::function<void(Populated &)> plant;  // finish() follows
    bool finish = true;
    std::uint64_t mapping_unit = 4096;
};

const Plant kStatePlants[] = {
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
    {Code::free_list_loop, "to itself",
     [](Populated &p) { p.b.inode(p.freed).next.set(p.freed); }},
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
};

const Plant kSpacePlants[] = {
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
     [](Populated &p) { p.b.summary(0).kind[3] = p.b.summary(1).kind[3] = 7; }},
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
};

const Plant kTreePlants[] = {
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
     [](Populated &p) {
         set_key(p, p.map_leaf_2, 0, key(p, p.map_leaf_2, 0) - 1);
     }},
    {Code::node_keys_outside, "too high",
     [](Populated &p) {
         set_key(p, p.map_leaf, 99, key(p, p.map_leaf_2, 0));
     }},
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

const Plant kInodePlants[] = {
    {Code::inode_damaged, "a pipe", [](Populated &p) { p.b.inode(p.pipe).uid.set(77); }, false},
    {Code::inode_damaged, "a directory",
     [](Populated &p) { p.b.inode(p.directory).uid.set(77); }, false},
    {Code::inode_damaged, "a free one",
     [](Populated &p) { p.b.inode(p.freed).uid.set(77); }, false},
    {Code::inode_damaged, "in another's place",
     [](Populated &p) {
         p.b.inode(p.pipe).header.self.set(p.device);
         p.b.seal_inode(p.pipe);
     },
     false},
    {Code::mode_unknown, "type 5", [](Populated &p) { p.b.inode(p.pipe).mode.set(0050600); }},
    {Code::mode_unknown, "more bits",
     [](Populated &p) { p.b.inode(p.pipe).mode.set(0x10000 | S_IFIFO | 0600); }},
    {Code::flags_wrong, "unknown", [](Populated &p) { p.b.inode(p.file).flags.set(0x100); }},
    {Code::flags_wrong, "full but not sealed",
     [](Populated &p) { p.b.inode(p.file).flags.set(kSealedFull); }},
    {Code::flags_wrong, "a sealed directory",
     [](Populated &p) { p.b.inode(p.directory).flags.set(kSealed); }},
    {Code::blocks_wrong, "a file's",
     [](Populated &p) { p.b.inode(p.file).blocks.set(7); }},
    {Code::blocks_wrong, "a directory's",
     [](Populated &p) { p.b.inode(p.directory).blocks.set(0); }},
    {Code::blocks_wrong, "with xattrs",
     [](Populated &p) { p.b.inode(p.attributes).blocks.set(1); }},
    {Code::blocks_wrong, "the inode table's",
     [](Populated &p) { p.b.state().inode_table.blocks.set(5); }},
    {Code::size_wrong, "a pipe's", [](Populated &p) { p.b.inode(p.pipe).size.set(1); }},
    {Code::size_wrong, "a file's",
     [](Populated &p) { p.b.inode(p.file).size.set(kFileSizeMax + 1); }},
    {Code::size_wrong, "an empty symlink's",
     [](Populated &p) { p.b.inode(p.short_link).size.set(0); }},
    {Code::generation_zero, "a file", [](Populated &p) { p.b.inode(p.file).generation.set(0); }},
    {Code::time_wrong, "a second too many",
     [](Populated &p) { p.b.inode(p.file).mtime.nsec.set(1'000'000'000); }},
    {Code::inline_count_wrong, "too many",
     [](Populated &p) { p.b.inode(p.file).inline_count.set(12); }},
    {Code::inline_count_wrong, "in a pipe",
     [](Populated &p) { p.b.inode(p.pipe).inline_count.set(1); }},
    {Code::link_count_wrong, "a file's", [](Populated &p) { p.b.inode(p.file).nlink.set(3); }},
    {Code::link_count_wrong, "a directory's",
     [](Populated &p) { p.b.inode(p.directory).nlink.set(2); }},
    {Code::field_out_of_place, "a pipe's device number",
     [](Populated &p) { p.b.inode(p.pipe).rdev.set(1); }},
    {Code::field_out_of_place, "a pipe's block map",
     [](Populated &p) { p.b.inode(p.pipe).map_root.set(p.map_root); }},
    {Code::field_out_of_place, "a file's entries",
     [](Populated &p) { p.b.inode(p.file).entries.set(1); }},
    {Code::field_out_of_place, "slot 0", [](Populated &p) { p.b.inode(0).mode.set(S_IFREG); }},
    {Code::root_missing, "free",
     [](Populated &p) {
         p.b.inode(kRootIno).mode.set(0);
         p.b.state().inodes_used.set(p.b.state().inodes_used.get() - 1);
     }},
};

const Plant kNamePlants[] = {
    {Code::entry_broken, "too short",
     [](Populated &p) {
         std::byte *at = value_with(p, p.directory_leaf, "tree file") - kEntryHeader;
         const std::size_t was = load<le16>(ConstBytes(at, kEntryHeader), 8).get();
         const le16 size(7);
         std::memcpy(at + 8, &size, sizeof size);
         p.b.block<NodeHeader>(p.directory_leaf)
             .dead_bytes.set(static_cast<std::uint16_t>(was - 7));
         p.b.seal(p.directory_leaf);
     }},
    {Code::name_invalid, "a slash",
     [](Populated &p) {
         value_with(p, p.directory_leaf, "tree file")[sizeof(DirValue) + 4] = std::byte{'/'};
         p.b.seal(p.directory_leaf);
     }},
    {Code::name_invalid, "a zero byte",
     [](Populated &p) {
         value_with(p, p.directory_leaf, "tree file")[sizeof(DirValue) + 4] = std::byte{0};
         p.b.seal(p.directory_leaf);
     }},
    {Code::name_key_wrong, "another name",
     [](Populated &p) {
         value_with(p, p.directory_leaf, "tree file")[sizeof(DirValue) + 4] = std::byte{'-'};
         p.b.seal(p.directory_leaf);
     }},
    {Code::name_twice, "by collision index",
     [](Populated &p) {
         p.b.set_entries(p.subdirectory, {{"same", p.file}, {"same", p.file}});
         set_key(p, p.b.last_nodes()[0], 1, key(p, p.b.last_nodes()[0], 1) + 1);
     }},
    {Code::entry_to_nowhere, "a free inode",
     [](Populated &p) {
         p.b.set_entries(p.subdirectory, {{"gone", p.pipe}});
         p.b.inode(p.pipe).nlink.set(1);
         set_target(p, p.b.last_nodes()[0], "gone", p.freed, S_IFIFO >> 12);
     }},
    {Code::entry_to_nowhere, "past the table",
     [](Populated &p) {
         p.b.set_entries(p.subdirectory, {{"gone", p.pipe}});
         p.b.inode(p.pipe).nlink.set(1);
         set_target(p, p.b.last_nodes()[0], "gone", 1'000'000, S_IFIFO >> 12);
     }},
    {Code::entry_type_wrong, "a file as a pipe",
     [](Populated &p) {
         set_target(p, p.directory_leaf, "tree file", p.tree_file, S_IFIFO >> 12);
     }},
    {Code::directory_named_twice, "in two directories",
     [](Populated &p) {
         p.b.set_entries(p.subdirectory, {{"again", p.big_directory}});
         p.b.inode(p.big_directory).parent.set(kRootIno);
     }},
    {Code::directory_named_twice, "the root",
     [](Populated &p) {
         p.b.set_entries(p.subdirectory, {{"root", kRootIno}});
         p.b.inode(kRootIno).parent.set(kRootIno);
     }},
    {Code::parent_wrong, "another directory",
     [](Populated &p) { p.b.inode(p.directory).parent.set(p.big_directory); }},
    {Code::parent_wrong, "the root's",
     [](Populated &p) { p.b.inode(kRootIno).parent.set(p.directory); }},
    {Code::entries_wrong, "one more", [](Populated &p) { p.b.inode(p.directory).entries.set(7); }},
    {Code::entries_wrong, "empty", [](Populated &p) { p.b.inode(p.subdirectory).entries.set(1); }},
    {Code::inode_unreachable, "a file",
     [](Populated &p) { p.b.inode(p.b.make(S_IFREG | 0644)).nlink.set(1); }},
    {Code::inode_unreachable, "a directory", [](Populated &p) { p.b.make(S_IFDIR | 0755); }},
    {Code::directory_loop, "of two",
     [](Populated &p) {
         const std::uint64_t a = p.b.make(S_IFDIR | 0755), b = p.b.make(S_IFDIR | 0755);
         p.b.set_entries(a, {{"b", b}});
         p.b.set_entries(b, {{"a", a}});
     }},
    {Code::directory_loop, "of one",
     [](Populated &p) {
         const std::uint64_t a = p.b.make(S_IFDIR | 0755);
         p.b.set_entries(a, {{"a", a}});
     }},
};

const Plant kMapPlants[] = {
    {Code::extent_broken, "empty",
     [](Populated &p) { inline_extent(p, p.file, 1).blocks.set(0); }},
    {Code::extent_broken, "shared",
     [](Populated &p) { inline_extent(p, p.file, 1).flags.set(kShared); }},
    {Code::extent_broken, "in a tree",
     [](Populated &p) {
         const le32 zero(0);
         std::memcpy(entry(p, p.map_leaf, 5) + kEntryHeader + 8, &zero, sizeof zero);
         p.b.seal(p.map_leaf);
     }},
    {Code::extent_outside, "past the volume",
     [](Populated &p) { inline_extent(p, p.file, 1).start.set(2046); }},
    {Code::extent_outside, "wrapping round",
     [](Populated &p) { inline_extent(p, p.file, 1).start.set(~std::uint64_t{0}); }},
    {Code::extents_overlap, "by one block",
     [](Populated &p) { inline_extent(p, p.file, 1).file_block.set(1); }},
    {Code::extent_past_limit, "past the largest file",
     [](Populated &p) { inline_extent(p, p.file, 2).file_block.set(kFileBlocksMax); }},
    {Code::extent_past_limit, "a donor range at rest",
     [](Populated &p) { inline_extent(p, p.file, 2).file_block.set(kDonorBase); }},
    {Code::sealed_incomplete, "unwritten",
     [](Populated &p) {
         inline_extent(p, p.sealed, 1).flags.set(kUnwritten);
         p.b.seal_map(p.sealed, true);
     }},
    {Code::sealed_incomplete, "a hole",
     [](Populated &p) {
         p.b.inode(p.sealed).size.set(9 * kBlockSize);
         p.b.seal_map(p.sealed, true);
     }},
    {Code::sealed_incomplete, "a hole at the start",
     [](Populated &p) {
         p.b.inode(p.as_is).flags.set(0);
         inline_extent(p, p.as_is, 0).flags.set(0);
         p.b.seal_map(p.as_is, true);
     }},
    {Code::sealed_misaligned, "by one block",
     [](Populated &p) {
         auto &extent = inline_extent(p, p.sealed, 1);
         p.b.mark(extent.start.get(), 4, false);
         extent.start.set(extent.start.get() + 501 - extent.start.get() % kChunkBlocks);
         p.b.mark(extent.start.get(), 4, true);
         p.b.seal_map(p.sealed, true);
     },
     true, 16384},
    {Code::seal_digest_wrong, "full",
     [](Populated &p) { p.b.inode(p.sealed).seal_digest[5] ^= 1; }},
    {Code::seal_digest_wrong, "as-is",
     [](Populated &p) { p.b.inode(p.as_is).size.set(11 * kBlockSize); }},
    {Code::inode_table_hole, "its last block",
     [](Populated &p) {
         Inode &table = p.b.state().inode_table;
         auto &extent = reinterpret_cast<InlineExtent *>(table.inline_bytes)[0];
         extent.blocks.set(3);
         table.blocks.set(3);
         seal_block(table);
         p.b.state(1).inode_table = table;
         p.b.seal(p.b.sb().state_block[0].get());
         p.b.seal(p.b.sb().state_block[1].get());
     },
     false},
};

const Plant kValuePlants[] = {
    {Code::xattr_broken, "a name longer than its entry",
     [](Populated &p) {
         value_with(p, p.xattr_leaf, "user.small")[4] = std::byte{255};
         p.b.seal(p.xattr_leaf);
     }},
    {Code::xattr_broken, "a value longer than its blocks",
     [](Populated &p) {
         const le32 size(3 * kBlobBytes);
         std::memcpy(value_with(p, p.xattr_leaf, "user.large"), &size, sizeof size);
         p.b.seal(p.xattr_leaf);
         // so that the pieces themselves are right
         auto &blob = p.b.block<BlobBlock>(p.xattr_blob);
         blob.size.set(kBlobBytes);
         p.b.seal(p.xattr_blob);
     }},
    {Code::xattr_name_invalid, "a zero byte",
     [](Populated &p) {
         value_with(p, p.xattr_leaf, "user.small")[sizeof(XattrValue)] = std::byte{0};
         p.b.seal(p.xattr_leaf);
     }},
    {Code::xattr_key_wrong, "another name",
     [](Populated &p) {
         value_with(p, p.xattr_leaf, "user.small")[sizeof(XattrValue)] = std::byte{'U'};
         p.b.seal(p.xattr_leaf);
     }},
    {Code::xattr_twice, "by collision index",
     [](Populated &p) {
         p.b.add_xattrs(p.file, {{"user.same", "1"}, {"user.same", "2"}});
         set_key(p, p.b.last_nodes()[0], 1, key(p, p.b.last_nodes()[0], 1) + 1);
     }},
    {Code::blob_damaged, "an xattr's", [](Populated &p) { damage(p, p.xattr_blob); }},
    {Code::blob_damaged, "a symlink's", [](Populated &p) { damage(p, p.link_blob); }},
    {Code::blob_misplaced, "another owner",
     [](Populated &p) {
         p.b.block<BlobBlock>(p.link_blob).owner.set(p.file);
         p.b.seal(p.link_blob);
     }},
    {Code::blob_misplaced, "another piece",
     [](Populated &p) {
         p.b.block<BlobBlock>(p.xattr_blob).offset.set(0);
         p.b.seal(p.xattr_blob);
     }},
    {Code::symlink_broken, "a zero byte",
     [](Populated &p) { p.b.inode(p.short_link).inline_bytes[3] = 0; }},
    {Code::symlink_broken, "a zero byte far out",
     [](Populated &p) {
         p.b.block<BlobBlock>(p.link_blob).bytes[999] = 0;
         p.b.seal(p.link_blob);
     }},
    {Code::symlink_broken, "two blocks",
     [](Populated &p) { inline_extent(p, p.long_link, 0).blocks.set(2); }},
};

const std::span<const Plant> kPlants[] = {kStatePlants, kSpacePlants, kTreePlants, kInodePlants,
                                          kNamePlants,  kMapPlants,   kValuePlants};

void append(Builder &b, std::uint64_t block, std::uint64_t lines) {
    // A record whose one entry names `block`, with as many lines as `lines` has bits, all zero.
    const std::uint64_t journal = b.sb().journal_start.get();
    auto &ring = b.block<RingHeader>(journal);
    ring.boot_id[0] = 1;
    b.seal(journal);
    auto *record = reinterpret_cast<RecordHeader *>(b.bytes(journal + kRingHeaders));
    *record = {};
    record->magic.set(static_cast<std::uint32_t>(Magic::record));
    record->seq = ring.tail_seq;
    record->size.set(3 * kLineSize);
    record->kind.set(static_cast<std::uint32_t>(RecordKind::transaction));
    record->entries.set(1);
    const RecordEntry entry{le64(block), le64(lines)};
    std::memset(static_cast<void *>(record + 1), 0, 2 * kLineSize);
    std::memcpy(static_cast<void *>(record + 1), &entry, sizeof entry);
    const std::uint32_t secret = crc32c(0, std::as_bytes(std::span(ring.secret)));
    record->crc32c.set(crc32c(secret, {reinterpret_cast<std::byte *>(record), 3 * kLineSize}));
}

}  // namespace

TEST_CASE("fsck: a volume with one of everything is clean") {
    for (const std::uint64_t unit : {4096, 16384}) {
        Populated p(unit);
        const auto report = fsck::check(p.b.region());
        REQUIRE(report.ok());
        INFO(codes_of(report.value()));
        CHECK(report.value().clean());
        CHECK(report.value().was_clean);
        CHECK_FALSE(report.value().unjudged);
        CHECK(report.value().directories == 4);
        CHECK(report.value().orphans == 2);
        CHECK(report.value().sealed == 2);
    }
}

TEST_CASE("fsck: a planted fault is found, and nothing that only follows from it") {
    for (const auto &plants : kPlants)
        for (const Plant &plant : plants) {
            INFO(std::string(fsck::info_of(plant.code).name), ", ", std::string(plant.how));
            Populated p(plant.mapping_unit);
            plant.plant(p);
            if (plant.finish) p.b.finish();
            expect_exactly(p.b.region(), plant.code);
        }
}

TEST_CASE("fsck: copies of the superblock are compared, and one is used when the first is damaged") {
    const auto region = test::fixed_volume(kGiB + 4 * kMiB);
    const auto at = [&](std::uint64_t block) {
        return reinterpret_cast<Superblock *>(const_cast<std::byte *>(region->data()) +
                                              block * kBlockSize);
    };
    REQUIRE(fsck::check(*region).value_or({}).clean());
    Superblock saved = *at(0);
    at(0)->label[0] ^= 1;
    expect_exactly(*region, Code::superblock_damaged);
    std::memset(static_cast<void *>(at(0)), 0x55, sizeof saved);
    expect_exactly(*region, Code::superblock_damaged);
    *at(0) = saved;

    saved = *at(kGroupBlocks);
    at(kGroupBlocks)->label[0] ^= 1;
    expect_exactly(*region, Code::superblock_copy_damaged);
    seal_block(*at(kGroupBlocks));
    expect_exactly(*region, Code::superblock_copy_differs);
    *at(kGroupBlocks) = saved;

    // An interrupted mkfs: whole copies, and no superblock.
    std::memset(static_cast<void *>(at(0)), 0, sizeof saved);
    const auto torn = fsck::check(*region);
    REQUIRE(!torn.ok());
    CHECK(torn.error().errno_value() == EINVAL);
}

TEST_CASE("fsck: a record with a right checksum and impossible content is a problem") {
    Builder b(4 * kMiB);
    append(b, 5000, 1);
    fsck::Report report;
    REQUIRE(fsck::replay_journal(b.region(), {}, true, &report).ok());
    REQUIRE(report.found == 1);
    CHECK(report.problems[0].code == Code::record_damaged);
}

TEST_CASE("fsck: a journal is replayed once, and then the volume is clean") {
    Builder b(4 * kMiB);
    const std::uint64_t unused = b.take(ChunkKind::meta);
    b.mark(unused, 1, false);
    std::memset(b.bytes(unused), 0xee, kBlockSize);
    append(b, unused, 2);
    fsck::Report report;
    const auto replayed = fsck::replay_journal(b.region(), {}, true, &report);
    REQUIRE(replayed.ok());
    CHECK(replayed.value() == 1);
    CHECK(b.bytes(unused)[63] == std::byte{0xee});
    CHECK(b.bytes(unused)[64] == std::byte{0});
    CHECK(b.bytes(unused)[127] == std::byte{0});
    CHECK(b.bytes(unused)[128] == std::byte{0xee});
    CHECK(fsck::replay_journal(b.region(), {}, true, &report).value_or(9) == 0);
    const auto after = fsck::check(b.region());
    REQUIRE(after.ok());
    CHECK(after.value().clean());
    CHECK(after.value().was_clean);
}

TEST_CASE("fsck: every code has its plant, and its own number, name and sentence") {
    std::set<Code> planted = {Code::superblock_damaged, Code::superblock_copy_damaged,
                              Code::superblock_copy_differs, Code::record_damaged};
    for (const auto &plants : kPlants)
        for (const Plant &plant : plants) planted.insert(plant.code);
    std::set<std::string> names, ids, sentences;
    for (const fsck::CodeInfo &info : fsck::all_codes()) {
        INFO(std::string(info.name));
        CHECK(planted.count(info.code) == 1);
        CHECK(names.insert(info.name).second);
        CHECK(ids.insert(fsck::id_of(info.code)).second);
        CHECK(sentences.insert(info.sentence).second);
    }
    CHECK(planted.size() == fsck::all_codes().size());
}
