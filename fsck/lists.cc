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
        : context_(context), space_(space), inodes_(inodes), groups_(space.groups()) {}

    void follow();
    void find_missing();
    // What a repair writes: lists of a group, linked anew in the order of their inodes.
    void plan();

private:
    struct List {
        bool whole = false;                // it was followed to its end
        bool wrong = false;                // it, or that inodes are not on it
        std::uint64_t head = 0, tail = 0;  // as it is linked anew
    };
    struct Group {
        List orphans, grants;
        bool hidden = false;  // an inode cannot be read, and may be on a list
        List &of(ListKind kind) { return kind == ListKind::orphans ? orphans : grants; }
    };

    void follow(std::uint64_t group, std::uint64_t head, ListKind kind);
    // False when the list is broken, which was reported.
    bool follow_to_end(std::uint64_t group, std::uint64_t head, ListKind list);
    // False when the list cannot continue at `at`.
    bool may_go_on(std::uint64_t group, std::uint64_t at, ListKind list);
    void link(List &list, std::uint64_t number);

    Context &context_;
    Space &space_;
    Inodes &inodes_;
    std::vector<Group> groups_;
};

void Lists::follow() {
    for (std::uint64_t group = 0; group < groups_.size(); ++group) {
        const Summary *summary = space_.summary(group);
        if (summary == nullptr) continue;
        follow(group, summary->orphan_head.get(), ListKind::orphans);
        follow(group, summary->grant_head.get(), ListKind::grants);
    }
}

void Lists::follow(std::uint64_t group, std::uint64_t head, ListKind kind) {
    List &list = groups_[group].of(kind);
    const std::uint64_t before = context_.report.found;
    list.whole = follow_to_end(group, head, kind);
    list.wrong = !list.whole || context_.report.found != before;
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

bool Lists::follow_to_end(std::uint64_t group, std::uint64_t head, ListKind list) {
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
        Group &group = groups_[inodes_.maps().group_of(number)];
        group.hidden |= info.state == SlotState::damaged || info.state == SlotState::unread;
        if (info.on_list || info.state != SlotState::used) return;
        if (info.list != ListKind::none) {
            List &list = group.of(info.list);
            list.wrong = true;
            if (list.whole) (info.list == ListKind::orphans ? orphans : grants).add(number);
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
    for (std::uint64_t group = 0; group < groups_.size(); ++group)
        if (groups_[group].hidden || inodes_.maps().hides(group))
            groups_[group].orphans.wrong = groups_[group].grants.wrong = false;  // left as it is
    inodes_.for_each([&](std::uint64_t number, const InodeInfo &info) {
        if (info.state != SlotState::used || info.list == ListKind::none) return;
        List &list = groups_[inodes_.maps().group_of(number)].of(info.list);
        if (list.wrong) link(list, number);
    });
    for (std::uint64_t group = 0; group < groups_.size(); ++group) {
        const auto &[orphans, grants, hidden] = groups_[group];
        if (orphans.wrong) space_.set_list(group, offsetof(Summary, orphan_head), orphans.head);
        if (grants.wrong) space_.set_list(group, offsetof(Summary, grant_head), grants.head);
    }
}

void Lists::link(List &list, std::uint64_t number) {
    inodes_.change(number, offsetof(Inode, prev), bytes_of(le64(list.tail)));
    inodes_.change(number, offsetof(Inode, next), bytes_of(le64(0)));
    if (list.tail == 0)
        list.head = number;
    else
        inodes_.change(list.tail, offsetof(Inode, next), bytes_of(le64(number)));
    list.tail = number;
}

}  // namespace

void check_lists(Context &context, Space &space, Inodes &inodes) {
    Lists lists(context, space, inodes);
    lists.follow();
    lists.find_missing();
    if (!context.report.gave_up) lists.plan();
}

}  // namespace pmfs::fsck
