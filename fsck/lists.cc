// The lists of inodes: see lists.h.
#include "fsck/lists.h"

#include <fmt/format.h>

#include <vector>

namespace pmfs::fsck {

using namespace media;

namespace {

// Several of one kind are reported as one problem, with the first one.
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
    Lists(Context &context, Space &space, Inodes &inodes)
        : context_(context),
          space_(space),
          inodes_(inodes),
          groups_(space.groups()),
          wrong_(space.groups()) {}

    void follow();
    void find_missing();
    // What a repair writes: lists of a group, linked anew in the order of their inodes.
    void plan();

private:
    struct Whole {  // the list was followed to its end
        bool orphans = false, grants = false;
    };
    struct Wrong {  // the list, or that inodes are not on it
        bool orphans = false, grants = false;
        bool hidden = false;  // an inode of the group cannot be read, and may be on a list
    };
    struct Ends {
        std::uint64_t head = 0, tail = 0;
    };
    void link(Ends &ends, std::uint64_t number);

    // False when the list is broken, which was reported.
    bool follow(std::uint64_t group, std::uint64_t head, ListKind list);
    // False when the list cannot continue at `at`.
    bool may_go_on(std::uint64_t group, std::uint64_t at, ListKind list);

    Context &context_;
    Space &space_;
    Inodes &inodes_;
    std::vector<Whole> groups_;
    std::vector<Wrong> wrong_;
};

void Lists::follow() {
    for (std::uint64_t group = 0; group < groups_.size(); ++group) {
        const Summary *summary = space_.summary(group);
        if (summary == nullptr) continue;
        const std::uint64_t before = context_.report.found;
        const bool orphans = follow(group, summary->orphan_head.get(), ListKind::orphans);
        const std::uint64_t between = context_.report.found;
        const bool grants = follow(group, summary->grant_head.get(), ListKind::grants);
        groups_[group] = {orphans, grants};
        wrong_[group].orphans = !orphans || between != before;
        wrong_[group].grants = !grants || context_.report.found != between;
    }
}

bool Lists::may_go_on(std::uint64_t group, std::uint64_t at, ListKind list) {
    const bool orphans = list == ListKind::orphans;
    const Code wrong = orphans ? Code::orphan_list_wrong_inode : Code::grant_list_wrong_inode;
    const InodeInfo *info = inodes_.find(at);
    if (info == nullptr) {
        if (!inodes_.hidden(at)) context_.found_inode(wrong, at, "there is no such inode");
        return false;
    }
    if (info->state != SlotState::used && info->state != SlotState::free) return false;
    if (info->state == SlotState::free || info->list != list) {
        context_.found_inode(wrong, at);
        return false;
    }
    if (inodes_.maps().group_of(at) != group) {
        context_.found_inode(Code::list_leaves_group, at, fmt::format("from group {}", group));
        return false;
    }
    return true;
}

bool Lists::follow(std::uint64_t group, std::uint64_t head, ListKind list) {
    const Code links = list == ListKind::orphans ? Code::orphan_list_links : Code::grant_list_links;
    std::uint64_t before = 0;
    for (std::uint64_t at = head; at != 0;) {
        if (!may_go_on(group, at, list)) return false;
        InodeInfo &info = inodes_.info(at);
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

void Lists::find_missing() {
    Missing orphans, grants, stray;
    inodes_.for_each([&](std::uint64_t number, const InodeInfo &info) {
        const std::uint64_t group = inodes_.maps().group_of(number);
        wrong_[group].hidden |= info.state == SlotState::damaged || info.state == SlotState::unread;
        if (info.on_list || info.state != SlotState::used) return;
        const Whole &whole = groups_[group];
        if (info.list == ListKind::orphans) {
            wrong_[group].orphans = true;
            if (whole.orphans) orphans.add(number);
        } else if (info.list == ListKind::grants) {
            wrong_[group].grants = true;
            if (whole.grants) grants.add(number);
        } else if (const Inode &inode = inodes_.at(number);
                   inode.next.get() != 0 || inode.prev.get() != 0) {
            stray.add(number);
            for (const std::size_t field : {offsetof(Inode, next), offsetof(Inode, prev)})
                inodes_.change(number, field, bytes_of(le64(0)));
        }
    });
    orphans.say(context_, Code::orphan_not_listed);
    grants.say(context_, Code::grant_not_listed);
    stray.say(context_, Code::stray_list_links);
}

void Lists::plan() {
    struct Both {
        Ends orphans, grants;
    };
    std::vector<Both> ends(groups_.size());
    const auto relinked = [this](std::uint64_t group, ListKind list) {
        const Wrong &wrong = wrong_[group];
        return (list == ListKind::orphans ? wrong.orphans : wrong.grants) && !wrong.hidden &&
               !inodes_.maps().hides(group);
    };
    inodes_.for_each([&](std::uint64_t number, const InodeInfo &info) {
        if (info.state != SlotState::used || info.list == ListKind::none) return;
        const std::uint64_t group = inodes_.maps().group_of(number);
        if (!relinked(group, info.list)) return;
        link(info.list == ListKind::orphans ? ends[group].orphans : ends[group].grants, number);
    });
    for (std::uint64_t group = 0; group < groups_.size(); ++group) {
        if (space_.summary(group) == nullptr) continue;
        if (relinked(group, ListKind::orphans))
            space_.set_list(group, offsetof(Summary, orphan_head), ends[group].orphans.head);
        if (relinked(group, ListKind::grants))
            space_.set_list(group, offsetof(Summary, grant_head), ends[group].grants.head);
    }
}

void Lists::link(Ends &ends, std::uint64_t number) {
    inodes_.change(number, offsetof(Inode, prev), bytes_of(le64(ends.tail)));
    inodes_.change(number, offsetof(Inode, next), bytes_of(le64(0)));
    if (ends.tail == 0)
        ends.head = number;
    else
        inodes_.change(ends.tail, offsetof(Inode, next), bytes_of(le64(number)));
    ends.tail = number;
}

}  // namespace

void check_lists(Context &context, Space &space, Inodes &inodes) {
    Lists lists(context, space, inodes);
    lists.follow();
    lists.find_missing();
    if (!context.report.gave_up) lists.plan();
}

}  // namespace pmfs::fsck
