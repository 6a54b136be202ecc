// Reading inodes chunk by chunk: see owners.h.
#include "core/owners.h"

#include <sys/stat.h>

#include <algorithm>

#include "core/alloc.h"
#include "core/extent_map.h"
#include "core/inode.h"

namespace pmfs::core {

// The pieces of a file that lie in the range; stops in the middle of a file with many extents.
Result<unsigned> OwnerScan::look(const Reader &reader, InodeNo ino, const media::Inode &inode,
                                 unsigned extents_max) {
    unsigned n = 0;
    for (; n < extents_max; ++n) {
        const Extent e = TRY(next_extent(reader, inode, ino, at_));
        if (e.hole()) {
            at_ = FileBlock(0);
            return n;
        }
        const BlockNo from = std::max(e.start, first_);
        const BlockNo end = std::min(e.start + e.blocks, end_);
        if (from < end) {
            found_.push_back({ino, e.file_block + (from - e.start), from, end - from});
            unknown_ -= std::min(unknown_, end - from);
        }
        at_ = e.end();
    }
    return n;
}

Result<bool> OwnerScan::step(const Reader &reader, unsigned extents_max) {
    const std::uint64_t chunks = reader.core().allocator.map().chunk_count();
    const ChunkNo first = media::first_chunk(media::group_of(first_));
    unsigned left = extents_max;
    while (unknown_ != 0 && chunks_done_ < chunks) {
        const ChunkNo chunk((first + chunks_done_) % chunks);
        bool stopped = false;
        const auto done =
            for_each_inode(reader, chunk, ino_, [&](InodeNo ino, const media::Inode &inode) {
                if (ino != ino_) at_ = FileBlock(0);  // the one in whose middle it stopped is gone
                ino_ = ino;
                const bool has_map = S_ISREG(inode.mode.get()) || S_ISLNK(inode.mode.get());
                if (has_map && (inode.flags.get() & media::kGrantRecord) == 0) {
                    const auto looked = look(reader, ino, inode, left);
                    if (!looked.ok())
                        at_ = FileBlock(0);  // damaged: its blocks stay where they are
                    if (looked.ok()) left -= std::min(left, looked.value());
                }
                left -= left != 0;
                stopped = left == 0 || unknown_ == 0;
                if (at_ == FileBlock(0)) ++ino_;  // done with it
                return !stopped;
            });
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
