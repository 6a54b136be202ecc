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
Result<bool> Volume::Impl::trim_step(InodeNo ino) {
    const auto *was = TRY(core::read_inode(Reader(*core), ino));
    if ((was->flags.get() & media::kTrimPending) == 0) return true;
    Change change(*core);
    TRY(change.begin());
    auto *inode = TRY(core::edit_inode(change, ino));
    const auto permit = TRY(core::permit(*inode, {}, Move::reap));
    const bool all = TRY(core::map_trim(change, inode, ino, inode->trim_from.get(), permit));
    if (all) {
        inode->flags.set(inode->flags.get() & ~media::kTrimPending);
        inode->trim_from.set(0);
        // A file without a name stays on the list until it goes.
        if (inode->nlink.get() != 0) TRY(core::remove_orphan(change, ino, inode));
    }
    TRY(change.commit());
    TRY(best_effort(core::map_tidy(*core, ino, kEndBlock)));
    return all;
}

Result<> Volume::Impl::settle_trim(InodeNo ino) {
    while (!TRY(trim_step(ino))) {
    }
    return {};
}

namespace {

// setattr: the size, then what lies behind it, then the rest.
class SetAttributes final : public Operation {
public:
    SetAttributes(Volume::Impl &v, InodeNo ino, const SetAttr &set)
        : Operation(v.file_claims, ino), v_(v), set_(set) {}

    void lend(const Caller &caller) { caller_ = caller; }
    const Attr &attr() const { return attr_; }
    bool killed() const { return mode_before_ != attr_.mode; }

    Result<bool> step() override {
        v_.lock.assert_held();
        TRY(v_.writable());
        if (stage_ == Stage::begin) TRY(begin());
        if (stage_ == Stage::trim) {
            if (!TRY(v_.trim_step(ino_))) return false;
            stage_ = sized_ ? Stage::rest : Stage::size;
        }
        if (stage_ == Stage::size) {
            TRY(set_size(*set_.size));
            if (stage_ == Stage::trim) return false;
        }
        TRY(set_rest());
        return true;
    }

private:
    enum class Stage : std::uint8_t { begin, trim, size, rest };

    Result<> begin() {
        const auto *was = TRY(core::read_inode(Reader(*v_.core), ino_));
        mode_before_ = was->mode.get();
        if (!set_.size) {
            stage_ = Stage::rest;
            return {};
        }
        if (*set_.size > media::kFileSizeMax) return Error(EFBIG, "a file has at most 2^50 bytes");
        if (S_ISDIR(was->mode.get())) return Error(EISDIR, "a directory");
        if (!S_ISREG(was->mode.get())) return Error(EINVAL, "not a regular file");
        TRY(v_.file_claims.respect(ino_, &claim_));
        stage_ = Stage::size;
        if ((was->flags.get() & media::kTrimPending) == 0) return {};
        TRY(claim_.take());
        stage_ = Stage::trim;
        return {};
    }

    Result<> set_size(std::uint64_t size) {
        TRY(v_.file_claims.respect(ino_, &claim_));
        const Reader reader(*v_.core);
        const auto *was = TRY(core::read_inode(reader, ino_));
        const std::uint64_t old = was->size.get();
        const std::uint64_t from = blocks_up(size);
        // To the same size: blocks behind the end go, and only they are the seal's business.
        const bool changes =
            size != old || !TRY(core::next_extent(reader, *was, ino_, from)).hole();
        std::optional<core::MapPermit> allowed;
        // A file that grows keeps the block that its end is in.
        const std::uint64_t reaches = size < old ? size / kBlockSize : blocks_up(old);
        if (changes)
            allowed = TRY(v_.permit(ino_, *was, Move::truncate, reaches, kEndBlock, caller_));
        Change change(*v_.core);
        TRY(change.begin());
        auto *inode = TRY(core::edit_inode(change, ino_));
        if (size > old) change.after(TRY(v_.zero_written(reader, *was, ino_, old, size)));
        inode->size.set(size);
        Volume::Impl::touch(inode, true);
        bool all = true;
        v_.live.not_dense_from(ino_, from);
        if (size <= old && changes && !TRY(core::map_trim(change, inode, ino_, from, *allowed))) {
            all = false;
            inode->flags.set(inode->flags.get() | media::kTrimPending);
            inode->trim_from.set(from);
            // Without a name it is on the list.
            if (inode->nlink.get() != 0) TRY(core::add_orphan(change, ino_, inode));
        }
        TRY(change.commit());
        sized_ = true;
        stage_ = all ? Stage::rest : Stage::trim;
        if (!all) return claim_.take();
        return best_effort(core::map_tidy(*v_.core, ino_, kEndBlock));
    }

