// The inode table: a file of 512-byte slots that grows; free slots form a list.
#pragma once
#include "base/clock.h"
#include "base/ids.h"
#include "base/result.h"
#include "core/change.h"

namespace pmfs::core {

inline media::Time to_media(Timespec t) {
    return {media::le64(static_cast<std::uint64_t>(t.seconds)), media::le32(t.nanoseconds),
            media::le32(0)};
}
inline Timespec from_media(const media::Time &t) {
    return {static_cast<std::int64_t>(t.sec.get()), t.nsec.get()};
}

struct InodePlace {
    BlockNo block;
    unsigned slot;
};
// Where an inode's slot is.  ESTALE: the table has no such number.
Result<InodePlace> locate_inode(const Reader &reader, InodeNo ino);

// An inode in use.  ESTALE: it is free (a stale handle), or the table has no such number.
Result<const media::Inode *> read_inode(const Reader &reader, InodeNo ino);
Result<media::Inode *> edit_inode(Change &change, InodeNo ino);

// Makes sure that the free list has at least one inode (a transaction of its own if not).
Result<> ensure_free_inode(Core &core);
// Takes a free inode: zeroed but for header, number and a new generation.
struct NewInode {
    InodeNo ino;
    media::Inode *inode;
};
Result<NewInode> take_inode(Change &change);
// Puts an inode, off the orphan list and without blocks, on the free list.
Result<> free_inode(Change &change, InodeNo ino, media::Inode *inode);

// The volume's variable root, from the copy that is sound.
Result<const media::State *> read_state(const Reader &reader);

// --- lists that are chained both ways from a head in State: orphans, grant records
using ListHead = media::le64 media::State::*;
Result<> push_inode(Change &change, InodeNo ino, media::Inode *inode, ListHead head);
Result<> unlink_inode(Change &change, media::Inode *inode, ListHead head);

// --- the orphan list: inodes without a name, and interrupted truncations
Result<> add_orphan(Change &change, InodeNo ino, media::Inode *inode);
Result<> remove_orphan(Change &change, InodeNo ino, media::Inode *inode);

}  // namespace pmfs::core
