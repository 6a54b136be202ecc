// Preparing a file for mapping: every block allocated, written, and in whole aligned units.
//
// A unit that is one hole gets a whole chunk.  Any other unit that is not right is moved: a fresh
// chunk joins the file at a donor range far behind its end, the content is copied, and piece by
// piece the file's blocks are exchanged for the donor's.  Each step is a transaction that changes
// no byte of the file; a crash in the middle leaves a file that reads the same, and recovery frees
// what is left of the donor range (docs/format.md "Block maps").
#include <sys/stat.h>

#include <algorithm>
#include <bit>
#include <vector>

#include "core/extent_map.h"
#include "core/inode.h"
#include "core/protection.h"
#include "media/geometry.h"
#include "volume/asking.h"
#include "volume/data.h"
#include "volume/donor.h"
#include "volume/evacuation.h"
#include "volume/parts.h"
#include "volume/trim.h"

namespace pmfs {

using core::Change;
using core::kDonorRange;
using core::MapPermit;
using core::Move;
using core::Reader;
using core::Run;
using media::kBlockSize;
using media::kChunkBlocks;

namespace {

class Prepare final : public Operation {
public:
    Prepare(Engine &e, InodeNo ino, std::uint64_t unit, FileBlock first, FileBlock end)
        : Operation(e.claims, ino), e_(e), unit_(unit), at_(first), end_(end) {}

    void lend(const Caller &caller) { caller_ = caller; }

    Hold hold() const override {
        if (stage_ == Stage::evacuate) return evacuation_->hold();
        return stage_ == Stage::wait || stage_ == Stage::zero || stage_ == Stage::copy
                   ? Hold::none
                   : Hold::exclusive;
    }
    Result<bool> step() override {
        switch (stage_) {
            case Stage::wait:
                // Threads that write in place may have found the old blocks before this operation
                // claimed the inode.
                e_.readers.wait_for_readers();
                stage_ = Stage::copy;
                return false;
            case Stage::zero:
                TRY(fill(Stage::set_written));
                return false;
            case Stage::copy:
                TRY(fill(Stage::exchange));
                return false;
            case Stage::evacuate:
                TRY(writable(e_));
                if (TRY(evacuation_->step())) stage_ = Stage::plan;
                return false;
            default:
                break;
        }
        e_.lock.assert_held();
        TRY(writable(e_));
        if (stage_ == Stage::plan) return plan();
        if (stage_ == Stage::set_written) TRY(set_written());
        if (stage_ == Stage::exchange) TRY(exchange());
        return false;
    }
    void waits_for_leases() override {
        if (stage_ == Stage::plan) claim_.release();
    }

private:
    enum class Stage : std::uint8_t { plan, evacuate, zero, set_written, wait, copy, exchange };
    static constexpr std::uint64_t kStepBlocks =
        8 * kChunkBlocks;  // about 16 MiB are zeroed at once

    Result<MapPermit> permit(const media::Inode &inode, Move move, FileBlock first, FileBlock end) {
        return e_.holders->permit(ino_, inode, move, first, end);
    }

    // Chooses what to do next.  First removes what an interrupted operation left behind the file.
    Result<bool> plan() REQUIRES(e_.lock) {
        if (at_ >= end_ && !claim_.held()) return true;
        TRY(claim_.take());
        if (!TRY(trim_step(e_, ino_))) return false;
        for (unsigned n = 0; at_ < end_ && n < kLookedAt; ++n) {
            const Reader reader(*e_.core);
            const auto *inode = TRY(core::read_inode(reader, ino_));
            const Extent e = TRY(core::find_extent(reader, *inode, ino_, at_));
            const FileBlock upto = std::min(e.end(), end_);
            if (e.hole() && (unit_ == 1 || upto - at_ >= unit_)) {
                TRY(fill_hole(*inode, upto));
                return false;
            }
            if (e.unwritten && fits(e, upto)) {
                const std::uint64_t blocks =
                    std::min(upto - at_, std::max(kStepBlocks, unit_)) / unit_ * unit_;
                TRY(permit(*inode, Move::allocate, at_, at_ + blocks));
                plan_zeroes(e.place_of(at_), blocks);
                return false;
            }
            if (!e.hole() && !e.unwritten && fits(e, upto)) {
                at_ += (upto - at_) / unit_ * unit_;
                continue;
            }
            const auto whole =
                core::check_mappable(reader, *inode, ino_, at_, at_ + unit_, unit_, nullptr);
            if (whole.ok()) {
                at_ += unit_;
                continue;
            }
            if (whole.error().errno_value() != EINVAL) return whole.error();
            TRY(take_donor());
            return false;
        }
        return at_ >= end_;
    }

