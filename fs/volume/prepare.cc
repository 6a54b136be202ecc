// Making a file fit to be mapped: every block allocated, written, and in whole aligned units.
//
// A unit that is all hole gets a whole chunk.  Any other unit that does not fit is moved: a fresh
// chunk joins the file at a donor range far behind its end, the content is copied, and piece by
// piece the file's blocks are exchanged for the donor's.  Each step is a transaction that changes
// no byte of the file; a crash in the middle leaves a file that reads the same, and recovery frees
// what is left of the donor range (docs/format.md "Donor ranges").
#include <sys/stat.h>

#include <algorithm>
#include <bit>

#include "volume/impl.h"

namespace pmfs {

using core::Change;
using core::MapPermit;
using core::Move;
using core::Reader;
using core::Run;
using media::kBlockSize;
using media::kChunkBlocks;
using media::kDonorBase;

namespace {

class Preparer {
public:
    Preparer(Volume::Impl &v, InodeNo ino, std::uint64_t unit, const Caller &caller)
        : v_(v), ino_(ino), unit_(unit), caller_(caller) {}

    // Prepares from `at` as far as one hold of the lock should go; returns where to go on.  Nothing
    // waits to be trimmed before it, and what it leaves behind the file is to be trimmed.
    Result<std::uint64_t> step(std::uint64_t at, std::uint64_t end) {
        const Reader reader(*v_.core);
        const auto *inode = TRY(core::read_inode(reader, ino_));
        const Extent e = TRY(core::find_extent(reader, *inode, ino_, at));
        const std::uint64_t upto = std::min(e.end(), end);
        if (unit_ == 1) return single(*inode, e, at, upto);
        if (e.hole() && upto - at >= unit_) return fill_holes(at, upto);
        const auto fits =
            core::check_mappable(reader, *inode, ino_, at, at + unit_, unit_, nullptr);
        if (fits.ok()) return at + unit_;
        if (fits.error().errno_value() != EINVAL) return fits.error();
        return move_unit(at);
    }

private:
    static constexpr std::uint64_t kStepBlocks = 8 * kChunkBlocks;  // about 16 MiB a hold

    Result<MapPermit> permit(const media::Inode &inode, Move move, std::uint64_t first,
                             std::uint64_t end) {
        return v_.permit(ino_, inode, move, first, end, caller_);
    }
    pm::Unfenced zero(const Run &run) {
        return v_.journal->zero_data(run.start * kBlockSize, run.blocks * kBlockSize);
    }

    // No alignment is asked: holes are filled, unwritten blocks are zeroed, others stay.
    Result<std::uint64_t> single(const media::Inode &was, const Extent &e, std::uint64_t at,
                                 std::uint64_t upto) {
        if (!e.hole() && !e.unwritten) return upto;
        upto = std::min(upto, at + kStepBlocks);
        TRY(core::map_make_room(*v_.core, ino_, at, 2));
        if (!e.hole()) TRY(core::map_make_room(*v_.core, ino_, upto, 2));
        Change change(*v_.core);
        TRY(change.begin());
        auto *inode = TRY(core::edit_inode(change, ino_));
        const MapPermit allowed = TRY(permit(*inode, Move::allocate, at, upto));
        Run run{e.start + (at - e.file_block), upto - at};
        if (e.hole()) {
            const Reader reader(*v_.core);
            run = TRY(v_.allocator->take_data(change, v_.goal_for(reader, was, ino_, at, upto - at),
                                              upto - at));
            TRY(core::map_insert(change, inode, ino_, {at, run.start, run.blocks, false, false},
                                 allowed));
            inode->blocks.set(inode->blocks.get() + run.blocks);
        } else {
            TRY(core::map_set_written(change, inode, ino_, at, upto, allowed));
        }
        change.after(zero(run));
        TRY(change.commit());
        return at + run.blocks;
    }

    // Whole units of hole: whole chunks, zeroed.
    Result<std::uint64_t> fill_holes(std::uint64_t at, std::uint64_t upto) {
        TRY(core::map_make_room(*v_.core, ino_, at, 1));
        Change change(*v_.core);
        TRY(change.begin());
        auto *inode = TRY(core::edit_inode(change, ino_));
        const MapPermit allowed = TRY(permit(*inode, Move::allocate, at, upto));
        std::uint64_t blocks = std::max(std::min(upto - at, kStepBlocks) / unit_ * unit_, unit_);
        auto taken = v_.allocator->take_chunks(change, blocks / kChunkBlocks, unit_);
        if (!taken.ok() && taken.error().errno_value() == ENOSPC && blocks > unit_)
            taken = v_.allocator->take_chunks(change, unit_ / kChunkBlocks, unit_);
        const Run run = TRY(std::move(taken));
        TRY(core::map_insert(change, inode, ino_, {at, run.start, run.blocks, false, false},
                             allowed));
        inode->blocks.set(inode->blocks.get() + run.blocks);
        change.after(zero(run));
        TRY(change.commit());
        return at + run.blocks;
    }

    Result<std::uint64_t> move_unit(std::uint64_t at) {
        const Run donor = TRY(take_donor(at));
        TRY(copy_unit(at, donor));
        for (std::uint64_t done = 0; done < unit_;)
            done += TRY(exchange(at + done, kDonorBase + done, unit_ - done));
        return at + unit_;
    }

