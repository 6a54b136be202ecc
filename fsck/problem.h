// What can be wrong with a volume: a stable code and a sentence for each.
//
// Codes do not change their meaning while the format's major version stays; scripts may rely on
// them.  The hundreds say where: 1 superblock, 2 journal, 3 inode maps and lists, 4 space, 5 trees,
// 6 inodes, 7 directories, 8 block maps and seals, 9 xattrs, symlinks and blobs, 10 grant records.
// docs/fsck.md tells more of each.
#pragma once
#include <cstdint>
#include <span>
#include <string>

namespace pmfs::fsck {

enum class Code : std::uint16_t {
    superblock_damaged = 101,
    superblock_copy_damaged = 102,
    superblock_copy_differs = 103,

    ring_headers_damaged = 201,
    ring_tail_outside = 202,
    record_damaged = 203,
    record_broken = 204,

    inode_map_damaged = 301,
    inode_map_misplaced = 302,
    inode_map_count_wrong = 303,
    inodes_used_wrong = 304,
    inodes_made_wrong = 305,
    inode_marked_free = 306,
    free_inode_marked_used = 307,
    inode_block_unmarked = 308,
    orphan_list_wrong_inode = 309,
    orphan_list_links = 310,
    orphan_not_listed = 311,
    stray_list_links = 312,
    grant_list_wrong_inode = 313,
    grant_list_links = 314,
    grant_not_listed = 315,
    list_leaves_group = 316,

    summary_damaged = 401,
    summaries_differ = 402,
    summary_lost = 403,
    bitmap_damaged = 404,
    summary_count_wrong = 405,
    chunk_kind_unknown = 406,
    block_marked_free = 407,
    block_leaked = 408,
    block_owned_twice = 409,
    metadata_marked_data = 410,
    data_marked_metadata = 411,
    chunk_kind_wrong = 412,
    bits_past_end = 413,
    summary_group_wrong = 414,
    free_block_marked_metadata = 415,

    node_damaged = 501,
    node_of_other_tree = 502,
    node_level_wrong = 503,
    node_entries_broken = 504,
    node_keys_unordered = 505,
    node_keys_outside = 506,
    node_empty = 507,
    pointer_outside = 508,

    inode_damaged = 601,
    mode_unknown = 602,
    flags_wrong = 603,
    blocks_wrong = 604,
    size_wrong = 605,
    generation_zero = 606,
    time_wrong = 607,
    inline_count_wrong = 608,
    link_count_wrong = 609,
    field_out_of_place = 610,
    root_missing = 611,
    free_inode_not_empty = 612,

    entry_broken = 701,
    name_invalid = 702,
    name_key_wrong = 703,
    name_twice = 704,
    entry_to_nowhere = 705,
    entry_type_wrong = 706,
    directory_named_twice = 707,
    parent_wrong = 708,
    entries_wrong = 709,
    inode_unreachable = 710,
    directory_loop = 711,
    entry_to_record = 712,

    extent_broken = 801,
    extent_outside = 802,
    extents_overlap = 803,
    extent_past_limit = 804,
    sealed_incomplete = 805,
    sealed_misaligned = 806,
    seal_digest_wrong = 807,

    xattr_broken = 901,
    xattr_name_invalid = 902,
    xattr_key_wrong = 903,
    xattr_twice = 904,
    blob_damaged = 905,
    blob_misplaced = 906,
    symlink_broken = 907,
    acl_broken = 908,
    acl_not_mode = 909,

    grant_record_not_bare = 1001,
    grant_flags_wrong = 1002,
    grant_file_impossible = 1003,
    grant_extent_wrong = 1004,
    grant_of_anothers_block = 1005,
};

struct CodeInfo {
    Code code;
    const char *name;      // the enumerator
    const char *sentence;  // lower case, no full stop
};
std::span<const CodeInfo> all_codes();
const CodeInfo &info_of(Code code);
std::string id_of(Code code);  // "PM0101"

struct Problem {
    static constexpr std::uint64_t kNone = ~std::uint64_t{0};

    Code code{};
    std::uint64_t block = kNone;  // first block concerned
    std::uint64_t blocks = 1;     // how many, where `block` is given
    std::uint64_t inode = kNone;  // whose
    std::string detail = {};      // figures or a name; may be empty
    bool repaired = false;
};

// One line: "PM0408: block 1234: in use, but nobody owns it".
std::string text_of(const Problem &problem);

}  // namespace pmfs::fsck