    // Whether the extent has at least one whole unit from at_ on.
    bool fits(const Extent &e, FileBlock upto) const {
        return !e.shared && media::congruent(e.start, e.file_block, unit_) && upto - at_ >= unit_;
    }

    // Whole chunks, up to `blocks`.  None: the next steps first move other files' data away.
    Result<Run> take_whole(Change &change, std::uint64_t blocks) {
        const bool privileged = caller_.uid == 0;
        if (evacuation_) {
            const Run run = TRY(evacuation_->take(change));
            if (run.blocks == 0) {
                stage_ = Stage::evacuate;
                return run;
            }
            evacuation_->finish();
            evacuation_.reset();
            return run;
        }
        for (; blocks >= unit_; blocks = blocks > unit_ ? unit_ : 0) {
            const auto taken =
                e_.allocator->take_chunks(change, blocks / kChunkBlocks, unit_, privileged);
            if (taken.ok() || taken.error().errno_value() != ENOSPC) return taken;
        }
        TRY(e_.allocator->check_space(unit_, core::need_of_data(privileged)));
        const auto chunks = static_cast<unsigned>(unit_ / kChunkBlocks);
        evacuation_ =
            std::make_unique<Evacuation>(e_, chunks, chunks, Evacuation::Worth::needed, &claim_);
        stage_ = Stage::evacuate;
        return Run{};
    }

    // Unwritten blocks, which the next steps zero: whole chunks, except for single blocks.
    Result<> fill_hole(const media::Inode &was, FileBlock upto) {
        TRY(core::map_make_room(*e_.core, ino_, at_, 2));
        Change change(*e_.core);
        TRY(change.begin());
        auto *inode = TRY(core::edit_inode(change, ino_));
        const MapPermit allowed = TRY(permit(*inode, Move::allocate, at_, upto));
        std::uint64_t blocks = std::min(upto - at_, std::max(kStepBlocks, unit_));
        Run run;
        if (unit_ == 1) {
            const Reader reader(*e_.core);
            run = TRY(e_.allocator->take_data(
                change, goal_for(reader, was, ino_, at_, upto - at_, caller_), blocks));
        } else {
            run = TRY(take_whole(change, blocks / unit_ * unit_));
            if (run.blocks == 0) return {};
        }
        TRY(core::map_insert(change, inode, ino_, {at_, run.start, run.blocks, true, false},
                             allowed));
        inode->blocks.set(inode->blocks.get() + run.blocks);
        TRY(change.commit());
        plan_zeroes(run.start, run.blocks);
        return {};
    }

    void plan_zeroes(BlockNo start, std::uint64_t blocks) {
        run_ = {start, blocks};
        sources_.assign(1, {BlockNo(0), start, blocks});
        stage_ = Stage::zero;
    }

    Result<> fill(Stage then) {
        TRY(fill_donor(e_, sources_));
        stage_ = then;
        return {};
    }

    Result<> set_written() {
        TRY(core::map_make_room(*e_.core, ino_, at_, 2));
        TRY(core::map_make_room(*e_.core, ino_, at_ + run_.blocks, 2));
        Change change(*e_.core);
        TRY(change.begin());
        auto *inode = TRY(core::edit_inode(change, ino_));
        const MapPermit allowed = TRY(permit(*inode, Move::allocate, at_, at_ + run_.blocks));
        TRY(core::map_set_written(change, inode, ino_, at_, at_ + run_.blocks, allowed));
        TRY(change.commit());
        at_ += run_.blocks;
        stage_ = Stage::plan;
        return {};
    }

