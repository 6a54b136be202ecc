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
    Lists(Context &context, const Space &space, Inodes &inodes)
        : context_(context), space_(space), inodes_(inodes), groups_(space.groups()) {}

    void follow();
    void find_missing();

private:
    struct Whole {  // the list was followed to its end
        bool orphans = false, grants = false;
    };

    // False when the list is broken, which was reported.
    bool follow(std::uint64_t group, std::uint64_t head, ListKind list);
    // False when the list cannot continue at `at`.
    bool may_go_on(std::uint64_t group, std::uint64_t at, ListKind list);

    Context &context_;
    const Space &space_;
    Inodes &inodes_;
    std::vector<Whole> groups_;
};

void Lists::follow() {
    for (std::uint64_t group = 0; group < groups_.size(); ++group) {
        const Summary *summary = space_.summary(group);
        if (summary == nullptr) continue;
        groups_[group] = {follow(group, summary->orphan_head.get(), ListKind::orphans),
                          follow(group, summary->grant_head.get(), ListKind::grants)};
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
        if (info.on_list || info.state != SlotState::used) return;
        const Whole &whole = groups_[inodes_.maps().group_of(number)];
        if (info.list == ListKind::orphans) {
            if (whole.orphans) orphans.add(number);
        } else if (info.list == ListKind::grants) {
            if (whole.grants) grants.add(number);
        } else if (const Inode &inode = inodes_.at(number);
                   inode.next.get() != 0 || inode.prev.get() != 0) {
            stray.add(number);
        }
    });
    orphans.say(context_, Code::orphan_not_listed);
    grants.say(context_, Code::grant_not_listed);
    stray.say(context_, Code::stray_list_links);
}

}  // namespace

void check_lists(Context &context, const Space &space, Inodes &inodes) {
    Lists lists(context, space, inodes);
    lists.follow();
    lists.find_missing();
}

}  // namespace pmfs::fsck
