// The inode table: every slot is looked at once, and what the other parts need of it is kept.
#pragma once
#include <cstdint>
#include <vector>

#include "fsck/context.h"
#include "fsck/grants.h"
#include "fsck/lazy_array.h"
#include "fsck/space.h"

namespace pmfs::fsck {

enum class SlotState : std::uint8_t { unread = 0, damaged, free, used };

// Which list an inode in use belongs on.
enum class ListKind : std::uint8_t { none = 0, orphans, grants };

// Sixteen bytes an inode, for volumes have many.
struct InodeInfo {
    std::uint32_t nlink;
    std::uint32_t names;      // directory entries that lead here
    std::uint32_t directory;  // its place in Inodes::directories()
    std::uint8_t type;        // DT_*
    SlotState state;
    ListKind list;
    bool on_list;  // was met on one of the lists

    bool is_record() const { return list == ListKind::grants; }
};
static_assert(sizeof(InodeInfo) == 16);

struct Directory {
    std::uint64_t inode = 0;
    std::uint64_t root = 0;      // of its tree; 0 = empty
    std::uint64_t parent = 0;    // as the inode says
    std::uint64_t named_by = 0;  // the directory that has it; 0 = none met
    std::uint64_t entries = 0;   // as the inode says
    std::uint64_t blocks = 0;    // as the inode says, less its xattrs'
    std::uint64_t subdirectories = 0;
    bool blocks_known = true;
    bool complete = true;     // its tree was read whole
    std::uint8_t colour = 0;  // of the search for loops
};

class Inodes {
public:
    Inodes(Context &context, Space &space) : context_(context), space_(space) {}

    // Reads the table's map from `state`, then every slot and what it owns, except directories'
    // trees and what grant records claim.
    Result<> walk(const media::State &state);

    std::uint64_t total() const { return info_.size(); }
    InodeInfo &info(std::uint64_t inode) { return info_[inode]; }
    std::vector<Directory> &directories() { return directories_; }
    std::vector<GrantRecord> &grants() { return grants_; }
    std::uint64_t used() const { return used_; }
    std::uint64_t damaged() const { return damaged_; }
    bool table_whole() const { return table_whole_; }  // false: numbers past total() may be real
    // The slot on the medium; its state must be free or used.
    const media::Inode &at(std::uint64_t inode) const;

private:
    struct Piece {  // of the table
        std::uint64_t file_block, start, blocks;
    };

    Result<> read_table(const media::State &state);
    void walk_slot(std::uint64_t inode, const media::Inode &slot);
    void walk_used(std::uint64_t number, const media::Inode &inode);
    void walk_record(std::uint64_t number, const media::Inode &inode);
    void check_mode(std::uint64_t number, const media::Inode &inode, std::uint8_t type);
    void check_life(std::uint64_t number, const media::Inode &inode);
    void check_flags(std::uint64_t number, const media::Inode &inode, std::uint8_t type);
    void check_shape(std::uint64_t number, const media::Inode &inode, std::uint8_t type);

    Context &context_;
    Space &space_;
    std::vector<Piece> pieces_;
    LazyArray<InodeInfo> info_;
    std::vector<Directory> directories_;
    std::vector<GrantRecord> grants_;
    std::uint64_t used_ = 0, damaged_ = 0;
    bool table_whole_ = true;
};

}  // namespace pmfs::fsck