    Result<> take_donor() {
        TRY(core::map_make_room(*e_.core, ino_, kDonorRange, 1));
        Change change(*e_.core);
        TRY(change.begin());
        auto *inode = TRY(core::edit_inode(change, ino_));
        const MapPermit allowed = TRY(permit(*inode, Move::relocate, at_, at_ + unit_));
        run_ = TRY(take_whole(change, unit_));
        if (run_.blocks == 0) return {};
        TRY(add_donor(change, inode, ino_, kDonorRange, run_, allowed));
        TRY(change.commit());
        TRY(claim_.take(ClaimFor::moving));
        sources_ = TRY(donor_sources(Reader(*e_.core), ino_, at_, run_.start, unit_));
        moved_ = 0;
        stage_ = Stage::wait;
        return {};
    }

    // Replaces one piece of the unit by the donor's blocks.
    Result<> exchange() REQUIRES(e_.lock) {
        const FileBlock at = at_ + moved_;
        moved_ += TRY(exchange_donor(e_, ino_, at, kDonorRange + moved_, unit_ - moved_));
        if (moved_ == unit_) {
            at_ += unit_;
            stage_ = Stage::plan;
        }
        return best_effort(core::map_tidy(*e_.core, ino_, at));
    }

    Engine &e_;
    const std::uint64_t unit_;  // blocks
    FileBlock at_;              // the file is prepared up to it
    const FileBlock end_;
    Caller caller_;
    Stage stage_ = Stage::plan;
    Run run_;                                 // that is zeroed, or the donor
    std::vector<DonorSource> sources_;        // what to fill it with
    std::uint64_t moved_ = 0;                 // of the donor
    std::unique_ptr<Evacuation> evacuation_;  // when there were no whole chunks
};

}  // namespace

Result<> Volume::prepare(InodeNo ino, std::uint64_t offset, std::uint64_t length,
                         std::uint64_t unit, const Caller &caller) {
    Engine &e = parts_->engine;
    TRY(writable(e));
    const std::uint64_t volume_unit = e.superblock.mapping_unit.get();
    FileBlock first, end;
    {
        SharedLock held(e.lock);
        const auto *inode = TRY(core::read_inode(Reader(*e.core), ino));
        if (!S_ISREG(inode->mode.get())) return Error(EINVAL, "it is not a regular file");
        TRY(core::may_change(*inode));
        const std::uint64_t size = inode->size.get();
        if (offset > size || length > size - offset)
            return Error(EINVAL, "the range to prepare is not inside the file");
        if (unit == 0) unit = size >= media::kChunkSize ? media::kChunkSize : volume_unit;
        first = media::file_block_of(offset);
        const std::uint64_t to = length == 0 ? size : offset + length;
        end = media::file_block_from(to);
    }
    // As much as one transaction takes: what lies under one bitmap block.
    constexpr std::uint64_t kUnitMax = std::bit_floor(media::kBitmapChunks) * media::kChunkSize;
    if ((unit & (unit - 1)) != 0 || unit < volume_unit || unit < kBlockSize || unit > kUnitMax)
        return Error(EINVAL,
                     "the unit must be a power of two from the volume's mapping unit to 64 MiB");
    std::uint64_t unit_blocks = unit / kBlockSize;
    if (unit_blocks > 1) unit_blocks = std::max(unit_blocks, kChunkBlocks);
    first = media::unit_down(first, unit_blocks);
    end = media::unit_up(end, unit_blocks);
    e.data_dirty.store(true, std::memory_order_release);
    TRY(asking(e, caller, [&]() -> Result<> {
        auto operation =
            resumed_or_new<Prepare>(caller.progress, ino, e, ino, unit_blocks, first, end);
        operation->lend(caller);
        return parts_->scheduler.run_or_keep(operation, caller.progress);
    }));
    return parts_->commits.make_durable();
}

}  // namespace pmfs
