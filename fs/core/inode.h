// Inodes: where they are, which are free, and the lists that they are on.
//
// An inode's number says where it is (media/format.h), and its chunk's map whether it is one.  The
// chunk gets its map with its first inode; when the last one is freed, all of that becomes free
// space again.
#pragma once
#include <functional>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"
#include "base/result.h"
#include "core/alloc.h"
#include "core/change.h"
#include "media/geometry.h"

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
    ChunkNo chunk() const { return media::chunk_of(block); }
    GroupNo group() const { return media::group_of(block); }
};
// Where an inode's slot is.  ESTALE: there is no inode of that number.
Result<InodePlace> locate_inode(const Reader &reader, InodeNo ino);
// The group of the inode with that number; its data is best placed there.
GroupNo group_of_inode(const media::Superblock &superblock, InodeNo ino);

// An inode in use.  ESTALE: it is free (a stale handle), or the number is invalid.
Result<const media::Inode *> read_inode(const Reader &reader, InodeNo ino);
Result<media::Inode *> edit_inode(Change &change, InodeNo ino);

// Makes sure that an inode can be taken, in that group if it has room (in a transaction of its
// own if it has to be made).  Gives the group in which it can.  ENOSPC.
Result<GroupNo> ensure_free_inode(Core &core, GroupNo group, Need need);
// Takes a free inode of the group: zeroed but for header, number and a new generation.
struct NewInode {
    InodeNo ino;
    media::Inode *inode;
};
Result<NewInode> take_inode(Change &change, GroupNo group);
// Frees an inode that is on no list and has no blocks; with the last one of a chunk, its inode
// blocks.
Result<> free_inode(Change &change, InodeNo ino, media::Inode *inode);
// Calls `each` for inodes in use of a chunk, in order of their places, from the one of number
// `from` (0: the first) on; a result of false ends that.  The root comes as number 1 in its place.
Result<> for_each_inode(const Reader &reader, ChunkNo chunk, InodeNo from,
                        const std::function<bool(InodeNo, const media::Inode &)> &each);

// Either of its copies; `lines`: those that the caller reads.
Result<const media::Summary *> read_summary(const Reader &reader, GroupNo group,
                                            journal::Lines lines = SpaceMap::kSummaryHead);

// --- lists that are chained both ways from a head in their group's summary
using ListHead = media::le64 media::Summary::*;
inline constexpr ListHead kOrphans = &media::Summary::orphan_head;  // no name, or interrupted
inline constexpr ListHead kGrants = &media::Summary::grant_head;    // grant records
// All that are on the lists of all groups.  EUCLEAN: a list contains an inode that is not in use,
// or a cycle.
Result<std::vector<std::uint64_t>> all_listed(const Reader &reader, ListHead head);
Result<> push_inode(Change &change, InodeNo ino, media::Inode *inode, ListHead head);
Result<> unlink_inode(Change &change, InodeNo ino, media::Inode *inode, ListHead head);
Result<> add_orphan(Change &change, InodeNo ino, media::Inode *inode);
Result<> remove_orphan(Change &change, InodeNo ino, media::Inode *inode);

}  // namespace pmfs::core
