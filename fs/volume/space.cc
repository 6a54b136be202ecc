// Sizes and space: truncation and fallocate.  Alignment (prepare) is in prepare.cc.
#include <linux/falloc.h>
#include <sys/stat.h>

#include <algorithm>
#include <optional>

#include "volume/impl.h"
#include "volume/seal_modes.h"

namespace pmfs {

using core::Change;
using core::Move;
using core::Reader;
using core::Run;
using media::kBlockSize;

namespace {

constexpr std::uint64_t kEndBlock = ~std::uint64_t{0} >> 1;

}  // namespace

// Frees what a truncation or a move left behind `trim_from`, step by step, and takes the inode off
// the orphan list.  Blocks behind it belong to no byte of the file, so no seal is asked.
Result<> Volume::Impl::settle_trim(InodeNo ino) {
    for (;;) {
        const auto *was = TRY(core::read_inode(Reader(*core), ino));
        if ((was->flags.get() & media::kTrimPending) == 0) return {};
        Change change(*core);
        TRY(change.begin());
        auto *inode = TRY(core::edit_inode(change, ino));
        const auto permit = TRY(core::permit(*inode, {}, Move::reap));
        if (TRY(core::map_trim(change, inode, ino, inode->trim_from.get(), permit))) {
            inode->flags.set(inode->flags.get() & ~media::kTrimPending);
            inode->trim_from.set(0);
            // A file without a name stays on the list until it goes.
            if (inode->nlink.get() != 0) TRY(core::remove_orphan(change, ino, inode));
        }
        TRY(change.commit());
        TRY(best_effort(core::map_tidy(*core, ino, kEndBlock)));
    }
}

Result<> Volume::Impl::set_size(InodeNo ino, std::uint64_t size, const Caller &caller) {
    if (size > media::kFileSizeMax) return Error(EFBIG, "a file has at most 2^50 bytes");
    TRY(settle_trim(ino));
    const Reader reader(*core);
    const auto *was = TRY(core::read_inode(reader, ino));
    if (S_ISDIR(was->mode.get())) return Error(EISDIR, "a directory");
    if (!S_ISREG(was->mode.get())) return Error(EINVAL, "not a regular file");
    const std::uint64_t old = was->size.get();
    const std::uint64_t from = blocks_up(size);
    // To the same size: blocks behind the end go, and only they are the seal's business.
    const bool changes = size != old || !TRY(core::next_extent(reader, *was, ino, from)).hole();
    std::optional<core::MapPermit> allowed;
    // A file that grows keeps the block that its end is in.
    const std::uint64_t reaches = size < old ? size / kBlockSize : blocks_up(old);
    if (changes) allowed = TRY(permit(ino, *was, Move::truncate, reaches, kEndBlock, caller));
    Change change(*core);
    TRY(change.begin());
    auto *inode = TRY(core::edit_inode(change, ino));
    if (size > old) change.after(TRY(zero_written(reader, *was, ino, old, size)));
    inode->size.set(size);
    touch(inode, true);
    bool all = true;
    live.not_dense_from(ino, from);
    if (size <= old && changes && !TRY(core::map_trim(change, inode, ino, from, *allowed))) {
        all = false;
        inode->flags.set(inode->flags.get() | media::kTrimPending);
        inode->trim_from.set(from);
        if (inode->nlink.get() != 0) TRY(core::add_orphan(change, ino, inode));  // else it is there
    }
    TRY(change.commit());
    if (all) return best_effort(core::map_tidy(*core, ino, kEndBlock));
    return best_effort(settle_trim(ino));  // no room: whoever changes the map next goes on
}

namespace {

// fallocate(2) on blocks [first, end) of one file, step by step under the exclusive lock.
class Ranges {
public:
    Ranges(Volume::Impl &v, InodeNo ino, const Caller &caller)
        : v_(v), ino_(ino), caller_(caller) {}

