// Faults in what belongs to a file: inodes, names, block maps, seals, xattrs and symlinks.
#include "unit/fsck_plants.h"

namespace pmfs::test {
namespace {

// Makes the long symlink as long as it can be: a second block.
Inode &longest_target(Populated &p) {
    const std::string target(kSymlinkMax, 'y');
    auto &first = p.b.block<BlobBlock>(p.link_blob);
    std::memset(first.bytes, 'y', kBlobBytes);
    first.size.set(kBlobBytes);
    p.b.seal(p.link_blob);
    const std::uint64_t second = p.b.put_blob(p.long_link, target, kBlobBytes);
    inline_extent(p, p.long_link, 1) = {le64(1), le64(second), le32(1), le32(0)};
    Inode &link = p.b.inode(p.long_link);
    link.inline_count.set(2);
    link.size.set(target.size());
    return link;
}

// Gives a file a list, two bytes of which are changed.
void change_list(Populated &p, std::size_t offset, std::uint16_t value) {
    std::string list = list_of_0644();
    const le16 raw(value);
    std::memcpy(list.data() + offset, &raw, sizeof raw);
    p.b.add_xattrs(p.many_links, {{"system.posix_acl_access", list}});
}

const Planted kPlants[] = {
    // --- inodes
    {Code::inode_damaged, "a pipe", [](Populated &p) { p.b.inode(p.pipe).uid.set(77); }, false},
    {Code::inode_damaged, "a directory", [](Populated &p) { p.b.inode(p.directory).uid.set(77); },
     false},
    {Code::inode_damaged, "a free one", [](Populated &p) { p.b.inode(p.freed).uid.set(77); },
     false},
    {Code::inode_damaged, "in another's place",
     [](Populated &p) {
         p.b.inode(p.pipe).header.self.set(p.device);
         p.b.seal_inode(p.pipe);
     },
     false},
    {Code::mode_unknown, "type 5", [](Populated &p) { p.b.inode(p.pipe).mode.set(0050600); }},
    {Code::mode_unknown, "more bits",
     [](Populated &p) { p.b.inode(p.pipe).mode.set(0x10000 | S_IFIFO | 0600); }},
    {Code::flags_wrong, "unknown", [](Populated &p) { p.b.inode(p.file).flags.set(0x200); }},
    {Code::flags_wrong, "full but not sealed",
     [](Populated &p) { p.b.inode(p.file).flags.set(kSealedFull); }},
    {Code::flags_wrong, "a sealed directory",
     [](Populated &p) { p.b.inode(p.directory).flags.set(kSealed); }},
    {Code::flags_wrong, "an immutable pipe",
     [](Populated &p) { p.b.inode(p.pipe).flags.set(kImmutable); }},
    {Code::flags_wrong, "an append-only symlink",
     [](Populated &p) { p.b.inode(p.short_link).flags.set(kAppendOnly); }},
    {Code::flags_wrong, "a device that is not dumped",
     [](Populated &p) { p.b.inode(p.device).flags.set(kNoDump); }},
    {Code::flags_wrong, "a directory that is to be trimmed",
     [](Populated &p) {
         p.b.inode(p.directory).flags.set(kTrimPending);
         p.b.set_orphans({p.orphan, p.trimming, p.directory});
     }},
    {Code::flags_wrong, "a file that is to be trimmed in front of its end",
     [](Populated &p) {
         p.b.inode(p.trimming).size.set(4097);
         p.b.inode(p.trimming).trim_from.set(1);
     }},
    {Code::blocks_wrong, "a file's", [](Populated &p) { p.b.inode(p.file).blocks.set(7); }},
    {Code::blocks_wrong, "a directory's",
     [](Populated &p) { p.b.inode(p.directory).blocks.set(0); }},
    {Code::blocks_wrong, "with xattrs",
     [](Populated &p) { p.b.inode(p.attributes).blocks.set(1); }},
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
    {Code::link_count_wrong, "an orphan that is a directory with a file in it",
     [](Populated &p) {
         const std::uint64_t orphan = p.b.make(S_IFDIR | 0700);
         p.b.set_entries(orphan, {{"name", p.many_links}});
         p.b.inode(orphan).nlink.set(0);
         p.b.set_orphans({p.orphan, p.trimming, orphan});
     }},
    {Code::link_count_wrong, "a directory's",
     [](Populated &p) { p.b.inode(p.directory).nlink.set(2); }},
    {Code::field_out_of_place, "a pipe's device number",
     [](Populated &p) { p.b.inode(p.pipe).rdev.set(1); }},
    {Code::field_out_of_place, "a pipe's block map",
     [](Populated &p) { p.b.inode(p.pipe).map_root.set(p.map_root); }},
    {Code::field_out_of_place, "a file's entries",
     [](Populated &p) { p.b.inode(p.file).entries.set(1); }},
    {Code::free_inode_not_empty, "a size", [](Populated &p) { p.b.inode(p.freed).size.set(1); }},
    {Code::free_inode_not_empty, "a last byte",
     [](Populated &p) { p.b.inode(p.freed).inline_bytes[kInlineBytes - 1] = 1; }},
    {Code::root_missing, "free",
     [](Populated &p) {
         Inode &root = p.b.inode(kRootIno);
         std::memset(static_cast<void *>(&root.mode), 0, sizeof root - offsetof(Inode, mode));
         p.b.set_slot(kRootIno, false);
     }},
    {Code::root_missing, "no directory",
     [](Populated &p) {
         Inode &root = p.b.inode(kRootIno);
         const BlockHeader header = root.header;
         root = p.b.inode(p.orphan);
         root.header = header;
         root.nlink.set(1);
         root.blocks.set(0);
         root.inline_count.set(0);
         root.next.set(0);
         root.prev.set(0);
     }},

    // --- directories
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
    {Code::entry_to_nowhere, "far out",
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

    // --- block maps and seals
    {Code::extent_broken, "empty", [](Populated &p) { inline_extent(p, p.file, 1).blocks.set(0); }},
    {Code::extent_broken, "shared",
     [](Populated &p) { inline_extent(p, p.file, 1).flags.set(kShared); }},
    {Code::extent_broken, "in a tree",
     [](Populated &p) {
         const le32 zero(0);
         std::memcpy(entry(p, p.map_leaf, 5) + kEntryHeader + 8, &zero, sizeof zero);
         p.b.seal(p.map_leaf);
     }},
    {Code::extent_broken, "of a wrong size in a tree",
     [](Populated &p) {
         std::byte *at = entry(p, p.map_leaf, 5);
         const le16 size(8);
         std::memcpy(at + 8, &size, sizeof size);
         auto &node = p.b.block<NodeHeader>(p.map_leaf);
         node.dead_bytes.set(static_cast<std::uint16_t>(node.dead_bytes.get() + 8));
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

    // --- xattrs, symlinks, blobs
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
    {Code::xattr_broken, "more blocks than its value needs",
     [](Populated &p) {
         std::byte *at = value_with(p, p.xattr_leaf, "user.large");
         const BlobRun run{le64(p.xattr_blob - 1), le64(1000)};
         std::memcpy(at + sizeof(XattrValue) + sizeof "user.large" - 1, &run, sizeof run);
         p.b.seal(p.xattr_leaf);
     }},
    {Code::extent_outside, "a large value's",
     [](Populated &p) {
         std::byte *at = value_with(p, p.xattr_leaf, "user.large");
         auto run = load<BlobRun>(ConstBytes(at, 64), sizeof(XattrValue) + sizeof "user.large" - 1);
         run.start.set(std::uint64_t{1} << 40);
         std::memcpy(at + sizeof(XattrValue) + sizeof "user.large" - 1, &run, sizeof run);
         p.b.seal(p.xattr_leaf);
     }},
    {Code::acl_broken, "a version", [](Populated &p) { change_list(p, 0, 3); }},
    {Code::acl_broken, "an unknown entry", [](Populated &p) { change_list(p, 4 + 8, 3); }},
    {Code::acl_broken, "out of order", [](Populated &p) { change_list(p, 4 + 8, 8); }},
    {Code::acl_broken, "no owner", [](Populated &p) { change_list(p, 4, 2); }},
    {Code::acl_broken, "two masks", [](Populated &p) { change_list(p, 4 + 16, 16); }},
    {Code::acl_broken, "no mask", [](Populated &p) { change_list(p, 4 + 24, 8); }},
    {Code::acl_broken, "more than rwx", [](Populated &p) { change_list(p, 4 + 8 + 2, 8); }},
    {Code::acl_broken, "empty",
     [](Populated &p) {
         p.b.add_xattrs(p.directory, {{"system.posix_acl_default", std::string("\2\0\0\0", 4)}});
     }},
    {Code::acl_broken, "too long",
     [](Populated &p) {
         p.b.add_xattrs(p.directory, {{"system.posix_acl_default", std::string(5000, 'x')}});
     }},
    {Code::acl_not_mode, "more for the group", [](Populated &p) { change_list(p, 4 + 26, 6); }},
    {Code::acl_not_mode, "a mode of 0600",
     [](Populated &p) {
         change_list(p, 0, 2);
         p.b.inode(p.many_links).mode.set(S_IFREG | 0600);
     }},
    {Code::field_out_of_place, "a symlink's list",
     [](Populated &p) {
         p.b.add_xattrs(p.short_link, {{"system.posix_acl_access", list_of_0644()}});
     }},
    {Code::field_out_of_place, "a file's list for new files",
     [](Populated &p) {
         p.b.add_xattrs(p.many_links, {{"system.posix_acl_default", list_of_0644()}});
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
    {Code::symlink_broken, "two blocks where one would do",
     [](Populated &p) { inline_extent(p, p.long_link, 0).blocks.set(2); }},
    {Code::symlink_broken, "one block where two are needed",
     [](Populated &p) { longest_target(p).inline_count.set(1); }},
    {Code::symlink_broken, "the second block twice as far in the file",
     [](Populated &p) {
         longest_target(p);
         inline_extent(p, p.long_link, 1).file_block.set(2);
     }},
    {Code::symlink_broken, "a zero byte in the second block",
     [](Populated &p) {
         longest_target(p);
         const std::uint64_t second = inline_extent(p, p.long_link, 1).start.get();
         p.b.block<BlobBlock>(second).bytes[5] = 0;
         p.b.seal(second);
     }},
    {Code::blob_misplaced, "a target's halves in the wrong order",
     [](Populated &p) {
         longest_target(p);
         InlineExtent &one = inline_extent(p, p.long_link, 0),
                      &two = inline_extent(p, p.long_link, 1);
         std::swap(one.start, two.start);
     }},
};

}  // namespace

std::span<const Planted> file_plants() {
    return kPlants;
}

}  // namespace pmfs::test
