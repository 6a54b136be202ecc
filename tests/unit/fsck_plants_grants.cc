// Faults in grant records: their list, what they are, whom they name and what they claim.
#include "unit/fsck_plants.h"

namespace pmfs::test {
namespace {

GrantHolder &holder(Populated &p, std::uint64_t number) {
    return *reinterpret_cast<GrantHolder *>(p.b.inode(number).seal_digest);
}

// The record's i-th extent claims blocks from `start` on instead.
void claim_instead(Populated &p, std::uint64_t record, std::size_t i, std::uint64_t start,
                   std::uint32_t blocks = 1) {
    InlineExtent &extent = inline_extent(p, record, i);
    extent.file_block.set(start);
    extent.start.set(start);
    extent.blocks.set(blocks);
}

// So that `grant` alone claims the blocks that `file` gave up: all three.
void leave_kept_to_one(Populated &p) {
    p.b.inode(p.grant_again).inline_count.set(1);
    inline_extent(p, p.grant, 1).blocks.set(3);
}

const Planted kPlants[] = {
    // --- the list
    {Code::grant_list_wrong_inode, "a file",
     [](Populated &p) { p.b.inode(p.grant_tree).next.set(p.file); }},
    {Code::grant_list_wrong_inode, "an orphan",
     [](Populated &p) { p.b.inode(p.grant_tree).next.set(p.orphan); }},
    {Code::grant_list_wrong_inode, "a free inode",
     [](Populated &p) { p.b.inode(p.grant_tree).next.set(p.freed); }},
    {Code::grant_list_wrong_inode, "far out",
     [](Populated &p) { p.b.inode(p.grant_tree).next.set(1'000'000); }},
    {Code::grant_list_links, "no link back",
     [](Populated &p) { p.b.inode(p.grant_again).prev.set(0); }},
    {Code::grant_list_links, "a circle",
     [](Populated &p) {
         p.b.inode(p.grant_tree).next.set(p.grant);
         p.b.inode(p.grant).prev.set(0);
     }},
    {Code::grant_list_links, "a first one that is not the first",
     [](Populated &p) { p.b.inode(p.grant).prev.set(p.grant_tree); }},
    {Code::grant_not_listed, "the first left out",
     [](Populated &p) {
         p.b.summary().grant_head.set(p.grant_again);
         p.b.inode(p.grant_again).prev.set(0);
     }},
    {Code::grant_not_listed, "all of them", [](Populated &p) { p.b.summary().grant_head.set(0); }},
    {Code::orphan_list_wrong_inode, "a grant record",
     [](Populated &p) { p.b.inode(p.trimming).next.set(p.grant); }},

    // --- the record
    {Code::grant_record_not_bare, "a size", [](Populated &p) { p.b.inode(p.grant).size.set(1); }},
    {Code::grant_record_not_bare, "permissions",
     [](Populated &p) { p.b.inode(p.grant).mode.set(S_IFREG | 0600); }},
    {Code::grant_record_not_bare, "a directory",
     [](Populated &p) { p.b.inode(p.grant).mode.set(S_IFDIR); }},
    {Code::grant_record_not_bare, "a name too many",
     [](Populated &p) { p.b.inode(p.grant).nlink.set(1); }},
    {Code::grant_record_not_bare, "an attribute",
     [](Populated &p) {
         p.b.add_xattrs(p.grant, {{"user.x", "y"}});
     }},
    {Code::grant_record_not_bare, "an empty range",
     [](Populated &p) { p.b.inode(p.grant).rdev.set(0); }},
    {Code::grant_record_not_bare, "a seal",
     [](Populated &p) { p.b.inode(p.grant).flags.set(kGrantRecord | kSealed); }},
    {Code::grant_record_not_bare, "a seal and a name, so that a digest could be wrong",
     [](Populated &p) {
         p.b.inode(p.grant).flags.set(kGrantRecord | kSealed);
         p.b.inode(p.grant).nlink.set(1);
     }},
    {Code::grant_record_not_bare, "a trim",
     [](Populated &p) { p.b.inode(p.grant).flags.set(kGrantRecord | kTrimPending); }},
    {Code::flags_wrong, "a grant record's",
     [](Populated &p) { p.b.inode(p.grant).flags.set(kGrantRecord | 0x200); }},
    {Code::grant_flags_wrong, "bit 5", [](Populated &p) { holder(p, p.grant).flags.set(32); }},
    {Code::grant_flags_wrong, "a lent descriptor, and no place where to ask for it",
     [](Populated &p) { holder(p, p.grant).flags.set(kGrantClaimed | kGrantLent); }},
    {Code::grant_flags_wrong, "a reason that nobody knows",
     [](Populated &p) { holder(p, p.grant).flags.set(kGrantClaimed | kGrantPlaced | 0x700); }},
    {Code::time_wrong, "a grant record whose times are times",
     [](Populated &p) { p.b.inode(p.grant).mtime.nsec.set(1'000'000'000); }},
    {Code::blocks_wrong, "a grant record that counts what it claims",
     [](Populated &p) { p.b.inode(p.grant).blocks.set(4); }},
    {Code::blocks_wrong, "a grant record that does not count its nodes",
     [](Populated &p) { p.b.inode(p.grant_tree).blocks.set(0); }},
    {Code::generation_zero, "a grant record",
     [](Populated &p) { p.b.inode(p.grant).generation.set(0); }},
    {Code::time_wrong, "a grant record",
     [](Populated &p) { p.b.inode(p.grant).crtime.nsec.set(1'000'000'000); }},
    {Code::inline_count_wrong, "a grant record",
     [](Populated &p) { p.b.inode(p.grant_tree).inline_count.set(1); }},
    {Code::inode_marked_free, "grant records left out",
     [](Populated &p) {
         for (const std::uint64_t record : {p.grant, p.grant_again, p.grant_tree})
             p.b.set_slot(record, false);
     }},
    {Code::entry_to_record, "in the root",
     [](Populated &p) {
         p.b.set_entries(p.subdirectory, {{"gone", p.pipe}});
         p.b.inode(p.pipe).nlink.set(1);
         set_target(p, p.b.last_nodes()[0], "gone", p.grant, S_IFREG >> 12);
     }},

    // --- the file that it names
    {Code::grant_file_impossible, "no number",
     [](Populated &p) { p.b.inode(p.grant).parent.set(0); }},
    {Code::grant_file_impossible, "no generation",
     [](Populated &p) { p.b.inode(p.grant).entries.set(0); }},
    {Code::grant_file_impossible, "past the volume",
     [](Populated &p) { p.b.inode(p.grant).parent.set(1'000'000); }},
    {Code::grant_file_impossible, "a generation to come",
     [](Populated &p) { p.b.inode(p.grant).entries.set(9); }},
    {Code::grant_file_impossible, "a directory",
     [](Populated &p) { p.b.inode(p.grant).parent.set(p.directory); }},
    {Code::grant_file_impossible, "a grant record",
     [](Populated &p) { p.b.inode(p.grant).parent.set(p.grant_again); }},

    // --- what it claims
    {Code::extent_broken, "a grant record's",
     [](Populated &p) { inline_extent(p, p.grant, 1).blocks.set(0); }},
    {Code::extent_outside, "a grant record's",
     [](Populated &p) { claim_instead(p, p.grant_again, 1, 1'000'000); }},
    {Code::extents_overlap, "a grant record's",
     [](Populated &p) {
         claim_instead(p, p.grant, 0, p.kept, 2);
         claim_instead(p, p.grant, 1, p.kept + 1, 2);
     }},
    {Code::grant_extent_wrong, "under another number",
     [](Populated &p) { inline_extent(p, p.grant, 1).file_block.set(7); }},
    {Code::grant_extent_wrong, "in a tree",
     [](Populated &p) {
         const le64 elsewhere(key(p, p.grant_leaf, 3) + 100);
         std::memcpy(entry(p, p.grant_leaf, 3) + kEntryHeader, &elsewhere, sizeof elsewhere);
         p.b.seal(p.grant_leaf);
     }},
    {Code::grant_extent_wrong, "unwritten",
     [](Populated &p) { inline_extent(p, p.grant, 1).flags.set(kUnwritten); }},
    {Code::block_marked_free, "kept by one grant record",
     [](Populated &p) {
         leave_kept_to_one(p);
         p.b.mark(p.kept + 1, 1, false);
     }},
    {Code::block_marked_free, "kept by two grant records",
     [](Populated &p) { p.b.mark(p.kept + 1, 1, false); }},
    {Code::block_marked_free, "kept for a file that is gone",
     [](Populated &p) { p.b.mark(key(p, p.grant_leaf, 0), 1, false); }},
    {Code::block_leaked, "that a grant record kept",
     [](Populated &p) { p.b.inode(p.grant_again).inline_count.set(1); }},
    {Code::data_marked_metadata, "claimed among metadata",
     [](Populated &p) {
         p.b.mark(p.free_meta, 1, true);
         p.b.classify(p.free_meta, 1, true);
         claim_instead(p, p.grant_again, 0, p.free_meta);
     }},
    {Code::node_damaged, "a grant record's", [](Populated &p) { damage(p, p.grant_leaf); }},
    {Code::node_damaged, "of a file that a record names",
     [](Populated &p) {
         p.b.inode(p.grant).parent.set(p.tree_file);
         const auto value = load<MapValue>(ConstBytes(entry(p, p.map_leaf, 0) + kEntryHeader, 16));
         claim_instead(p, p.grant, 0, value.start.get());
         p.b.inode(p.grant).inline_count.set(1);
         claim_instead(p, p.grant_again, 1, p.kept, 3);
         damage(p, p.map_leaf);
     }},
    {Code::inode_damaged, "of a file that records name",
     [](Populated &p) { p.b.inode(p.file).uid.set(77); }, false},
    {Code::grant_of_anothers_block, "another file's",
     [](Populated &p) { claim_instead(p, p.grant, 0, inline_extent(p, p.orphan, 0).start.get()); }},
    {Code::grant_of_anothers_block, "a file's, by a record of one that is gone",
     [](Populated &p) {
         p.b.inode(p.grant).parent.set(p.device);
         p.b.inode(p.grant).inline_count.set(1);
         claim_instead(p, p.grant_again, 1, p.kept, 3);
     }},
    {Code::grant_of_anothers_block, "a later file's in the same slot",
     [](Populated &p) { p.b.inode(p.file).generation.set(2); }},
    {Code::grant_of_anothers_block, "metadata",
     [](Populated &p) { claim_instead(p, p.grant, 0, p.map_leaf); }},
    {Code::grant_of_anothers_block, "an attribute's value",
     [](Populated &p) { claim_instead(p, p.grant, 0, p.xattr_blob); }},
    {Code::grant_of_anothers_block, "kept by a record of another file",
     [](Populated &p) {
         claim_instead(p, p.grant, 1, key(p, p.grant_leaf, 0));
         claim_instead(p, p.grant_again, 1, p.kept, 3);
     }},
};

}  // namespace

std::span<const Planted> grant_plants() {
    return kPlants;
}

}  // namespace pmfs::test
