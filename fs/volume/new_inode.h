// How inodes are made: with a name, in one transaction, or at first without one.
//
// An inode without a name is on the orphan list, so that it is freed unless it gets a name, even if
// the server dies.  O_TMPFILE makes just such an inode; what does not fit into one transaction (a
// whiteout that a rename leaves behind) begins as one.
#pragma once
#include "core/inode.h"
#include "volume/engine.h"

namespace pmfs {

struct NewInodeWords {
    std::uint32_t mode = 0;   // type and permissions
    std::uint64_t rdev = 0;   // a device node's
    std::uint32_t flags = 0;  // media::InodeFlag
};

// The group for a new inode in that directory, in which one can be taken.
Result<GroupNo> prepare_inode(core::Core &core, InodeNo dir, std::uint32_t mode,
                              const Caller &caller);
// In a transaction; the inode is on no list, and its name must still be entered.
Result<core::NewInode> new_inode(core::Change &change, const media::Inode &dir, InodeNo dir_ino,
                                 GroupNo group, const NewInodeWords &words, const Caller &caller);

// A new inode without a name, with no references, in a transaction of its own.
Result<InodeNo> make_nameless(Engine &engine, InodeNo dir, const NewInodeWords &words,
                              const Caller &caller) REQUIRES(engine.lock);

}  // namespace pmfs
