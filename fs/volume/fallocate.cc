// fallocate(2), except the two modes that set and remove a seal (seals.cc).
#include <linux/falloc.h>
#include <sys/stat.h>

#include <algorithm>

#include "core/extent_map.h"
#include "core/inode.h"
#include "core/protection.h"
#include "core/seal.h"
#include "media/geometry.h"
#include "volume/asking.h"
#include "volume/attributes.h"
#include "volume/data.h"
#include "volume/parts.h"
#include "volume/seal_modes.h"
#include "volume/trim.h"

namespace pmfs {

using core::Change;
using core::Move;
using core::Reader;
using core::Run;
using media::byte_of;
using media::file_block_from;
using media::file_block_of;

namespace {

// fallocate(2) on one file, which is claimed from the first step on.
class Fallocate final : public Operation {
public:
    Fallocate(Engine &e, InodeNo ino, unsigned mode, std::uint64_t from, std::uint64_t to)
        : Operation(e.claims, ino),
          e_(e),
          keeps_size_((mode & FALLOC_FL_KEEP_SIZE) != 0),
          punch_(mode == (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)),
          zero_((mode & ~FALLOC_FL_KEEP_SIZE) == FALLOC_FL_ZERO_RANGE),
          from_(from),
          to_(to),
          first_(file_block_of(from)),
          end_(file_block_from(to)) {}

    void lend(const Caller &caller) { caller_ = caller; }
    bool killed() const { return killed_; }
    bool may_wait_for_space() const override { return true; }

    Result<bool> step() override {
        e_.lock.assert_held();
        TRY(writable(e_));
        switch (stage_) {
            case Stage::begin:
                TRY(begin());
                return false;
            case Stage::trim:
                if (TRY(trim_step(e_, ino_))) enter(Stage::count);
                return false;
            case Stage::count:
                if (punch_ || TRY(count())) enter(Stage::edges);
                return false;
            case Stage::edges:
                TRY(edges());
                return false;
            case Stage::clear:
                if (TRY(clear())) enter(punch_ ? Stage::finish : Stage::allocate);
                return false;
            case Stage::allocate:
                if (TRY(allocate())) enter(Stage::finish);
                return false;
            case Stage::finish:
                return finish();
        }
        return true;
    }

private:
    enum class Stage : std::uint8_t { begin, trim, count, edges, clear, allocate, finish };

    void enter(Stage stage) {
        stage_ = stage;
        at_ = stage == Stage::clear ? inner_first() : first_;
    }
    FileBlock inner_first() const { return file_block_from(from_); }
    FileBlock inner_end() const { return std::max(inner_first(), file_block_of(to_)); }

    Result<> begin() REQUIRES(e_.lock) {
        const auto *was = TRY(core::read_inode(Reader(*e_.core), ino_));
        if (!S_ISREG(was->mode.get())) return Error(ENODEV, "it is not a regular file");
        TRY(punch_ || zero_ ? core::may_change(*was) : core::may_touch(*was));
        TRY(e_.holders->permit_around(ino_, *was, punch_ || zero_ ? Move::punch : Move::allocate,
                                      first_, end_));
        TRY(claim_.take());
        TRY(drop_capability(e_, ino_));
        enter((was->flags.get() & media::kTrimPending) != 0 ? Stage::trim : Stage::count);
        return {};
    }

    // All space that is needed must be there before anything is changed.
    Result<bool> count() {
        const Reader reader(*e_.core);
        const auto *inode = TRY(core::read_inode(reader, ino_));
        for (unsigned n = 0; at_ < end_ && n < kLookedAt; ++n) {
            const Extent e = TRY(core::find_extent(reader, *inode, ino_, at_));
            if (e.hole()) needed_ += std::min(e.end(), end_) - at_;
            at_ = e.end();
        }
        if (at_ < end_) return false;
        if (needed_ > e_.allocator->available_blocks(caller_.uid == 0))
            return Error(ENOSPC, "the volume is full");
        return true;
    }

    Result<> edges() {
        if (!punch_ && !zero_) {
            enter(Stage::allocate);
            return {};
        }
        const bool in_one_block = inner_first() > inner_end() || first_ == file_block_of(to_);
        if (in_one_block) {
            TRY(zero_bytes(from_, to_));
        } else {
            TRY(zero_bytes(from_, byte_of(inner_first())));
            TRY(zero_bytes(byte_of(inner_end()), to_));
        }
        enter(!in_one_block ? Stage::clear : punch_ ? Stage::finish : Stage::allocate);
        return {};
    }

    // Zeroes bytes inside written blocks; holes and unwritten blocks read as zeroes already.
    Result<> zero_bytes(std::uint64_t from, std::uint64_t to) {
        if (from >= to) return {};
        const Reader reader(*e_.core);
        const auto *inode = TRY(core::read_inode(reader, ino_));
        e_.journal->persist(TRY(zero_written(*e_.journal, reader, *inode, ino_, from, to)));
        e_.data_dirty.store(true, std::memory_order_release);
        return {};
    }

    // Holes (punch) or unwritten blocks (zero) where blocks were; no data is moved.
    Result<bool> clear() REQUIRES(e_.lock) {
        e_.live.not_dense_from(ino_, inner_first());
        at_ = TRY(clear_step(e_, ino_, at_, inner_end(), punch_));
        return at_ == inner_end();
    }

