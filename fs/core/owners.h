// Finds the owners of the data blocks of some chunks by reading inodes, because nothing on the
// medium records them (docs/decisions/0013).
//
// A file's data is placed in the group of its inode if there is room. So the inodes of that group
// are read first, and those of other groups only while an owner is still unknown.  For one piece of
// a group after another there is an index.
#pragma once
#include <cstdint>
#include <optional>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "core/change.h"

namespace pmfs::core {

struct Owned {  // a piece of a file's map, or of the large value of an attribute
    InodeNo ino;
    FileBlock file_block;
    BlockNo start;
    std::uint64_t blocks = 0;
    std::optional<std::uint64_t> attribute = {};  // its key; it has no file block
};

class OwnerScan {
public:
    // Of blocks [first, end), all in one group, of which `used` are in use.
    OwnerScan(BlockNo first, BlockNo end, std::uint64_t used)
        : first_(first), end_(end), unknown_(used) {}
    // Of all blocks of the group, of which the inodes of that group alone are read.
    explicit OwnerScan(GroupNo group);

    // Reads about so many more extents and attributes.  With the volume's lock held exclusively or
    // shared; changes between two calls may be missed, so code that moves a piece reads it again.
    // True: all that can be found is known.
    Result<bool> step(const Reader &reader, unsigned extents_max);

    // Blocks in use whose owner was not found.
    std::uint64_t unknown() const { return unknown_; }
    std::vector<Owned> &found() { return found_; }

private:
    Result<unsigned> look(const Reader &reader, InodeNo ino, const media::Inode &inode,
                          unsigned most);
    Result<unsigned> look_at_map(const Reader &reader, InodeNo ino, const media::Inode &inode,
                                 unsigned most);
    Result<unsigned> look_at_attributes(const Reader &reader, InodeNo ino,
                                        const media::Inode &inode, unsigned most);
    void note(const Owned &whole);
    void begin_inode() {
        at_ = FileBlock(0);
        attribute_at_.reset();
    }

    const BlockNo first_, end_;
    const bool own_group_ = false;  // no other group's inodes are read
    std::uint64_t unknown_;
    std::vector<Owned> found_;
    std::uint64_t chunks_done_ = 0;              // counted from the group's first one, and round
    InodeNo ino_;                                // the next one to look at, or in the middle of
    FileBlock at_;                               // its file block,
    std::optional<std::uint64_t> attribute_at_;  // or the key in its attributes
};

// What a group's own inodes have in it, found in one pass: at most an entry (48 bytes) for each of
// its 262,144 blocks.  It was true when it was read, and may lack anything.
class GroupOwners {
public:
    explicit GroupOwners(GroupNo group) : group_(group), scan_(group) {}
    GroupNo group() const { return group_; }

    // As OwnerScan::step().
    Result<bool> step(const Reader &reader, unsigned extents_max) {
        return scan_.step(reader, extents_max);
    }
    // After the last step, which may have been long ago: the parts of them in [first, end), in
    // order.  Needs no lock.
    std::vector<Owned> within(BlockNo first, BlockNo end);

private:
    const GroupNo group_;
    OwnerScan scan_;
    bool sorted_ = false;
};

}  // namespace pmfs::core
