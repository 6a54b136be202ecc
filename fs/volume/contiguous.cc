// Making a file one extent, for programs that map it by one offset and one length, such as a
// virtual machine that gets it as virtio-pmem.
//
// Chunks in a row are found, or made by moving other files' data out of them (evacuation.h), and
// join the file at a donor range far behind its end, part by part, because a transaction takes only
// blocks under one bitmap block.  When all of them are there the content is copied and the blocks
// are exchanged (donor.h).  An extent cannot cross a group, and each group begins with metadata: so
// a longer file becomes several extents, which are made one after the other.
#include <algorithm>
#include <memory>
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
using media::byte_of;
using media::kBlockSize;
using media::kChunkBlocks;

namespace {

class Contiguous final : public Operation {
public:
    Contiguous(Engine &e, InodeNo ino, FileBlock first, FileBlock end)
        : Operation(e.claims, ino), e_(e), at_(first), end_(end) {}

    void lend(const Caller &caller) { caller_ = caller; }

    Hold hold() const override {
        if (stage_ == Stage::evacuate) return evacuation_->hold();
        return stage_ == Stage::wait || stage_ == Stage::copy ? Hold::none : Hold::exclusive;
    }
    Result<bool> step() override {
        if (stage_ == Stage::wait) {
            // Threads that write in place may have found the old blocks before this operation
            // claimed the inode.
            e_.readers.wait_for_readers();
            stage_ = Stage::copy;
            return false;
        }
        if (stage_ == Stage::copy) {
            TRY(copy());
            return false;
        }
        TRY(writable(e_));
        if (stage_ == Stage::evacuate) {
            TRY(evacuate());
            return false;
        }
        e_.lock.assert_held();
        if (stage_ == Stage::plan) return plan();
        if (stage_ == Stage::take) TRY(take());
        if (stage_ == Stage::part) TRY(next_part());
        if (stage_ == Stage::exchange) TRY(exchange());
        return false;
    }
    void waits_for_leases() override {
        if (stage_ == Stage::plan) claim_.release();
    }

private:
    enum class Stage : std::uint8_t { plan, evacuate, take, part, wait, copy, exchange };
    static constexpr std::uint64_t kPartBlocks = 8 * kChunkBlocks;  // 16 MiB are copied at once
    static constexpr std::uint64_t kMaxBlocks = Volume::kContiguousMax / kBlockSize;

    Result<MapPermit> permit(const media::Inode &inode) {
        return e_.holders->permit(ino_, inode, Move::relocate, at_, piece_end_);
    }
    std::uint64_t wanted() const { return piece_end_ - at_; }  // blocks

    // The next piece that is not one extent yet.  First removes what an interrupted operation left
    // behind the file.
    Result<bool> plan() REQUIRES(e_.lock) {
        if (at_ >= end_ && !claim_.held()) return true;
        TRY(claim_.take());
        if (!TRY(trim_step(e_, ino_))) return false;
        taken_ = moved_ = 0;
        if (evacuation_) {  // another operation took a block of the last place
            stage_ = Stage::evacuate;
            return false;
        }
        for (; at_ < end_; at_ = piece_end_) {
            const Reader reader(*e_.core);
            const auto *inode = TRY(core::read_inode(reader, ino_));
            piece_end_ = std::min(end_, at_ + kMaxBlocks);
            const Extent e = TRY(core::find_extent(reader, *inode, ino_, at_));
            if (!is_one(e)) {
                TRY(begin(*inode));
                return false;
            }
            if (permit(*inode).ok()) TRY(clear_tail(reader, *inode));
        }
        return true;
    }

    bool is_one(const Extent &e) const {
        return !e.hole() && !e.unwritten && !e.shared && e.end() >= piece_end_ &&
               media::congruent(e.start, e.file_block, kChunkBlocks);
    }

    Result<> begin(const media::Inode &inode) {
        TRY(permit(inode));
        TRY(e_.allocator->check_space(wanted(), core::need_of_data(caller_.uid == 0)));
        const auto chunks = static_cast<unsigned>(wanted() / kChunkBlocks);
        evacuation_ =
            std::make_unique<Evacuation>(e_, chunks, 1, Evacuation::Worth::in_a_row, &claim_);
        evacuation_->at_most(0);
        limit_ = 0;
        stage_ = Stage::evacuate;
        return {};
    }

    // First free chunks, anywhere; then a place where little is in the way; then any.
    Result<> evacuate() {
        const auto stepped = evacuation_->step();
        if (stepped.ok()) {
            if (stepped.value()) stage_ = Stage::take;
            return {};
        }
        if (stepped.error().errno_value() != ENOSPC || limit_ == Evacuation::kNoLimit)
            return stepped.error();
        e_.lock.assert_held();
        limit_ = limit_ == 0 ? wanted() / 8 : Evacuation::kNoLimit;
        evacuation_->at_most(limit_);
        e_.allocator->drop_reservations();
        return {};
    }

