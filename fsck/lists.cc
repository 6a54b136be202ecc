// The lists of inodes: see lists.h.
#include "fsck/lists.h"

#include <fmt/format.h>

namespace pmfs::fsck {

using namespace media;

namespace {

// Many of one kind are one problem: the first is named.
struct Missing {
    std::uint64_t first = 0, count = 0;
    void add(std::uint64_t inode) {
        if (count++ == 0) first = inode;
    }
    void say(Context &context, Code code) const {
        if (count == 0) return;
        context.found_inode(code, first,
                            count == 1 ? std::string() : fmt::format("and {} more", count - 1));
    }
};

class Lists {
public:
    Lists(Context &context, Inodes &inodes) : context_(context), inodes_(inodes) {}

    // True when the list was followed to its end; false when it leads astray, which was reported.
    bool follow_free(std::uint64_t head);
    bool follow_both_ways(std::uint64_t head, ListKind list);
    void find_missing(bool free_whole, bool orphans_whole, bool grants_whole);

private:
    Context &context_;
    Inodes &inodes_;
};

bool Lists::follow_free(std::uint64_t head) {
    for (std::uint64_t at = head; at != 0;) {
        if (at >= inodes_.total()) {
            if (!inodes_.table_whole()) return false;
            context_.found_inode(Code::free_list_wrong_inode, at, "there is no such inode");
            return false;
        }
        InodeInfo &info = inodes_.info(at);
        if (info.state == SlotState::damaged) return false;
        if (info.state != SlotState::free) {
            context_.found_inode(Code::free_list_wrong_inode, at);
            return false;
        }
        if (info.on_list) {
            context_.found_inode(Code::free_list_loop, at);
            return false;
        }
        info.on_list = true;
        at = inodes_.at(at).next.get();
    }
    return true;
}

bool Lists::follow_both_ways(std::uint64_t head, ListKind list) {
    const bool orphans = list == ListKind::orphans;
    const Code wrong = orphans ? Code::orphan_list_wrong_inode : Code::grant_list_wrong_inode;
    const Code links = orphans ? Code::orphan_list_links : Code::grant_list_links;
    std::uint64_t before = 0;
    for (std::uint64_t at = head; at != 0;) {
        if (at >= inodes_.total()) {
            if (!inodes_.table_whole()) return false;
            context_.found_inode(wrong, at, "there is no such inode");
            return false;
        }
        InodeInfo &info = inodes_.info(at);
        if (info.state == SlotState::damaged) return false;
        if (info.state != SlotState::used || info.list != list) {
            context_.found_inode(wrong, at);
            return false;
        }
        const Inode &inode = inodes_.at(at);
        if (info.on_list || inode.prev.get() != before) {
            context_.found_inode(links, at,
                                 fmt::format("back to {}, came from {}", inode.prev.get(), before));
            if (info.on_list) return false;
        }
        info.on_list = true;
        before = at;
        at = inode.next.get();
    }
    return true;
}

void Lists::find_missing(bool free_whole, bool orphans_whole, bool grants_whole) {
    Missing free, orphans, grants, stray;
    for (std::uint64_t number = kRootIno + 1; number < inodes_.total(); ++number) {
        const InodeInfo &info = inodes_.info(number);
        if (info.on_list) continue;
        if (info.state == SlotState::free && free_whole) free.add(number);
        if (info.state != SlotState::used) continue;
        if (info.list == ListKind::orphans) {
            if (orphans_whole) orphans.add(number);
        } else if (info.list == ListKind::grants) {
            if (grants_whole) grants.add(number);
        } else if (const Inode &inode = inodes_.at(number);
                   inode.next.get() != 0 || inode.prev.get() != 0) {
            stray.add(number);
        }
    }
    free.say(context_, Code::free_inode_not_listed);
    orphans.say(context_, Code::orphan_not_listed);
    grants.say(context_, Code::grant_not_listed);
    stray.say(context_, Code::stray_list_links);
}

}  // namespace

void check_lists(Context &context, Inodes &inodes, const State &state) {
    Lists lists(context, inodes);
    const bool free_whole = lists.follow_free(state.free_inode_head.get());
    const bool orphans_whole = lists.follow_both_ways(state.orphan_head.get(), ListKind::orphans);
    const bool grants_whole = lists.follow_both_ways(state.grant_head.get(), ListKind::grants);
    lists.find_missing(free_whole, orphans_whole, grants_whole);
    if (inodes.damaged() == 0 && inodes.table_whole() && !context.report.gave_up &&
        state.inodes_used.get() != inodes.used())
        context.found_inode(
            Code::inodes_used_wrong, Problem::kNone,
            fmt::format("it says {}, there are {}", state.inodes_used.get(), inodes.used()));
}

}  // namespace pmfs::fsck
