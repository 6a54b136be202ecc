// How inodes come into being: with a name at once, in one transaction, or without one.
//
// An inode without a name is on the orphan list, so that whatever becomes of the server it is freed
// if nobody names it.  O_TMPFILE is that and no more; what is too much for one transaction (a
// whiteout that a rename leaves behind) begins so.
#pragma once
#include "core/inode.h"
#include "volume/engine.h"

namespace pmfs {

struct NewInodeWords {
    std::uint32_t mode = 0;   // type and permissions
    std::uint64_t rdev = 0;   // a device node's
    std::uint32_t flags = 0;  // media::InodeFlag
};

// The group for a new inode in that directory, where one can be taken.
Result<GroupNo> prepare_inode(core::Core &core, InodeNo dir, std::uint32_t mode,
                              const Caller &caller);
// In a transaction; it is on no list and its name is still to be entered.
Result<core::NewInode> new_inode(core::Change &change, const media::Inode &dir, InodeNo dir_ino,
                                 GroupNo group, const NewInodeWords &words, const Caller &caller);

// A new inode without a name, with no references, in a transaction of its own.
Result<InodeNo> make_nameless(Engine &engine, InodeNo dir, const NewInodeWords &words,
                              const Caller &caller) REQUIRES(engine.lock);

}  // namespace pmfs
