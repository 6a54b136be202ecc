// New inodes: see new_inode.h.
#include "volume/new_inode.h"

#include <sys/stat.h>

#include "core/protection.h"

namespace pmfs {

using core::Change;
using core::Reader;

// The group of the directory.  Directories in the root are spread over groups, and so are their
// contents.
Result<GroupNo> prepare_inode(core::Core &core, InodeNo dir, std::uint32_t mode,
                              const Caller &caller) {
    const bool spread = S_ISDIR(mode) && dir.value() == media::kRootIno;
    const GroupNo group =
        spread ? core.allocator.next_group() : core::group_of_inode(core.superblock, dir);
    return core::ensure_free_inode(core, group,
                                   caller.uid == 0 ? core::Need::root_name : core::Need::name);
}

Result<core::NewInode> new_inode(Change &change, const media::Inode &dir, InodeNo dir_ino,
                                 GroupNo group, const NewInodeWords &words, const Caller &caller) {
    const auto made = TRY(core::take_inode(change, group));
    const bool sticky_group = (dir.mode.get() & S_ISGID) != 0;
    const bool directory = S_ISDIR(words.mode);
    made.inode->mode.set(words.mode | (sticky_group && directory ? S_ISGID : 0u));
    made.inode->uid.set(caller.uid);
    made.inode->gid.set(sticky_group ? dir.gid.get() : caller.gid);
    made.inode->nlink.set(directory ? 2 : 1);
    made.inode->rdev.set(words.rdev);
    const bool has_flags = directory || S_ISREG(words.mode);
    made.inode->flags.set(words.flags | (has_flags ? dir.flags.get() & core::kInheritedFlags : 0u));
    if (directory) made.inode->parent.set(dir_ino.value());
    const media::Time now = core::to_media(now_coarse());
    made.inode->atime = made.inode->mtime = made.inode->ctime = made.inode->crtime = now;
    return made;
}

Result<InodeNo> make_nameless(Engine &e, InodeNo dir_ino, const NewInodeWords &words,
                              const Caller &caller) {
    const GroupNo group = TRY(prepare_inode(*e.core, dir_ino, words.mode, caller));
    Change change(*e.core);
    TRY(change.begin());
    const auto *dir = TRY(core::read_inode(Reader(change), dir_ino));
    const auto made = TRY(new_inode(change, *dir, dir_ino, group, words, caller));
    made.inode->nlink.set(0);
    TRY(core::add_orphan(change, made.ino, made.inode));
    TRY(change.commit());
    return made.ino;
}

}  // namespace pmfs