    Result<std::uint64_t> holes(std::uint64_t first, std::uint64_t end) {
        const Reader reader(*v_.core);
        const auto *inode = TRY(core::read_inode(reader, ino_));
        std::uint64_t n = 0;
        for (std::uint64_t at = first; at < end;) {
            const Extent e = TRY(core::find_extent(reader, *inode, ino_, at));
            if (e.hole()) n += std::min(e.end(), end) - at;
            at = e.end();
        }
        return n;
    }

    // Unwritten blocks where holes were.
    Result<> allocate(std::uint64_t first, std::uint64_t end) {
        for (std::uint64_t at = first; at < end;) {
            const Reader reader(*v_.core);
            const auto *was = TRY(core::read_inode(reader, ino_));
            const Extent e = TRY(core::find_extent(reader, *was, ino_, at));
            const std::uint64_t upto = std::min(e.end(), end);
            if (!e.hole()) {
                at = upto;
                continue;
            }
            TRY(core::map_make_room(*v_.core, ino_, at, 1));
            Change change(*v_.core);
            TRY(change.begin());
            auto *inode = TRY(core::edit_inode(change, ino_));
            const auto permit = TRY(v_.permit(ino_, *inode, Move::allocate, at, upto, caller_));
            const Run run = TRY(v_.allocator->take_data(
                change, v_.goal_for(reader, *inode, ino_, at, upto - at), upto - at));
            TRY(core::map_insert(change, inode, ino_, {at, run.start, run.blocks, true, false},
                                 permit));
            inode->blocks.set(inode->blocks.get() + run.blocks);
            TRY(change.commit());
            at += run.blocks;
        }
        return {};
    }

    // Holes (punch) or unwritten blocks (zero) where blocks were; O(extents), no data is moved.
    Result<> clear(std::uint64_t first, std::uint64_t end, bool punch) {
        for (std::uint64_t at = first; at < end;) {
            const Reader reader(*v_.core);
            const auto *was = TRY(core::read_inode(reader, ino_));
            const Extent e = TRY(core::next_extent(reader, *was, ino_, at));
            if (e.hole() || e.file_block >= end) return {};
            at = std::max(at, e.file_block);
            std::uint64_t upto = std::min(e.end(), end);
            if (!punch && e.unwritten) {
                at = upto;
                continue;
            }
            const Run whole{e.start + (at - e.file_block), upto - at};
            upto = at + v_.allocator->piece(whole).blocks;
            TRY(core::map_make_room(*v_.core, ino_, at, 2));
            TRY(core::map_make_room(*v_.core, ino_, upto, 2));
            Change change(*v_.core);
            TRY(change.begin());
            auto *inode = TRY(core::edit_inode(change, ino_));
            const auto permit = TRY(v_.permit(ino_, *inode, Move::punch, at, upto, caller_));
            const Run run = TRY(core::map_remove(change, inode, ino_, at, upto, permit));
            if (punch) {
                TRY(v_.allocator->give_back(change, run));
                inode->blocks.set(inode->blocks.get() - run.blocks);
            } else {
                TRY(core::map_insert(change, inode, ino_, {at, run.start, run.blocks, true, false},
                                     permit));
            }
            TRY(change.commit());
            TRY(best_effort(core::map_tidy(*v_.core, ino_, at)));
            at = upto;
        }
        return {};
    }

    // Zeroes bytes inside written blocks; holes and unwritten blocks are zero already.
    Result<> zero_bytes(std::uint64_t from, std::uint64_t to) {
        if (from >= to) return {};
        const Reader reader(*v_.core);
        const auto *inode = TRY(core::read_inode(reader, ino_));
        v_.journal->persist(TRY(v_.zero_written(reader, *inode, ino_, from, to)));
        return {};
    }

