// Directories: see directories.h.
#include "fsck/directories.h"

#include <dirent.h>
#include <fmt/format.h>

#include "fsck/names.h"
#include "fsck/tree.h"

namespace pmfs::fsck {

using namespace media;

namespace {

bool name_ok(std::string_view name) {
    return !name.empty() && name.size() <= kNameMax && name != "." && name != ".." &&
           name.find('/') == std::string_view::npos && name.find('\0') == std::string_view::npos;
}

class Names {
public:
    Names(Context &context, Space &space, Inodes &inodes)
        : context_(context), space_(space), inodes_(inodes) {}

    void walk();
    void check_links();
    void check_loops();

private:
    void walk_directory(Directory &directory);
    void add_entry(Directory &directory, std::uint64_t key, ConstBytes value);
    void follow(Directory &directory, std::uint64_t target, std::uint8_t type,
                std::string_view name);
    void check_directory(const Directory &directory);
    void check_file(std::uint64_t number, const InodeInfo &info);
    void set_links(std::uint64_t number, const InodeInfo &info, std::uint64_t links);
    Directory *parent_of(const Directory &directory);

    Context &context_;
    Space &space_;
    Inodes &inodes_;
    SameHash same_;
    std::uint64_t entries_ = 0;  // of the directory that is being walked
};

void Names::walk() {
    for (Directory &directory : inodes_.directories()) {
        walk_directory(directory);
        if (context_.give_up()) return;
    }
}

void Names::walk_directory(Directory &directory) {
    entries_ = 0;
    same_ = SameHash();
    TreeWalk walk;
    if (directory.root != 0)
        walk = walk_tree(
            context_, space_, directory.root, directory.inode, TreeKind::directory,
            [&](std::uint64_t key, ConstBytes value) { add_entry(directory, key, value); });
    directory.complete &= walk.complete;
    if (directory.complete && entries_ != directory.entries) {
        context_.found_inode(Code::entries_wrong, directory.inode,
                             fmt::format("it says {}, has {}", directory.entries, entries_));
        inodes_.change(directory.inode, offsetof(Inode, entries), bytes_of(le64(entries_)));
    }
    if (walk.complete && directory.blocks_known && directory.blocks != walk.nodes) {
        context_.found_inode(Code::blocks_wrong, directory.inode,
                             fmt::format("its tree has {}, it says {}", walk.nodes,
                                         static_cast<std::int64_t>(directory.blocks)));
        const std::uint64_t others = inodes_.at(directory.inode).blocks.get() - directory.blocks;
        inodes_.change(directory.inode, offsetof(Inode, blocks),
                       bytes_of(le64(others + walk.nodes)));
    }
}

void Names::add_entry(Directory &directory, std::uint64_t key, ConstBytes value) {
    if (value.size() < sizeof(DirValue)) {
        context_.found_inode(Code::entry_broken, directory.inode, fmt::format("key {:#x}", key));
        context_.lost_names = true;
        directory.complete = false;
        return;
    }
    ++entries_;
    const std::uint64_t packed = load<DirValue>(value).ino_and_type.get();
    const std::string_view name = text_in(value.subspan(sizeof(DirValue)));
    if (!name_ok(name))
        context_.found_inode(Code::name_invalid, directory.inode, in_quotes(name));
    else if ((key & ~kCollisionMask) != name_key(context_.sb, name))
        context_.found_inode(Code::name_key_wrong, directory.inode, in_quotes(name));
    else if (same_.seen(key, name))
        context_.found_inode(Code::name_twice, directory.inode, in_quotes(name));
    follow(directory, packed & ((std::uint64_t{1} << kDirTypeShift) - 1),
           static_cast<std::uint8_t>(packed >> kDirTypeShift), name);
}

void Names::follow(Directory &directory, std::uint64_t target, std::uint8_t type,
                   std::string_view name) {
    const auto nowhere = [&] {
        context_.found_inode(Code::entry_to_nowhere, directory.inode,
                             fmt::format("{} leads to inode {}", in_quotes(name), target));
        directory.subdirectories += type == DT_DIR;  // as the link count has it
    };
    InodeInfo *found = inodes_.find(target);
    if (found == nullptr ? !inodes_.hidden(target) : found->state == SlotState::free)
        return nowhere();
    if (found == nullptr || found->state != SlotState::used) {  // damaged: its type is unknown
        directory.subdirectories += type == DT_DIR;
        return;
    }
    InodeInfo &info = *found;
    if (info.is_record()) {
        context_.found_inode(Code::entry_to_record, directory.inode,
                             fmt::format("{} leads to inode {}", in_quotes(name), target));
        return;
    }
    ++info.names;
    if (info.type != type && info.type != DT_UNKNOWN)
        context_.found_inode(Code::entry_type_wrong, directory.inode,
                             fmt::format("{} leads to inode {}", in_quotes(name), target));
    if (info.type != DT_DIR) return;
    ++directory.subdirectories;
    Directory &child = inodes_.directories()[info.directory];
    if (target == kRootIno || child.named_by != 0) {
        context_.found_inode(Code::directory_named_twice, target,
                             fmt::format("{} in directory {}", in_quotes(name), directory.inode));
        return;
    }
    child.named_by = directory.inode;
}

void Names::check_links() {
    for (const Directory &directory : inodes_.directories()) check_directory(directory);
    if (context_.lost_names) return;
    inodes_.for_each([&](std::uint64_t number, const InodeInfo &info) {
        if (info.state == SlotState::used && info.type != DT_DIR && info.type != DT_UNKNOWN)
            check_file(number, info);
    });
}

void Names::check_file(std::uint64_t number, const InodeInfo &info) {
    if (info.names == info.nlink) return;
    if (info.names == 0)
        context_.found_inode(Code::inode_unreachable, number,
                             fmt::format("its link count is {}", info.nlink));
    else {
        context_.found_inode(Code::link_count_wrong, number,
                             fmt::format("it says {}, has {}", info.nlink, info.names));
        set_links(number, info, info.names);
    }
}

// One that says 0 is on the list of orphans as well, and a mount would remove it: left as it is.
void Names::set_links(std::uint64_t number, const InodeInfo &info, std::uint64_t links) {
    if (info.nlink == 0 || context_.lost_names) return;
    inodes_.change(number, offsetof(Inode, nlink),
                   bytes_of(le32(static_cast<std::uint32_t>(links))));
}

void Names::check_directory(const Directory &directory) {
    const InodeInfo &info = inodes_.info(directory.inode);
    const bool root = directory.inode == kRootIno;
    const bool orphan = info.nlink == 0 && directory.named_by == 0 && !root;
    if (!orphan && directory.complete && info.nlink != 2 + directory.subdirectories) {
        context_.found_inode(
            Code::link_count_wrong, directory.inode,
            fmt::format("it says {}, should be {}", info.nlink, 2 + directory.subdirectories));
        set_links(directory.inode, info, 2 + directory.subdirectories);
    }
    if (orphan) {
        if (directory.complete && directory.entries != 0)
            context_.found_inode(
                Code::link_count_wrong, directory.inode,
                fmt::format("it says 0, and {} files are in the directory", directory.entries));
        return;
    }
    if (root || directory.named_by != 0) {
        const std::uint64_t parent = root ? kRootIno : directory.named_by;
        if (directory.parent != parent) {
            context_.found_inode(Code::parent_wrong, directory.inode,
                                 fmt::format("it says {}, is {}", directory.parent, parent));
            if (!context_.lost_names)
                inodes_.change(directory.inode, offsetof(Inode, parent), bytes_of(le64(parent)));
        }
    } else if (!context_.lost_names) {
        context_.found_inode(Code::inode_unreachable, directory.inode, "a directory");
    }
}

Directory *Names::parent_of(const Directory &directory) {
    if (directory.named_by == 0) return nullptr;  // the root, an orphan, or reported already
    return &inodes_.directories()[inodes_.info(directory.named_by).directory];
}

// Every directory has at most one parent, so a walk up that does not reach the root is in a loop.
void Names::check_loops() {
    enum : std::uint8_t { kNew, kOnPath, kDone };
    for (Directory &start : inodes_.directories()) {
        Directory *at = &start;
        for (; at != nullptr && at->colour == kNew; at = parent_of(*at)) at->colour = kOnPath;
        if (at != nullptr && at->colour == kOnPath)
            context_.found_inode(Code::directory_loop, at->inode);
        for (at = &start; at != nullptr && at->colour == kOnPath; at = parent_of(*at))
            at->colour = kDone;
    }
}

}  // namespace

void check_directories(Context &context, Space &space, Inodes &inodes) {
    Names names(context, space, inodes);
    names.walk();
    names.check_links();
    names.check_loops();
}

}  // namespace pmfs::fsck