    Result<> set_rest() REQUIRES(v_.lock) {
        if (set_.size || set_.uid || set_.gid || set_.kill_suid_sgid) TRY(v_.drop_capability(ino_));
        Change change(*v_.core);
        TRY(change.begin());
        auto *inode = TRY(core::edit_inode(change, ino_));
        if (set_.mode) inode->mode.set((inode->mode.get() & S_IFMT) | (*set_.mode & 07777));
        if (set_.uid) inode->uid.set(*set_.uid);
        if (set_.gid) inode->gid.set(*set_.gid);
        // An explicit mode in the same request has had its say about the bits.
        if (set_.kill_suid_sgid && !set_.mode) Volume::Impl::kill_setid(inode);
        if (set_.atime) inode->atime = core::to_media(*set_.atime);
        if (set_.mtime) inode->mtime = core::to_media(*set_.mtime);
        inode->ctime = core::to_media(set_.ctime ? *set_.ctime : now_coarse());
        attr_ = v_.attr_of(ino_, *inode);
        TRY(change.commit());
        return {};
    }

    Volume::Impl &v_;
    const SetAttr set_;
    Caller caller_;
    Stage stage_ = Stage::begin;
    bool sized_ = false;
    std::uint32_t mode_before_ = 0;
    Attr attr_;
};

}  // namespace

Result<Attr> Volume::setattr(InodeNo ino, const SetAttr &set, const Caller &caller) {
    bool killed = false;
    return set_attributes(ino, set, caller, &killed);
}

Result<Attr> Volume::set_attributes(InodeNo ino, const SetAttr &set, const Caller &caller,
                                    bool *killed) {
    Impl &v = *impl_;
    TRY(v.writable());
    return v.asking(caller, [&]() -> Result<Attr> {
        auto operation = resumed_or_new<SetAttributes>(caller.progress, ino, v, ino, set);
        operation->lend(caller);
        TRY(v.scheduler.run_or_keep(operation, caller.progress));
        *killed = operation->killed();
        return operation->attr();
    });
}

namespace {

// fallocate(2) on one file, which is claimed from the first step on.
class Fallocate final : public Operation {
public:
    Fallocate(Volume::Impl &v, InodeNo ino, unsigned mode, std::uint64_t from, std::uint64_t to)
        : Operation(v.file_claims, ino),
          v_(v),
          keeps_size_((mode & FALLOC_FL_KEEP_SIZE) != 0),
          punch_(mode == (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)),
          zero_((mode & ~FALLOC_FL_KEEP_SIZE) == FALLOC_FL_ZERO_RANGE),
          from_(from),
          to_(to),
          first_(from / kBlockSize),
          end_(blocks_up(to)) {}

    void lend(const Caller &caller) { caller_ = caller; }
    bool killed() const { return killed_; }

    Result<bool> step() override {
        v_.lock.assert_held();
        TRY(v_.writable());
        switch (stage_) {
            case Stage::begin:
                TRY(begin());
                return false;
            case Stage::trim:
                if (TRY(v_.trim_step(ino_))) enter(Stage::count);
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
                break;
        }
        TRY(finish());
        return true;
    }

private:
    enum class Stage : std::uint8_t { begin, trim, count, edges, clear, allocate, finish };
    // Of extents that stay as they are, so many are looked at in one step.
    static constexpr unsigned kExtentsLookedAt = 1024;

    void enter(Stage stage) {
        stage_ = stage;
        at_ = stage == Stage::clear ? inner_first() : first_;
    }
    std::uint64_t inner_first() const { return blocks_up(from_); }
    std::uint64_t inner_end() const { return std::max(inner_first(), to_ / kBlockSize); }