    // Unwritten blocks where holes were.
    Result<bool> allocate() {
        for (unsigned n = 0; at_ < end_ && n < kLookedAt; ++n) {
            const Reader reader(*e_.core);
            const auto *was = TRY(core::read_inode(reader, ino_));
            const Extent e = TRY(core::find_extent(reader, *was, ino_, at_));
            const FileBlock upto = std::min(e.end(), end_);
            if (e.hole()) {
                TRY(allocate_piece(upto));
                return at_ >= end_;
            }
            at_ = upto;
        }
        return at_ >= end_;
    }

    Result<> allocate_piece(FileBlock upto) {
        TRY(core::map_make_room(*e_.core, ino_, at_, 1));
        Change change(*e_.core);
        TRY(change.begin());
        auto *inode = TRY(core::edit_inode(change, ino_));
        const auto permit = TRY(e_.holders->permit(ino_, *inode, Move::allocate, at_, upto));
        const Reader reader(*e_.core);
        const Run run = TRY(e_.allocator->take_data(
            change, goal_for(reader, *inode, ino_, at_, upto - at_, caller_), upto - at_));
        TRY(core::map_insert(change, inode, ino_, {at_, run.start, run.blocks, true, false},
                             permit));
        inode->blocks.set(inode->blocks.get() + run.blocks);
        TRY(change.commit());
        at_ += run.blocks;
        return {};
    }

    // The last change: size, times, and the set-id bits if the caller may not keep them.  A
    // FALLOCATE does not say whether it may, and kernels before 5.18 send no request before it that
    // does.
    Result<bool> finish() REQUIRES(e_.lock) {
        const std::uint64_t size_at_least = keeps_size_ ? 0 : to_;
        const Reader reader(*e_.core);
        const auto *was = TRY(core::read_inode(reader, ino_));
        // Zeroes what the file grows over.
        zeroed_ = std::max(zeroed_, was->size.get());
        if (zeroed_ < size_at_least) zeroed_ = TRY(zero_step(e_, ino_, zeroed_, size_at_least));
        if (zeroed_ < size_at_least) return false;
        Change change(*e_.core);
        TRY(change.begin());
        auto *inode = TRY(core::edit_inode(change, ino_));
        if (size_at_least > was->size.get()) inode->size.set(size_at_least);
        if (caller_.uid != 0) kill_setid(inode);
        const bool killed = inode->mode.get() != was->mode.get();
        touch(inode, true, e_.live.shared(ino_));
        TRY(change.commit());
        killed_ = killed;
        return true;
    }

    Engine &e_;
    const bool keeps_size_, punch_, zero_;
    const std::uint64_t from_, to_;  // bytes
    const FileBlock first_, end_;
    Caller caller_;
    Stage stage_ = Stage::begin;
    FileBlock at_;  // where this stage continues
    std::uint64_t needed_ = 0;
    std::uint64_t zeroed_ = 0;  // as far as what the file grows over is known to be zero; bytes
    bool killed_ = false;
};

}  // namespace

Result<> Volume::fallocate(HandleId handle, InodeNo ino, unsigned mode, std::uint64_t offset,
                           std::uint64_t length, const Caller &caller, Stale *stale) {
    Engine &e = parts_->engine;
    if (mode == kSealMode || mode == kUnsealMode)
        return seal_by_fallocate(handle, ino, mode, offset, length, caller);
    TRY(writable(e));
    constexpr unsigned kPunch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    const bool zero = (mode & ~FALLOC_FL_KEEP_SIZE) == FALLOC_FL_ZERO_RANGE;
    if ((mode & (kSealMode | kUnsealMode) & ~FALLOC_FL_KEEP_SIZE) != 0)
        return Error(EINVAL, "a seal mode must be given with KEEP_SIZE and no other mode");
    if (mode != 0 && mode != FALLOC_FL_KEEP_SIZE && mode != kPunch && !zero) {
        // Collapse, insert and unshare: if the map may not change, that error comes first.
        return asking(e, caller, [&]() -> Result<> {
            SharedLock held(e.lock);
            const auto *inode = TRY(core::read_inode(Reader(*e.core), ino));
            TRY(e.holders->permit(ino, *inode, Move::punch, file_block_of(offset),
                                  FileBlock(media::kFileBlocksMax)));
            return Error(EOPNOTSUPP, "pmfs does not support this mode of fallocate");
        });
    }
    if (length == 0) return Error(EINVAL, "fallocate needs a length greater than zero");
    if (offset > media::kFileSizeMax || length > media::kFileSizeMax - offset)
        return Error(EFBIG, "a file has at most 2^50 bytes");
    const std::uint64_t to = offset + length;
    return asking(e, caller, [&]() -> Result<> {
        auto operation = resumed_or_new<Fallocate>(caller.progress, ino, e, ino, mode, offset, to);
        operation->lend(caller);
        TRY(parts_->scheduler.run_or_keep(operation, caller.progress));
        if (stale != nullptr) stale->attributes = stale->mode = operation->killed();
        return {};
    });
}

}  // namespace pmfs
