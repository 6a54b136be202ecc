// Reading inodes chunk by chunk: see owners.h.
#include "core/owners.h"

#include <sys/stat.h>

#include <algorithm>
#include <utility>

#include "core/alloc.h"
#include "core/extent_map.h"
#include "core/inode.h"
#include "core/xattr.h"

namespace pmfs::core {

namespace {
// The part of it in [first, end), which has no blocks if there is none.
Owned part_of(const Owned &whole, BlockNo first, BlockNo end) {
    const BlockNo from = std::max(whole.start, first);
    const BlockNo upto = std::max(from, std::min(whole.start + whole.blocks, end));
    return {whole.ino, whole.file_block + (from - whole.start), from, upto - from, whole.attribute};
}
}  // namespace

OwnerScan::OwnerScan(GroupNo group)
    : first_(media::first_block(media::first_chunk(group))),
      end_(first_ + media::kGroupBlocks),
      own_group_(true),
      unknown_(~std::uint64_t{0}) {
    found_.reserve(media::kGroupBlocks);  // only what is used takes memory, and it is never copied
}

void OwnerScan::note(const Owned &whole) {
    const Owned part = part_of(whole, first_, end_);
    if (part.blocks == 0) return;
    unknown_ -= std::min(unknown_, part.blocks);
    found_.push_back(part);
}

std::vector<Owned> GroupOwners::within(BlockNo first, BlockNo end) {
    std::vector<Owned> &all = scan_.found(), found;
    if (!std::exchange(sorted_, true)) std::ranges::sort(all, {}, &Owned::start);
    auto one = std::ranges::lower_bound(all, first, {}, &Owned::start);
    // (Pieces of files that were moved in between may overlap, but not by much.)
    while (one != all.begin() && (one - 1)->start + (one - 1)->blocks > first) --one;
    for (; one != all.end() && one->start < end; ++one)
        if (const Owned part = part_of(*one, first, end); part.blocks != 0) found.push_back(part);
    return found;
}

Result<unsigned> OwnerScan::look_at_map(const Reader &reader, InodeNo ino,
                                        const media::Inode &inode, unsigned most) {
    unsigned n = 0;
    const bool has_map = S_ISREG(inode.mode.get()) || S_ISLNK(inode.mode.get());
    for (; has_map && n < most; ++n) {
        const Extent e = TRY(next_extent(reader, inode, ino, at_));
        if (e.hole()) break;
        note({ino, e.file_block, e.start, e.blocks});
        at_ = e.end();
    }
    if (n < most) attribute_at_ = 0;  // the map is done
    return n;
}

Result<unsigned> OwnerScan::look_at_attributes(const Reader &reader, InodeNo ino,
                                               const media::Inode &inode, unsigned most) {
    unsigned n = 0;
    for (; inode.xattr_root.get() != 0 && n < most; ++n) {
        const auto found = TRY(next_xattr(reader, inode, ino, *attribute_at_));
        if (!found) break;
        for (const Run &run : found->runs)
            note({ino, FileBlock(0), run.start, run.blocks, found->key});
        if (found->key == ~std::uint64_t{0}) break;  // no key is greater
        attribute_at_ = found->key + 1;
    }
    if (n < most) {  // the map is done
        attribute_at_.reset();
        at_ = FileBlock(0);
    }
    return n;
}

// The pieces of a file; may stop in the middle if there are many.
Result<unsigned> OwnerScan::look(const Reader &reader, InodeNo ino, const media::Inode &inode,
                                 unsigned most) {
    unsigned n = attribute_at_ ? 0 : TRY(look_at_map(reader, ino, inode, most));
    if (attribute_at_) n += TRY(look_at_attributes(reader, ino, inode, most - n));
    return n;
}

Result<bool> OwnerScan::step(const Reader &reader, unsigned extents_max) {
    const std::uint64_t all = reader.core().allocator.map().chunk_count();
    const ChunkNo first = media::first_chunk(media::group_of(first_));
    const std::uint64_t chunks =
        own_group_ ? std::min(all - first.value(), media::kGroupChunks) : all;
    unsigned left = extents_max;
    while (unknown_ != 0 && chunks_done_ < chunks) {
        const ChunkNo chunk((first + chunks_done_) % all);
        bool stopped = false;
        const auto done =
            for_each_inode(reader, chunk, ino_, [&](InodeNo ino, const media::Inode &inode) {
                if (ino != ino_) begin_inode();  // the one that it stopped in is gone
                ino_ = ino;
                if ((inode.flags.get() & media::kGrantRecord) == 0) {
                    const auto looked = look(reader, ino, inode, left);
                    if (pm::NoWaiting::met()) return false;  // it continues here
                    if (!looked.ok()) begin_inode();  // damaged: its blocks stay where they are
                    if (looked.ok()) left -= std::min(left, looked.value());
                }
                left -= left != 0;
                stopped = left == 0 || unknown_ == 0;
                if (at_ == FileBlock(0) && !attribute_at_) ++ino_;  // done with it
                return !stopped;
            });
        if (pm::NoWaiting::met()) return Error(kAbsentErrno, "an inode's blocks are not in memory");
        if (!done.ok() && done.error().errno_value() != EUCLEAN) return done.error();
        if (stopped) return unknown_ == 0;
        ino_ = InodeNo();
        ++chunks_done_;
        if (left < 8) return false;
        left -= 8;
    }
    return true;
}

}  // namespace pmfs::core