    // One more part of the place.
    Result<> take() {
        const FileBlock donor = kDonorRange + taken_;
        TRY(core::map_make_room(*e_.core, ino_, donor, 1));
        Change change(*e_.core);
        TRY(change.begin());
        auto *inode = TRY(core::edit_inode(change, ino_));
        const MapPermit allowed = TRY(permit(*inode));
        const BlockNo start = evacuation_->place().start + taken_;
        const std::uint64_t blocks = e_.allocator->piece({start, wanted() - taken_}).blocks;
        const Run run =
            TRY(evacuation_->take_part(change, static_cast<unsigned>(taken_ / kChunkBlocks),
                                       static_cast<unsigned>(blocks / kChunkBlocks)));
        if (run.blocks == 0) {  // the change is dropped
            stage_ = Stage::plan;
            return {};
        }
        TRY(add_donor(change, inode, ino_, donor, run, allowed));
        TRY(change.commit());
        taken_ += run.blocks;
        if (taken_ < wanted()) return {};
        place_ = evacuation_->place().start;
        evacuation_->finish();
        evacuation_.reset();
        TRY(claim_.take(ClaimFor::moving));
        stage_ = Stage::part;
        return {};
    }

    // The place of the bytes of the next part.
    Result<> next_part() {
        const Reader reader(*e_.core);
        part_end_ = std::min(moved_ + kPartBlocks, wanted());
        sources_ =
            TRY(donor_sources(reader, ino_, at_ + moved_, place_ + moved_, part_end_ - moved_));
        stage_ = Stage::wait;
        return {};
    }

    Result<> copy() {
        TRY(fill_donor(e_, sources_));
        stage_ = Stage::exchange;
        return {};
    }

    // Replaces one piece of the part by the donor's blocks.
    Result<> exchange() REQUIRES(e_.lock) {
        const FileBlock at = at_ + moved_;
        moved_ += TRY(exchange_donor(e_, ino_, at, kDonorRange + moved_, part_end_ - moved_));
        if (moved_ == part_end_) stage_ = moved_ < wanted() ? Stage::part : Stage::plan;
        return best_effort(core::map_tidy(*e_.core, ino_, at));
    }

    // Behind its end there may be old bytes of the file itself.
    Result<> clear_tail(const Reader &reader, const media::Inode &inode) {
        const std::uint64_t size = inode.size.get();
        if (size >= byte_of(piece_end_)) return {};
        e_.journal->persist(
            TRY(zero_written(*e_.journal, reader, inode, ino_, size, byte_of(piece_end_))));
        return {};
    }

    Engine &e_;
    FileBlock at_;  // the piece that is made one extent: [at_, piece_end_)
    FileBlock piece_end_;
    const FileBlock end_;
    Caller caller_;
    Stage stage_ = Stage::plan;
    std::unique_ptr<Evacuation> evacuation_;  // until all chunks are taken
    std::uint64_t limit_ = 0;                 // of blocks that it may move
    BlockNo place_;                           // the new place of the piece
    std::uint64_t taken_ = 0, moved_ = 0;     // blocks: into the donor range, and out of it
    std::uint64_t part_end_ = 0;              // of the part that is being copied
    std::vector<DonorSource> sources_;
};

}  // namespace

Result<> Volume::prepare_contiguous(InodeNo ino, std::uint64_t offset, std::uint64_t length,
                                    const Caller &caller) {
    Engine &e = parts_->engine;
    TRY(writable(e));
    FileBlock first, end;
    {
        SharedLock held(e.lock);
        const auto *inode = TRY(read_file(Reader(*e.core), ino));
        TRY(core::may_change(*inode));
        const std::uint64_t size = inode->size.get();
        if (offset > size || length > size - offset)
            return Error(EINVAL, "the range to prepare is not inside the file");
        first = media::unit_down(media::file_block_of(offset), kChunkBlocks);
        const std::uint64_t to = length == 0 ? size : offset + length;
        end = media::unit_up(media::file_block_from(to), kChunkBlocks);
    }
    // The bytes behind the end become zero: an older state with bytes there must not come back.
    const bool resumes = caller.progress != nullptr && caller.progress->kept();
    if (!resumes) TRY(parts_->commits.make_durable());
    e.data_dirty.store(true, std::memory_order_release);
    TRY(asking(e, caller, [&]() -> Result<> {
        auto operation = resumed_or_new<Contiguous>(caller.progress, ino, e, ino, first, end);
        operation->lend(caller);
        return parts_->scheduler.run_or_keep(operation, caller.progress);
    }));
    return parts_->commits.make_durable();
}

}  // namespace pmfs