    Result<> begin() REQUIRES(v_.lock) {
        const auto *was = TRY(core::read_inode(Reader(*v_.core), ino_));
        if (!S_ISREG(was->mode.get())) return Error(ENODEV, "not a regular file");
        TRY(v_.permit(ino_, *was, punch_ || zero_ ? Move::punch : Move::allocate, first_, end_,
                      caller_));
        TRY(claim_.take());
        TRY(v_.drop_capability(ino_));
        enter((was->flags.get() & media::kTrimPending) != 0 ? Stage::trim : Stage::count);
        return {};
    }

    // What is needed must be there before anything is done.
    Result<bool> count() {
        const Reader reader(*v_.core);
        const auto *inode = TRY(core::read_inode(reader, ino_));
        for (unsigned n = 0; at_ < end_ && n < kExtentsLookedAt; ++n) {
            const Extent e = TRY(core::find_extent(reader, *inode, ino_, at_));
            if (e.hole()) needed_ += std::min(e.end(), end_) - at_;
            at_ = e.end();
        }
        if (at_ < end_) return false;
        if (needed_ > v_.allocator->available_blocks(caller_.uid == 0))
            return Error(ENOSPC, "the volume is full");
        return true;
    }

    Result<> edges() {
        if (!punch_ && !zero_) {
            enter(Stage::allocate);
            return {};
        }
        const bool in_one_block = inner_first() > inner_end() || first_ == to_ / kBlockSize;
        if (in_one_block) {
            TRY(zero_bytes(from_, to_));
        } else {
            TRY(zero_bytes(from_, inner_first() * kBlockSize));
            TRY(zero_bytes(inner_end() * kBlockSize, to_));
        }
        enter(!in_one_block ? Stage::clear : punch_ ? Stage::finish : Stage::allocate);
        return {};
    }

    // Zeroes bytes inside written blocks; holes and unwritten blocks are zero already.
    Result<> zero_bytes(std::uint64_t from, std::uint64_t to) {
        if (from >= to) return {};
        const Reader reader(*v_.core);
        const auto *inode = TRY(core::read_inode(reader, ino_));
        v_.journal->persist(TRY(v_.zero_written(reader, *inode, ino_, from, to)));
        v_.data_dirty.store(true, std::memory_order_release);
        return {};
    }

    // Holes (punch) or unwritten blocks (zero) where blocks were; no data is moved.
    Result<bool> clear() {
        v_.live.not_dense_from(ino_, inner_first());
        for (unsigned n = 0; n < kExtentsLookedAt; ++n) {
            const Reader reader(*v_.core);
            const auto *was = TRY(core::read_inode(reader, ino_));
            const Extent e = TRY(core::next_extent(reader, *was, ino_, at_));
            if (at_ >= inner_end() || e.hole() || e.file_block >= inner_end()) return true;
            at_ = std::max(at_, e.file_block);
            const std::uint64_t upto = std::min(e.end(), inner_end());
            if (punch_ || !e.unwritten) {
                const Run whole{e.start + (at_ - e.file_block), upto - at_};
                TRY(clear_piece(at_ + v_.allocator->piece(whole).blocks));
                return false;
            }
            at_ = upto;
        }
        return false;
    }

    Result<> clear_piece(std::uint64_t upto) {
        TRY(core::map_make_room(*v_.core, ino_, at_, 2));
        TRY(core::map_make_room(*v_.core, ino_, upto, 2));
        Change change(*v_.core);
        TRY(change.begin());
        auto *inode = TRY(core::edit_inode(change, ino_));
        const auto permit = TRY(v_.permit(ino_, *inode, Move::punch, at_, upto, caller_));
        const Run run = TRY(core::map_remove(change, inode, ino_, at_, upto, permit));
        if (punch_) {
            TRY(v_.allocator->give_back(change, run));
            inode->blocks.set(inode->blocks.get() - run.blocks);
        } else {
            TRY(core::map_insert(change, inode, ino_, {at_, run.start, run.blocks, true, false},
                                 permit));
        }
        TRY(change.commit());
        const std::uint64_t cleared = at_;
        at_ = upto;
        return best_effort(core::map_tidy(*v_.core, ino_, cleared));
    }

