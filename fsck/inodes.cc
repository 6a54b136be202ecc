// Inodes: see inodes.h.
#include "fsck/inodes.h"

#include <dirent.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>

#include "fsck/file_map.h"
#include "media/geometry.h"

namespace pmfs::fsck {

using namespace media;

namespace {

// DT_* of readdir(3), or nothing for a mode without a valid type.
std::uint8_t type_of(std::uint32_t mode) {
    switch (mode & S_IFMT) {
        case S_IFREG:
            return DT_REG;
        case S_IFDIR:
            return DT_DIR;
        case S_IFLNK:
            return DT_LNK;
        case S_IFCHR:
            return DT_CHR;
        case S_IFBLK:
            return DT_BLK;
        case S_IFIFO:
            return DT_FIFO;
        case S_IFSOCK:
            return DT_SOCK;
        default:
            return DT_UNKNOWN;
    }
}

constexpr std::uint32_t kModeBits = S_IFMT | 07777;
constexpr std::uint32_t kOfChattr = kImmutable | kAppendOnly | kNoDump | kNoAccessTime;

}  // namespace

const Inode &Inodes::slot_at(const InodeMaps::Place &place) const {
    const ConstBytes bytes = context_.meta_block(place.block);
    return reinterpret_cast<const Inode *>(bytes.data())[place.slot];
}

const Inode &Inodes::at(std::uint64_t number) const {
    const auto place = maps_.find(number);
    PMFS_ASSERT(place.has_value());
    return slot_at(*place);
}

Result<> Inodes::walk() {
    maps_.read();
    TRY(info_.allocate(maps_.slots()));
    maps_.for_each([&](std::uint64_t number, const InodeMaps::Place &place, bool marked) {
        walk_slot(number, info_[place.index], slot_at(place), marked);
        return !context_.give_up();
    });
    maps_.plan([this](std::uint64_t index) -> std::optional<bool> {
        const SlotState state = info_[index].state;
        if (state == SlotState::used || state == SlotState::free) return state == SlotState::used;
        return std::nullopt;
    });
    check_root();
    return {};
}

void Inodes::change(std::uint64_t number, std::size_t offset, ConstBytes bytes) {
    const auto place = maps_.find(number);
    PMFS_ASSERT(place.has_value());
    context_.report.changes.push_back({.block = place->block,
                                       .magic = Magic::inode,
                                       .slot = static_cast<unsigned>(place->slot),
                                       .self = number,
                                       .offset = offset,
                                       .bytes = {bytes.begin(), bytes.end()}});
}

void Inodes::check_root() {
    const InodeInfo *root = find(kRootIno);
    if (root == nullptr && hidden(kRootIno)) return;
    if (root != nullptr && (root->state == SlotState::damaged || root->state == SlotState::unread ||
                            (root->state == SlotState::used && root->type == DT_DIR)))
        return;
    context_.found_inode(Code::root_missing, kRootIno);
    context_.lost_owners = context_.lost_names = true;
}

void Inodes::walk_slot(std::uint64_t number, InodeInfo &info, const Inode &slot, bool marked) {
    if (!block_ok(bytes_of(slot), Magic::inode, context_.fsid(), number) ||
        !context_.reserved_zero(bytes_of(slot), Magic::inode)) {
        context_.found_inode(Code::inode_damaged, number);
        info.state = SlotState::damaged;
        context_.lost_owners = context_.lost_names = true;
        return;
    }
    if (slot.mode.get() == 0) {
        info.state = SlotState::free;
        return walk_free(number, slot, marked);
    }
    info.state = SlotState::used;
    ++used_;
    if (!marked) context_.found_inode(Code::inode_marked_free, number);
    if ((slot.flags.get() & kGrantRecord) != 0)
        walk_record(number, info, slot);
    else
        walk_used(number, info, slot);
}

void Inodes::walk_free(std::uint64_t number, const Inode &slot, bool marked) {
    if (marked) context_.found_inode(Code::free_inode_marked_used, number);
    const ConstBytes rest = bytes_of(slot).subspan(offsetof(Inode, mode));
    if (!std::ranges::all_of(rest, [](std::byte b) { return b == std::byte{0}; }))
        context_.found_inode(Code::free_inode_not_empty, number);
}

void Inodes::walk_used(std::uint64_t number, InodeInfo &info, const Inode &inode) {
    info.type = type_of(inode.mode.get());
    info.nlink = inode.nlink.get();
    if (info.nlink == 0 || (inode.flags.get() & kTrimPending) != 0) {
        info.list = ListKind::orphans;
        ++context_.report.orphans;
    }
    check_mode(number, inode, info.type);
    check_life(number, inode);
    check_flags(number, inode, info.type);
    check_shape(number, inode, info.type);

    Owned owned = walk_xattrs(context_, space_, number, inode);
    switch (info.type) {
        case DT_DIR: {
            PMFS_ASSERT(directories_.size() < 0xffffffff);
            info.directory = static_cast<std::uint32_t>(directories_.size());
            directories_.push_back({.inode = number,
                                    .root = inode.map_root.get(),
                                    .parent = inode.parent.get(),
                                    .entries = inode.entries.get(),
                                    .blocks = inode.blocks.get() - owned.blocks,
                                    .blocks_known = owned.complete});
            ++context_.report.directories;
            return;  // its blocks are counted when its tree is walked
        }
        case DT_REG:
            owned.add(walk_map(context_, space_, number, inode, MapOf::file, nullptr));
            break;
        case DT_LNK:
            owned.add(walk_symlink(context_, space_, number, inode));
            break;
        case DT_UNKNOWN:
            context_.lost_owners = context_.lost_names = true;
            return;
        default:
            break;
    }
    check_blocks(number, inode, owned);
}

void Inodes::check_blocks(std::uint64_t number, const Inode &inode, const Owned &owned) {
    if (!owned.complete || inode.blocks.get() == owned.blocks) return;
    context_.found_inode(Code::blocks_wrong, number,
                         fmt::format("it says {}, owns {}", inode.blocks.get(), owned.blocks));
    change(number, offsetof(Inode, blocks), bytes_of(le64(owned.blocks)));
}

// A file that must not have names: its link count is reported here, its names when they are met.
void Inodes::walk_record(std::uint64_t number, InodeInfo &info, const Inode &inode) {
    info.type = DT_REG;
    info.list = ListKind::grants;
    check_life(number, inode);
    grants_.push_back(walk_grant_record(context_, space_, number, inode));
    check_blocks(number, inode, grants_.back().owned);
    ++context_.report.grants;
}

void Inodes::check_mode(std::uint64_t number, const Inode &inode, std::uint8_t type) {
    if (type == DT_UNKNOWN || (inode.mode.get() & ~kModeBits) != 0)
        context_.found_inode(Code::mode_unknown, number, fmt::format("{:o}", inode.mode.get()));
}

// Checks the fields of every inode in use.
void Inodes::check_life(std::uint64_t number, const Inode &inode) {
    if (inode.generation.get() == 0) context_.found_inode(Code::generation_zero, number);
    for (const Time *time : {&inode.atime, &inode.mtime, &inode.ctime, &inode.crtime})
        if (time->nsec.get() >= 1'000'000'000 &&
            !(is_placed_record(inode) && (time == &inode.atime || time == &inode.mtime))) {
            context_.found_inode(Code::time_wrong, number);
            break;
        }
}

void Inodes::check_flags(std::uint64_t number, const Inode &inode, std::uint8_t type) {
    const std::uint32_t flags = inode.flags.get();
    context_.report.sealed += (flags & kSealed) != 0;
    const char *fault = nullptr;
    if ((flags & ~std::uint32_t{kKnownInodeFlags}) != 0)
        fault = "unknown";
    else if ((flags & kSealedFull) != 0 && (flags & kSealed) == 0)
        fault = "sealed full, but not sealed";
    else if ((flags & kSealed) != 0 && type != DT_REG)
        fault = "sealed, but no regular file";
    else if ((flags & kSealed) != 0 && inode.size.get() == 0)
        fault = "sealed, but empty";
    else if ((flags & kEverMapped) != 0 && type != DT_REG)
        fault = "mapped, but no regular file";
    else if ((flags & kOfChattr) != 0 && type != DT_REG && type != DT_DIR)
        fault = "of chattr, but neither file nor directory";
    else if ((flags & kTrimPending) != 0 && (type == DT_DIR || type == DT_LNK))
        fault = "to be trimmed, but has no blocks of data";
    else if ((flags & kTrimPending) != 0 && type == DT_REG && inode.nlink.get() != 0 &&
             inode.trim_from.get() < blocks_up(std::min(inode.size.get(), kFileSizeMax)))
        fault = "to be trimmed in front of its end";
    if (fault != nullptr)
        context_.found_inode(Code::flags_wrong, number, fmt::format("{}: {:#x}", fault, flags));
}

// Checks what depends on the type: size, map, device number.
void Inodes::check_shape(std::uint64_t number, const Inode &inode, std::uint8_t type) {
    const std::uint64_t size = inode.size.get();
    const bool has_map = type == DT_REG || type == DT_DIR;
    if (type == DT_UNKNOWN) return;
    if (type == DT_REG   ? size > kFileSizeMax
        : type == DT_LNK ? size == 0 || size > kSymlinkMax
                         : size != 0)
        context_.found_inode(Code::size_wrong, number, fmt::format("{}", size));
    if (inode.rdev.get() != 0 && type != DT_CHR && type != DT_BLK)
        context_.found_inode(Code::field_out_of_place, number, "a device number");
    if (inode.map_root.get() != 0 && !has_map)
        context_.found_inode(Code::field_out_of_place, number, "a block map");
    if (inode.entries.get() != 0 && type != DT_DIR)
        context_.found_inode(Code::field_out_of_place, number, "directory entries");

    const std::uint32_t count = inode.inline_count.get();
    std::uint32_t count_max = 0;
    if (type == DT_REG && inode.map_root.get() == 0) count_max = kInlineExtents;
    if (type == DT_LNK && size > kInlineBytes && size <= kSymlinkMax)
        count_max = static_cast<std::uint32_t>(blob_blocks(size));
    if (count > count_max)
        context_.found_inode(Code::inline_count_wrong, number,
                             fmt::format("{} where at most {} can be", count, count_max));
}

}  // namespace pmfs::fsck