    // The last change: size, times, and the set-id bits if the caller may not keep them: a
    // FALLOCATE does not say so, and kernels before 5.18 sent nothing ahead of it that does.  True:
    // they went.
    Result<bool> finish(std::uint64_t size_at_least) {
        const Reader reader(*v_.core);
        const auto *was = TRY(core::read_inode(reader, ino_));
        const std::uint64_t old = was->size.get();
        Change change(*v_.core);
        TRY(change.begin());
        auto *inode = TRY(core::edit_inode(change, ino_));
        if (size_at_least > old) {
            change.after(TRY(v_.zero_written(reader, *was, ino_, old, size_at_least)));
            inode->size.set(size_at_least);
        }
        if (caller_.uid != 0) Volume::Impl::kill_setid(inode);
        const bool killed = inode->mode.get() != was->mode.get();
        Volume::Impl::touch(inode, true);
        TRY(change.commit());
        return killed;
    }

private:
    Volume::Impl &v_;
    InodeNo ino_;
    const Caller &caller_;
};

}  // namespace

Result<> Volume::fallocate(HandleId handle, InodeNo ino, unsigned mode, std::uint64_t offset,
                           std::uint64_t length, const Caller &caller, Stale *stale) {
    Impl &v = *impl_;
    if (mode == kSealMode || mode == kUnsealMode)
        return seal_by_fallocate(handle, ino, mode, offset, length, caller);
    return v.asking(caller, [&]() -> Result<> {
        TRY(v.writable());
        constexpr unsigned kPunch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
        const bool keep = (mode & FALLOC_FL_KEEP_SIZE) != 0;
        const bool zero = (mode & ~FALLOC_FL_KEEP_SIZE) == FALLOC_FL_ZERO_RANGE;
        if ((mode & (kSealMode | kUnsealMode) & ~FALLOC_FL_KEEP_SIZE) != 0)
            return Error(EINVAL, "a seal mode stands alone, with KEEP_SIZE");
        if (mode != 0 && mode != FALLOC_FL_KEEP_SIZE && mode != kPunch && !zero) {
            // Collapse, insert and unshare: where the map may not change, that is the answer.
            SharedLock held(v.lock);
            const auto *inode = TRY(core::read_inode(Reader(*v.core), ino));
            TRY(v.permit(ino, *inode, Move::punch, offset / kBlockSize, media::kFileBlocksMax,
                         caller));
            return Error(EOPNOTSUPP, "pmfs does not know this mode of fallocate");
        }
        if (length == 0) return Error(EINVAL, "fallocate of no bytes");
        if (offset > media::kFileSizeMax || length > media::kFileSizeMax - offset)
            return Error(EFBIG, "a file has at most 2^50 bytes");
        const std::uint64_t to = offset + length;
        const std::uint64_t first = offset / kBlockSize, end = blocks_up(to);
        const std::uint64_t inner_first = blocks_up(offset);
        const std::uint64_t inner_end = std::max(inner_first, to / kBlockSize);

        ExclusiveLock held(v.lock);
        v.data_dirty.store(true, std::memory_order_release);
        const auto *was = TRY(core::read_inode(Reader(*v.core), ino));
        if (!S_ISREG(was->mode.get())) return Error(ENODEV, "not a regular file");
        TRY(v.permit(ino, *was, mode == kPunch || zero ? Move::punch : Move::allocate, first, end,
                     caller));
        TRY(v.settle_trim(ino));
        TRY(v.drop_capability(ino));
        Ranges ranges(v, ino, caller);
        if (mode != kPunch) {
            const std::uint64_t needed = TRY(ranges.holes(first, end));
            if (needed > v.allocator->available_blocks()) v.allocator->find_empty_meta();
            if (needed > v.allocator->available_blocks())
                return Error(ENOSPC, "the volume is full");
        }
        if (mode == kPunch || zero) {
            if (inner_first > inner_end || first == to / kBlockSize) {
                TRY(ranges.zero_bytes(offset, to));  // inside one block
            } else {
                TRY(ranges.zero_bytes(offset, inner_first * kBlockSize));
                TRY(ranges.zero_bytes(inner_end * kBlockSize, to));
                v.live.not_dense_from(ino, inner_first);
                TRY(ranges.clear(inner_first, inner_end, mode == kPunch));
            }
        }
        if (mode != kPunch) TRY(ranges.allocate(first, end));
        const bool killed = TRY(ranges.finish(keep ? 0 : to));
        if (stale != nullptr) stale->attributes = killed;
        return {};
    });
}

}  // namespace pmfs