    // Unwritten blocks where holes were.
    Result<bool> allocate() {
        for (unsigned n = 0; at_ < end_ && n < kExtentsLookedAt; ++n) {
            const Reader reader(*v_.core);
            const auto *was = TRY(core::read_inode(reader, ino_));
            const Extent e = TRY(core::find_extent(reader, *was, ino_, at_));
            const std::uint64_t upto = std::min(e.end(), end_);
            if (e.hole()) {
                TRY(allocate_piece(upto));
                return at_ >= end_;
            }
            at_ = upto;
        }
        return at_ >= end_;
    }

    Result<> allocate_piece(std::uint64_t upto) {
        TRY(core::map_make_room(*v_.core, ino_, at_, 1));
        Change change(*v_.core);
        TRY(change.begin());
        auto *inode = TRY(core::edit_inode(change, ino_));
        const auto permit = TRY(v_.permit(ino_, *inode, Move::allocate, at_, upto, caller_));
        const Reader reader(*v_.core);
        const Run run = TRY(v_.allocator->take_data(
            change, v_.goal_for(reader, *inode, ino_, at_, upto - at_, caller_), upto - at_));
        TRY(core::map_insert(change, inode, ino_, {at_, run.start, run.blocks, true, false},
                             permit));
        inode->blocks.set(inode->blocks.get() + run.blocks);
        TRY(change.commit());
        at_ += run.blocks;
        return {};
    }

    // The last change: size, times, and the set-id bits if the caller may not keep them: a
    // FALLOCATE does not say so, and kernels before 5.18 sent nothing ahead of it that does.
    Result<> finish() {
        const std::uint64_t size_at_least = keeps_size_ ? 0 : to_;
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
        killed_ = killed;
        return {};
    }

    Volume::Impl &v_;
    const bool keeps_size_, punch_, zero_;
    const std::uint64_t from_, to_;    // bytes
    const std::uint64_t first_, end_;  // blocks
    Caller caller_;
    Stage stage_ = Stage::begin;
    std::uint64_t at_ = 0;  // the block where this stage goes on
    std::uint64_t needed_ = 0;
    bool killed_ = false;
};

}  // namespace

Result<> Volume::fallocate(HandleId handle, InodeNo ino, unsigned mode, std::uint64_t offset,
                           std::uint64_t length, const Caller &caller, Stale *stale) {
    Impl &v = *impl_;
    if (mode == kSealMode || mode == kUnsealMode)
        return seal_by_fallocate(handle, ino, mode, offset, length, caller);
    TRY(v.writable());
    constexpr unsigned kPunch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    const bool zero = (mode & ~FALLOC_FL_KEEP_SIZE) == FALLOC_FL_ZERO_RANGE;
    if ((mode & (kSealMode | kUnsealMode) & ~FALLOC_FL_KEEP_SIZE) != 0)
        return Error(EINVAL, "a seal mode stands alone, with KEEP_SIZE");
    if (mode != 0 && mode != FALLOC_FL_KEEP_SIZE && mode != kPunch && !zero) {
        // Collapse, insert and unshare: where the map may not change, that is the answer.
        return v.asking(caller, [&]() -> Result<> {
            SharedLock held(v.lock);
            const auto *inode = TRY(core::read_inode(Reader(*v.core), ino));
            TRY(v.permit(ino, *inode, Move::punch, offset / kBlockSize, media::kFileBlocksMax,
                         caller));
            return Error(EOPNOTSUPP, "pmfs does not know this mode of fallocate");
        });
    }
    if (length == 0) return Error(EINVAL, "fallocate of no bytes");
    if (offset > media::kFileSizeMax || length > media::kFileSizeMax - offset)
        return Error(EFBIG, "a file has at most 2^50 bytes");
    const std::uint64_t to = offset + length;
    return v.asking(caller, [&]() -> Result<> {
        auto operation = resumed_or_new<Fallocate>(caller.progress, ino, v, ino, mode, offset, to);
        operation->lend(caller);
        TRY(v.scheduler.run_or_keep(operation, caller.progress));
        if (stale != nullptr) stale->attributes = operation->killed();
        return {};
    });
}

}  // namespace pmfs
