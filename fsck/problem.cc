// The table of problems.
#include "fsck/problem.h"

#include <fmt/format.h>

#include "base/assert.h"

namespace pmfs::fsck {
namespace {

#define PMFS_CODE(name, sentence)                                                                  \
    { Code::name, #name, sentence }

constexpr CodeInfo kCodes[] = {
    PMFS_CODE(superblock_damaged, "the superblock is damaged; a copy was used in its place"),
    PMFS_CODE(superblock_copy_damaged, "a copy of the superblock is damaged"),
    PMFS_CODE(superblock_copy_differs, "a copy of the superblock differs from the superblock"),

    PMFS_CODE(ring_headers_damaged, "both headers of the journal are damaged"),
    PMFS_CODE(ring_tail_outside, "the journal's tail points outside the journal"),
    PMFS_CODE(record_damaged, "a journal record has a right checksum and impossible content"),
    PMFS_CODE(record_broken, "a journal record that counts is damaged"),

    PMFS_CODE(inode_map_damaged, "a chunk's inode map is damaged"),
    PMFS_CODE(inode_map_misplaced, "a summary has an inode map in an impossible place"),
    PMFS_CODE(inode_map_count_wrong, "a count in an inode map does not match its bits"),
    PMFS_CODE(inodes_used_wrong, "a group's count of inodes in use is wrong"),
    PMFS_CODE(inodes_made_wrong, "a group's count of inode slots is wrong"),
    PMFS_CODE(inode_marked_free, "an inode in use is marked free in its map"),
    PMFS_CODE(free_inode_marked_used, "a free inode is marked in use in its map"),
    PMFS_CODE(inode_block_unmarked, "a block of inodes is marked free, or as file data"),
    PMFS_CODE(orphan_list_wrong_inode,
              "the list of orphans leads to an inode that is not an orphan"),
    PMFS_CODE(orphan_list_links, "the list of orphans has a wrong back link, or a loop"),
    PMFS_CODE(orphan_not_listed, "an orphan is not on the list of orphans"),
    PMFS_CODE(stray_list_links, "an inode that is on no list has list links"),
    PMFS_CODE(grant_list_wrong_inode,
              "the list of grants leads to an inode that is not a grant record"),
    PMFS_CODE(grant_list_links, "the list of grants has a wrong back link, or a loop"),
    PMFS_CODE(grant_not_listed, "a grant record is not on the list of grants"),
    PMFS_CODE(list_leaves_group, "a group's list leads to an inode of another group"),

    PMFS_CODE(summary_damaged, "a copy of a group's summary is damaged"),
    PMFS_CODE(summaries_differ, "the two copies of a group's summary differ"),
    PMFS_CODE(summary_lost, "both copies of a group's summary are damaged"),
    PMFS_CODE(bitmap_damaged, "a bitmap block is damaged"),
    PMFS_CODE(summary_count_wrong, "a count in a group's summary does not match its bitmaps"),
    PMFS_CODE(chunk_kind_unknown, "a chunk has a kind that does not exist"),
    PMFS_CODE(block_marked_free, "marked free, but with an owner"),
    PMFS_CODE(block_leaked, "marked in use, but without an owner"),
    PMFS_CODE(block_owned_twice, "with a second owner"),
    PMFS_CODE(metadata_marked_data, "metadata is marked as file data"),
    PMFS_CODE(data_marked_metadata, "file data is marked as metadata"),
    PMFS_CODE(chunk_kind_wrong, "a chunk's kind does not match its bits"),
    PMFS_CODE(bits_past_end, "a bitmap marks blocks past the end of the volume"),
    PMFS_CODE(summary_group_wrong, "a summary is of another group"),
    PMFS_CODE(free_block_marked_metadata, "a free block is marked as metadata"),

    PMFS_CODE(node_damaged, "a tree node is damaged"),
    PMFS_CODE(node_of_other_tree, "a tree node belongs to another tree"),
    PMFS_CODE(node_level_wrong, "a tree node has the wrong level for its place"),
    PMFS_CODE(node_entries_broken, "entries of a tree node lie outside it or overlap"),
    PMFS_CODE(node_keys_unordered, "a tree node's keys are not in order"),
    PMFS_CODE(node_keys_outside, "a tree node has keys outside the range that its parent gives it"),
    PMFS_CODE(node_empty, "an interior tree node is empty"),
    PMFS_CODE(pointer_outside, "a tree points outside the volume"),

    PMFS_CODE(inode_damaged, "an inode is damaged"),
    PMFS_CODE(mode_unknown, "an inode has an unknown type"),
    PMFS_CODE(flags_wrong, "an inode's flags are unknown or contradict each other"),
    PMFS_CODE(blocks_wrong, "an inode's count of blocks is wrong"),
    PMFS_CODE(size_wrong, "an inode's size is impossible for its type"),
    PMFS_CODE(generation_zero, "an inode in use has generation 0"),
    PMFS_CODE(time_wrong, "an inode has a time with a billion nanoseconds or more"),
    PMFS_CODE(inline_count_wrong, "an inode's count of inline extents is impossible"),
    PMFS_CODE(link_count_wrong, "an inode's link count is not the number of its names"),
    PMFS_CODE(field_out_of_place, "an inode has a field that its type cannot have"),
    PMFS_CODE(root_missing, "the root directory is missing"),
    PMFS_CODE(free_inode_not_empty, "a free inode is not empty"),

    PMFS_CODE(entry_broken, "a directory entry cannot be decoded"),
    PMFS_CODE(name_invalid, "a name in a directory is not allowed"),
    PMFS_CODE(name_key_wrong, "a directory entry is not where its name belongs"),
    PMFS_CODE(name_twice, "a directory contains the same name twice"),
    PMFS_CODE(entry_to_nowhere, "a name leads to an inode that is not in use"),
    PMFS_CODE(entry_type_wrong, "a directory entry has another type than its inode"),
    PMFS_CODE(directory_named_twice, "a directory has more than one name"),
    PMFS_CODE(parent_wrong, "a directory's parent is not the directory that contains its name"),
    PMFS_CODE(entries_wrong, "a directory's count of entries is wrong"),
    PMFS_CODE(inode_unreachable, "an inode is in use, but has no name and is not an orphan"),
    PMFS_CODE(directory_loop, "a directory cannot be reached from the root: it is inside itself"),
    PMFS_CODE(entry_to_record, "a name leads to a grant record"),

    PMFS_CODE(extent_broken, "an extent cannot be decoded, is empty, or has unknown flags"),
    PMFS_CODE(extent_outside, "an extent lies outside the volume or across two groups"),
    PMFS_CODE(extents_overlap, "two extents of a file cover the same part of it"),
    PMFS_CODE(extent_past_limit, "an extent lies past the largest possible file"),
    PMFS_CODE(sealed_incomplete,
              "a file is sealed full, but has a hole, or unwritten or shared blocks"),
    PMFS_CODE(sealed_misaligned, "a file is sealed full, but not aligned to the mapping unit"),
    PMFS_CODE(seal_digest_wrong, "the block map of a sealed file has changed"),

    PMFS_CODE(xattr_broken, "an extended attribute cannot be decoded"),
    PMFS_CODE(xattr_name_invalid, "an extended attribute's name is not allowed"),
    PMFS_CODE(xattr_key_wrong, "an extended attribute is not where its name belongs"),
    PMFS_CODE(xattr_twice, "an inode has the same extended attribute twice"),
    PMFS_CODE(blob_damaged, "a block of a large value is damaged"),
    PMFS_CODE(blob_misplaced, "a block of a large value belongs to another place"),
    PMFS_CODE(symlink_broken, "a symbolic link has an impossible target"),
    PMFS_CODE(acl_broken, "an access control list is invalid"),
    PMFS_CODE(acl_not_mode, "an access control list does not agree with the mode of its file"),

    PMFS_CODE(grant_record_not_bare, "a grant record has a field that only a file has"),
    PMFS_CODE(grant_flags_wrong, "a grant record's own flags are unknown or contradict each other"),
    PMFS_CODE(grant_file_impossible, "a grant record names a file that cannot have existed"),
    PMFS_CODE(grant_extent_wrong,
              "a grant record's extent is unwritten, or not stored under its first block's number"),
    PMFS_CODE(
        grant_of_anothers_block,
        "a grant record claims blocks that its file does not map and that have another owner"),
};
#undef PMFS_CODE

}  // namespace

std::span<const CodeInfo> all_codes() {
    return kCodes;
}

const CodeInfo &info_of(Code code) {
    for (const CodeInfo &info : kCodes)
        if (info.code == code) return info;
    PMFS_ASSERT(!"a code without a row");
}

std::string id_of(Code code) {
    return fmt::format("PM{:04}", static_cast<unsigned>(code));
}

std::string text_of(const Problem &problem) {
    std::string text = id_of(problem.code) + ":";
    if (problem.inode != Problem::kNone) text += fmt::format(" inode {}:", problem.inode);
    if (problem.block != Problem::kNone && problem.blocks == 1)
        text += fmt::format(" block {}:", problem.block);
    else if (problem.block != Problem::kNone)
        text += fmt::format(" blocks {}-{}:", problem.block, problem.block + problem.blocks - 1);
    text += fmt::format(" {}", info_of(problem.code).sentence);
    if (!problem.detail.empty()) text += fmt::format(" ({})", problem.detail);
    if (problem.repaired) text += ": repaired";
    return text;
}

}  // namespace pmfs::fsck
