// Finding and placing a file's data: see data.h.
#include "volume/data.h"

#include <sys/stat.h>

#include <algorithm>
#include <limits>

#include "core/extent_map.h"
#include "core/inode.h"
#include "media/geometry.h"

namespace pmfs {

using core::Reader;

Result<const media::Inode *> read_file(const Reader &reader, InodeNo ino) {
    const auto *inode = TRY(core::read_inode(reader, ino));
    if (S_ISDIR(inode->mode.get())) return Error(EISDIR, "it is a directory");
    if (!S_ISREG(inode->mode.get())) return Error(EINVAL, "it is not a regular file");
    return inode;
}

std::uint64_t end_byte(const Extent &e) {
    constexpr std::uint64_t kEndless = ~std::uint64_t{0};
    return e.end() > media::file_block_of(kEndless) ? kEndless : media::byte_of(e.end());
}

std::uint64_t device_byte(const Extent &e, std::uint64_t file_byte) {
    return media::byte_of(e.start) + (file_byte - media::byte_of(e.file_block));
}

core::Goal goal_for(const Reader &reader, const media::Inode &inode, InodeNo ino,
                    FileBlock file_block, std::uint64_t blocks, const Caller &caller) {
    core::Goal goal;
    goal.file_block = file_block;
    goal.owner = ino.value();
    goal.group = core::group_of_inode(reader.core().superblock, ino);
    goal.privileged = caller.uid == 0;
    bool follows = file_block == FileBlock(0);
    if (file_block != FileBlock(0)) {
        const auto before = core::last_extent(reader, inode, ino, file_block - 1);
        if (before.ok() && !before.value().hole()) {
            goal.near = before.value().place_of(file_block);
            follows = before.value().end() == file_block;
        }
    }
    // Whole chunks are for data behind a file's first chunk, and for files that are that large from
    // the start, but not for scattered blocks of a sparse file.
    constexpr std::uint64_t kManyBlocks = 32;
    const bool together = follows || blocks >= kManyBlocks || file_block % media::kChunkBlocks == 0;
    goal.large = blocks >= media::kChunkBlocks ||
                 (together && (file_block >= FileBlock(media::kChunkBlocks) ||
                               inode.size.get() >= media::kChunkSize));
    return goal;
}

namespace {

// Zeroes at most so many bytes from *from on, and reads at most so many extents.
Result<pm::Unfenced> zero_some(journal::Journal &journal, const Reader &reader,
                               const media::Inode &inode, InodeNo ino, std::uint64_t *from,
                               std::uint64_t to, std::uint64_t bytes_max, unsigned extents_max) {
    pm::Unfenced unfenced;
    for (; *from < to && bytes_max != 0 && extents_max != 0; --extents_max) {
        const auto found = core::next_extent(reader, inode, ino, media::file_block_of(*from));
        if (!found.ok()) {
            journal.persist(std::move(unfenced));
            return found.error();
        }
        const Extent &e = found.value();
        if (e.hole() || media::byte_of(e.file_block) >= to) {
            *from = to;
            break;
        }
        *from = std::max(*from, media::byte_of(e.file_block));
        const std::uint64_t size = std::min(to, end_byte(e)) - *from;
        const std::uint64_t n = e.unwritten ? size : std::min(size, bytes_max);
        if (!e.unwritten) {
            unfenced.add(journal.zero_data(device_byte(e, *from), n));
            bytes_max -= n;
        }
        *from += n;
    }
    return unfenced;
}

}  // namespace

Result<pm::Unfenced> zero_written(journal::Journal &journal, const Reader &reader,
                                  const media::Inode &inode, InodeNo ino, std::uint64_t from,
                                  std::uint64_t to) {
    return zero_some(journal, reader, inode, ino, &from, to, ~std::uint64_t{0},
                     std::numeric_limits<unsigned>::max());
}

Result<std::uint64_t> zero_step(Engine &engine, InodeNo ino, std::uint64_t from, std::uint64_t to) {
    constexpr std::uint64_t kBytes = std::uint64_t{1} << 20;
    constexpr unsigned kExtents = 1024;
    const Reader reader(*engine.core);
    const auto *inode = TRY(core::read_inode(reader, ino));
    engine.journal->persist(
        TRY(zero_some(*engine.journal, reader, *inode, ino, &from, to, kBytes, kExtents)));
    engine.data_dirty.store(true, std::memory_order_release);
    return from;
}

}  // namespace pmfs