    // The donor range is unwritten, so that its old content can never be seen.
    Result<Run> take_donor(std::uint64_t at) {
        TRY(core::map_make_room(*v_.core, ino_, kDonorBase, 1));
        Change change(*v_.core);
        TRY(change.begin());
        auto *inode = TRY(core::edit_inode(change, ino_));
        const MapPermit allowed = TRY(permit(*inode, Move::relocate, at, at + unit_));
        const Run run = TRY(v_.allocator->take_chunks(change, unit_ / kChunkBlocks, unit_));
        TRY(core::map_insert(change, inode, ino_, {kDonorBase, run.start, run.blocks, true, false},
                             allowed));
        inode->blocks.set(inode->blocks.get() + run.blocks);
        inode->flags.set(inode->flags.get() | media::kTrimPending);
        inode->trim_from.set(kDonorBase);
        if (inode->nlink.get() != 0)
            TRY(core::add_orphan(change, ino_, inode));  // else it is there
        TRY(change.commit());
        return run;
    }

    Result<> copy_unit(std::uint64_t at, const Run &donor) {
        const Reader reader(*v_.core);
        const auto *inode = TRY(core::read_inode(reader, ino_));
        pm::Unfenced duty;
        for (std::uint64_t done = 0; done < unit_;) {
            auto found = core::find_extent(reader, *inode, ino_, at + done);
            if (!found.ok()) {
                v_.journal->persist(std::move(duty));
                return found.error();
            }
            const Extent &e = found.value();
            const std::uint64_t n = std::min(e.end(), at + unit_) - (at + done);
            if (e.hole() || e.unwritten) {
                duty.add(zero({donor.start + done, n}));
            } else {
                const std::uint64_t from = (e.start + (at + done - e.file_block)) * kBlockSize;
                duty.add(v_.journal->write_data(
                    (donor.start + done) * kBlockSize,
                    {v_.region->data() + from, static_cast<std::size_t>(n * kBlockSize)}));
                if (v_.region->lost(from, n * kBlockSize)) {
                    v_.journal->persist(std::move(duty));
                    return Error(EIO, "the medium lost a page of the file");
                }
            }
            done += n;
        }
        v_.journal->persist(std::move(duty));
        return {};
    }

    // Puts the donor's blocks in the place of one piece of the file; returns its length.
    Result<std::uint64_t> exchange(std::uint64_t at, std::uint64_t donor, std::uint64_t blocks) {
        const Reader reader(*v_.core);
        const auto *was = TRY(core::read_inode(reader, ino_));
        const Extent e = TRY(core::find_extent(reader, *was, ino_, at));
        std::uint64_t n = std::min(e.end(), at + blocks) - at;
        if (!e.hole()) n = v_.allocator->piece({e.start + (at - e.file_block), n}).blocks;
        TRY(core::map_make_room(*v_.core, ino_, at, 2));
        TRY(core::map_make_room(*v_.core, ino_, at + n, 2));
        TRY(core::map_make_room(*v_.core, ino_, donor + n, 2));

        Change change(*v_.core);
        TRY(change.begin());
        auto *inode = TRY(core::edit_inode(change, ino_));
        const MapPermit allowed = TRY(permit(*inode, Move::relocate, at, at + n));
        if (!e.hole()) {
            const Run old = TRY(core::map_remove(change, inode, ino_, at, at + n, allowed));
            TRY(v_.allocator->give_back(change, old));
            inode->blocks.set(inode->blocks.get() - old.blocks);
        }
        const Run fresh = TRY(core::map_remove(change, inode, ino_, donor, donor + n, allowed));
        TRY(core::map_insert(change, inode, ino_, {at, fresh.start, n, false, false}, allowed));
        TRY(change.commit());
        TRY(best_effort(core::map_tidy(*v_.core, ino_, at)));
        return n;
    }

    Volume::Impl &v_;
    InodeNo ino_;
    std::uint64_t unit_;  // blocks
    const Caller &caller_;
};

}  // namespace

Result<> Volume::prepare(InodeNo ino, std::uint64_t offset, std::uint64_t length,
                         std::uint64_t unit, const Caller &caller) {
    Impl &v = *impl_;
    TRY(v.writable());
    const std::uint64_t volume_unit = v.superblock.mapping_unit.get();
    std::uint64_t first, end;
    {
        SharedLock held(v.lock);
        const auto *inode = TRY(core::read_inode(Reader(*v.core), ino));
        if (!S_ISREG(inode->mode.get())) return Error(EINVAL, "not a regular file");
        const std::uint64_t size = inode->size.get();
        if (offset > size || length > size - offset)
            return Error(EINVAL, "the range to prepare is not inside the file");
        if (unit == 0) unit = size >= media::kChunkSize ? media::kChunkSize : volume_unit;
        first = offset / kBlockSize;
        const std::uint64_t to = length == 0 ? size : offset + length;
        end = (to + kBlockSize - 1) / kBlockSize;
    }
    // As much as one transaction takes: what lies under one bitmap block.
    constexpr std::uint64_t kUnitMax = std::bit_floor(media::kBitmapChunks) * media::kChunkSize;
    if ((unit & (unit - 1)) != 0 || unit < volume_unit || unit < kBlockSize || unit > kUnitMax)
        return Error(EINVAL, "a unit is a power of two, from the volume's mapping unit to 64 MiB");
    std::uint64_t unit_blocks = unit / kBlockSize;
    if (unit_blocks > 1) unit_blocks = std::max(unit_blocks, kChunkBlocks);
    first -= first % unit_blocks;
    end += (unit_blocks - end % unit_blocks) % unit_blocks;
    v.data_dirty.store(true, std::memory_order_release);
    Preparer preparer(v, ino, unit_blocks, caller);
    while (first < end)
        first = TRY(v.asking(caller, [&]() -> Result<std::uint64_t> {
            ExclusiveLock held(v.lock);
            TRY(v.settle_trim(ino));
            const std::uint64_t next = TRY(preparer.step(first, end));
            TRY(v.settle_trim(ino));
            return next;
        }));
    return v.make_durable();
}

}  // namespace pmfs
