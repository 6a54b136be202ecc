// Inodes: every slot is read once, and what the other parts need is kept.
#pragma once
#include <cstdint>
#include <vector>

#include "fsck/context.h"
#include "fsck/grants.h"
#include "fsck/inode_maps.h"
#include "fsck/lazy_array.h"
#include "fsck/space.h"

namespace pmfs::fsck {

enum class SlotState : std::uint8_t { unread = 0, damaged, free, used };

// The list on which an inode in use must be.
enum class ListKind : std::uint8_t { none = 0, orphans, grants };

// Sixteen bytes for each inode, because volumes have many.
struct InodeInfo {
    std::uint32_t nlink;
    std::uint32_t names;      // directory entries that refer to it
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
    std::uint64_t blocks = 0;    // as the inode says, without those of its xattrs
    std::uint64_t subdirectories = 0;
    bool blocks_known = true;
    bool complete = true;     // its tree was read whole
    std::uint8_t colour = 0;  // of the search for loops
};

class Inodes {
public:
    Inodes(Context &context, Space &space)
        : context_(context), space_(space), maps_(context, space) {}

    // Reads the maps, then every slot and what it owns, except the trees of directories and the
    // claims of grant records.
    Result<> walk();

    // Nothing: there is no such slot.  Or there may be one, if hidden().
    InodeInfo *find(std::uint64_t number) {
        const auto place = maps_.find(number);
        return place ? &info_[place->index] : nullptr;
    }
    // False only if it is certain that there is no such slot.
    bool hidden(std::uint64_t number) const { return maps_.hidden(number); }
    // There must be such a slot.
    InodeInfo &info(std::uint64_t number) {
        InodeInfo *info = find(number);
        PMFS_ASSERT(info != nullptr);
        return *info;
    }
    // The slot on the medium; its state must be free or used.
    const media::Inode &at(std::uint64_t number) const;
    // What a repair writes into that slot, which must be there.
    void change(std::uint64_t number, std::size_t offset, ConstBytes bytes);
    // Calls f(number, info) for each slot.
    template <class F>
    void for_each(F f) {
        maps_.for_each([&](std::uint64_t number, const InodeMaps::Place &place, bool) {
            f(number, info_[place.index]);
            return true;
        });
    }

    const InodeMaps &maps() const { return maps_; }
    std::vector<Directory> &directories() { return directories_; }
    std::vector<GrantRecord> &grants() { return grants_; }
    std::uint64_t used() const { return used_; }

private:
    const media::Inode &slot_at(const InodeMaps::Place &place) const;
    void walk_slot(std::uint64_t number, InodeInfo &info, const media::Inode &slot, bool marked);
    void walk_free(std::uint64_t number, const media::Inode &slot, bool marked);
    void walk_used(std::uint64_t number, InodeInfo &info, const media::Inode &inode);
    void walk_record(std::uint64_t number, InodeInfo &info, const media::Inode &inode);
    void check_blocks(std::uint64_t number, const media::Inode &inode, const Owned &owned);
    void check_root();
    void check_mode(std::uint64_t number, const media::Inode &inode, std::uint8_t type);
    void check_life(std::uint64_t number, const media::Inode &inode);
    void check_flags(std::uint64_t number, const media::Inode &inode, std::uint8_t type);
    void check_shape(std::uint64_t number, const media::Inode &inode, std::uint8_t type);

    Context &context_;
    Space &space_;
    InodeMaps maps_;
    LazyArray<InodeInfo> info_;  // by the slots' indexes
    std::vector<Directory> directories_;
    std::vector<GrantRecord> grants_;
    std::uint64_t used_ = 0;
};

}  // namespace pmfs::fsck
