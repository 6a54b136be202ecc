// Writing file data.
//
// Overwrites in place read the map with the volume's lock held shared, and copy without it, inside
// an epoch (core/epoch.h).  Everything that changes the map, the size or the times is a Change: one
// transaction for each contiguous piece, front to back, so that an interrupted write leaves a
// prefix.
#include <algorithm>
#include <array>
#include <optional>

#include "core/extent_map.h"
#include "core/inode.h"
#include "core/protection.h"
#include "core/xattr.h"
#include "media/geometry.h"
#include "volume/asking.h"
#include "volume/attributes.h"
#include "volume/data.h"
#include "volume/evacuation.h"
#include "volume/parts.h"
#include "volume/trim.h"

namespace pmfs {

using core::Change;
using core::Reader;
using core::Run;
using media::byte_of;
using media::file_block_of;

namespace {

struct Span {  // bytes of a file
    std::uint64_t from, to;
    FileBlock first_block() const { return file_block_of(from); }
    FileBlock end_block() const { return media::file_block_from(to); }
};

// EFAULT: some of the bytes that were copied are in memory that the client has taken away.
Result<> check_source() {
    if (pm::take_client_fault()) return Error(EFAULT, "the client's memory is gone");
    return {};
}

// With -o writeback the kernel notes the times when bytes are stored into its cache, and sends them
// by itself, perhaps before the bytes (fs/fuse/dir.c, fuse_flush_times()).
bool kernel_keeps_times(const Engine &e, const Caller &caller) {
    return caller.written_back && e.options.writeback;
}

// What a write clears or moves besides the bytes.  Of what it writes back, the kernel has removed
// the file's capabilities already, when write(2) was called; a store by mmap removes none.
struct Besides {
    bool setid, capabilities, times;
    Besides(const Engine &e, const Caller &caller, bool kill)
        : setid(kill), capabilities(!caller.written_back), times(!kernel_keeps_times(e, caller)) {}
};

// An overwrite of written blocks inside the file, which changes no metadata.
class InPlace {
public:
    InPlace(Engine &e, InodeNo ino, Span span) : e_(e), ino_(ino), span_(span) {}

    // True when the write can proceed.  With the lock held shared, inside an epoch.
    Result<bool> fits(const Reader &reader, const media::Inode &inode, const Besides &besides) {
        if (span_.to > inode.size.get()) return false;
        if (besides.setid && has_setid(inode.mode.get())) return false;
        if (besides.capabilities && inode.xattr_root.get() != 0 &&
            core::has_xattr(reader, inode, ino_, kCapability))
            return false;
        if (besides.times &&
            (core::from_media(inode.mtime) != now_coarse() || e_.live.shared(ino_)))
            return false;
        count_ = 0;
        for (std::uint64_t at = span_.from; at < span_.to;) {
            const Extent e = TRY(core::find_extent(reader, inode, ino_, file_block_of(at)));
            if (e.hole() || e.unwritten || e.shared || count_ == pieces_.size()) return false;
            const std::uint64_t n = std::min(span_.to, end_byte(e)) - at;
            pieces_[count_++] = {device_byte(e, at), n};
            at += n;
        }
        return true;
    }
    void write(const Pieces &bytes) {
        pm::Unfenced unfenced;
        std::size_t from = 0;
        for (std::size_t i = 0; i < count_; ++i) {
            unfenced.add(e_.journal->write_data(pieces_[i].at, bytes, from, pieces_[i].size));
            from += pieces_[i].size;
        }
        e_.journal->persist(std::move(unfenced));
    }

private:
    struct Piece {
        std::uint64_t at, size;
    };
    Engine &e_;
    InodeNo ino_;
    Span span_;
    std::array<Piece, 16> pieces_;
    std::size_t count_ = 0;
};

// True when the write needed no change of metadata, and is done.
Result<bool> write_in_place(Engine &e, InodeNo ino, std::uint64_t offset, const Pieces &bytes,
                            const Besides &besides) EXCLUDES(e.lock) {
    const core::Epochs::Section inside(e.readers);
    InPlace in_place(e, ino, {offset, offset + bytes.size()});
    {
        SharedLock held(e.lock);
        const Reader reader(*e.core);
        const auto *inode = TRY(read_file(reader, ino));
        TRY(core::may_write(*inode, offset));
        if (!TRY(in_place.fits(reader, *inode, besides))) return false;
        TRY(e.claims.respect_moves(ino));
    }
    in_place.write(bytes);
    // After the data: a group commit that clears this flag before it syncs misses nothing.
    e.data_dirty.store(true, std::memory_order_release);
    TRY(check_source());
    return true;
}

// Pieces up to this size are copied with the lock held: that takes less time than taking the lock
// again.
constexpr std::uint64_t kCopyInLock = 16 << 10;

// One write that changes metadata, from piece to piece.
class Write final : public Operation {
public:
    Write(Engine &e, InodeNo ino, Span span, bool kill)
        : Operation(e.claims, ino), e_(e), span_(span), kill_(kill), at_(span.from) {}
    ~Write() override {
        if (!reserved_) return;
        ExclusiveLock held(e_.lock);
        e_.allocator->cancel_reserved(run_);
    }

    // Valid only during the call.
    void lend(const Pieces &bytes, const Caller &caller) {
        bytes_ = bytes;
        caller_ = caller;
        kernel_times_ = kernel_keeps_times(e_, caller);
        touched_ |= kernel_times_ && !kill_;
    }
    std::size_t written() const { return static_cast<std::size_t>(at_ - span_.from); }
    bool killed() const { return killed_; }
    bool may_wait_for_space() const override { return written() == 0; }

    Hold hold() const override {
        if (stage_ == Stage::evacuate) return evacuation_->hold();
        return stage_ == Stage::copy ? Hold::none : Hold::exclusive;
    }
    Result<bool> step() override {
        if (stage_ == Stage::copy) return copy();
        TRY(writable(e_));
        if (stage_ == Stage::evacuate) return evacuate();
        e_.lock.assert_held();
        if (stage_ == Stage::begin && !TRY(begin())) return false;
        if (stage_ == Stage::commit) {
            TRY(commit());
        } else {
            TRY(next());
        }
        return at_ == span_.to;
    }

private:
    enum class Stage : std::uint8_t { begin, plan, evacuate, copy, commit };
    enum class Piece : std::uint8_t {
        inside,  // written blocks, and the size stays
        behind,  // written blocks behind the end of the file
        unwritten,
        hole,
    };

    // All or nothing: nothing is written unless the seal allows every part of the write.  False: a
    // truncation had to be finished first, which takes another step.
    Result<bool> begin() REQUIRES(e_.lock) {
        const auto *was = TRY(read_file(Reader(*e_.core), ino_));
        TRY(core::may_write(*was, span_.from));
        TRY(e_.claims.respect(ino_, &claim_));
        if ((was->flags.get() & media::kTrimPending) != 0) {
            TRY(claim_.take());
            TRY(trim_step(e_, ino_));
            return false;
        }
        if (!crop(*was)) {
            stage_ = Stage::plan;
            return true;
        }
        std::uint64_t new_blocks = 0;
        TRY(ask_seal(*was, &new_blocks));
        // A part of the write is no answer: all of it fits, or nothing is written (unless others
        // take the space meanwhile).
        if (caller_.direct && new_blocks > e_.allocator->available_blocks(caller_.uid == 0))
            return Error(ENOSPC, "the volume has no room for all of the write");
        if (!TRY(zero_ahead(was->size.get()))) return false;
        if (!caller_.written_back) TRY(drop_capability(e_, ino_));
        stage_ = Stage::plan;
        return true;
    }

    // A kernel that writes back what was stored into a mapping may do so when the file has been
    // made shorter meanwhile (by another client, which does not wait for it).  Stores never make a
    // file longer, unless its kernel keeps the size (-o writeback).  False: nothing is left to
    // write.
    bool crop(const media::Inode &inode) {
        if (!caller_.written_back || e_.options.writeback) return true;
        span_.to = std::max(at_, std::min(span_.to, inode.size.get()));
        return at_ != span_.to;
    }

    // If zeroing what the file grows over takes more than a step, that is done first; otherwise
    // together with the first piece.
    Result<bool> zero_ahead(std::uint64_t size) REQUIRES(e_.lock) {
        const std::uint64_t from = std::max(size, zeroed_);
        if (from >= span_.from) return true;
        const std::uint64_t upto = TRY(zero_step(e_, ino_, from, span_.from));
        if (upto == span_.from && zeroed_ == 0) return true;
        TRY(claim_.take());
        zeroed_ = upto;
        return false;
    }

    // `new_blocks`: how many the write needs that the file has not.
    Result<> ask_seal(const media::Inode &inode, std::uint64_t *new_blocks) {
        const Reader reader(*e_.core);
        const FileBlock first = span_.first_block(), end = span_.end_block();
        if (span_.to > inode.size.get())
            TRY(e_.holders->permit(ino_, inode, core::Move::grow, first, end));
        for (FileBlock at = first; at < end;) {
            const Extent e = TRY(core::find_extent(reader, inode, ino_, at));
            if (e.hole()) *new_blocks += std::min(e.end(), end) - at;
            if (e.hole() || e.unwritten || e.shared)
                TRY(e_.holders->permit(ino_, inode, core::Move::allocate, at,
                                       std::min(e.end(), end)));
            at = e.end();
        }
        return {};
    }

    // Writes the piece at at_ as a whole if it is small; otherwise prepares for copying it.
    Result<> next() {
        TRY(e_.claims.respect(ino_, &claim_));
        const Reader reader(*e_.core);
        const auto *was = TRY(core::read_inode(reader, ino_));
        if (!crop(*was)) return {};
        const FileBlock block = file_block_of(at_), end_block = span_.end_block();
        const Extent e = TRY(core::find_extent(reader, *was, ino_, block));
        const FileBlock upto = std::min(e.end(), end_block);
        end_ = std::min(span_.to, byte_of(upto));
        run_ = {e.place_of(block), upto - block};
        base_ = block;
        piece_ = e.hole()                  ? Piece::hole
                 : e.unwritten             ? Piece::unwritten
                 : end_ <= was->size.get() ? Piece::inside
                                           : Piece::behind;
        bool small = end_ - at_ <= kCopyInLock;
        // Further steps follow: no other operation may change the file before the last one.
        if (end_ != span_.to || (!small && piece_ != Piece::inside)) TRY(claim_.take());
        if (piece_ == Piece::hole || piece_ == Piece::unwritten) {
            auto room = core::map_make_room(*e_.core, ino_, block, 2);
            if (room.ok() && piece_ == Piece::unwritten)
                room = core::map_make_room(*e_.core, ino_, upto, 2);
            const bool full = !room.ok() && room.error().errno_value() == ENOSPC;
            if (!full || piece_ == Piece::hole) TRY(std::move(room));
            // There is no block for one more extent: all of this one becomes written (as ext4 does
            // it).
            if (full) TRY(whole_extent(e));
            small = small && !full;
        }
        if (piece_ == Piece::inside && (touched_ || !small)) {
            // Needs no record, except for times and mode, once for the whole write.
            if (!touched_) TRY(touch());
            inside_.emplace(e_.readers);
            return copy_next();
        }
        if (small) return commit();
        if (piece_ == Piece::hole) {
            TRY(e_.holders->permit(ino_, *was, core::Move::allocate, block, upto));
            const core::Goal goal = goal_for(reader, *was, ino_, block, end_block - block, caller_);
            if (TRY(make_whole(goal))) return {};
            run_ = TRY(e_.allocator->reserve_data(goal, upto - block));
            reserved_ = true;
            end_ = std::min(span_.to, byte_of(block + run_.blocks));
        }
        return copy_next();
    }
    // For a large file's next chunk, up to half a chunk of other data is moved away.  True: that
    // comes first.
    Result<bool> make_whole(const core::Goal &goal) {
        e_.lock.assert_held();
        if (evacuated_ == at_ + 1 || !Evacuation::may_help(e_)) return false;
        if (!TRY(e_.allocator->lacks_chunk(goal))) return false;
        evacuated_ = at_ + 1;
        evacuation_ = std::make_unique<Evacuation>(e_, 1, 1, Evacuation::Worth::useful, &claim_);
        evacuation_->at_most(media::kChunkBlocks / 2);
        waited_ = false;
        stage_ = Stage::evacuate;
        return true;
    }
    Result<bool> evacuate() {
        const auto done = evacuation_->step();
        if (done.ok() && !done.value()) return false;
        if (!done.ok() && (done.error().errno_value() == kParkErrno || pm::NoWaiting::met()))
            return done;
        e_.lock.assert_held();  // it returns in a stage with the lock held
        // On an image, blocks that were moved out become free by a group commit.
        if (done.ok() && !std::exchange(waited_, true) && e_.allocator->space_comes())
            return Error(kParkErrno, "the blocks of an emptied chunk wait for a group commit");
        if (!done.ok() && done.error().errno_value() != kClaimErrno) Evacuation::was_vain(e_);
        evacuation_->finish();
        evacuation_.reset();
        stage_ = Stage::plan;
        return false;
    }
    // The volume is full to the last block: no other operation may run in between.
    Result<> whole_extent(const Extent &e) {
        TRY(claim_.take());
        run_ = {e.start, e.blocks};
        base_ = e.file_block;
        return {};
    }
    Result<> copy_next() {
        stage_ = Stage::copy;
        return {};
    }

    // Without the lock: the blocks are reserved, or belong to the file, which is claimed.
    Result<bool> copy() {
        e_.journal->persist(fill());
        inside_.reset();
        if (pm::take_fault()) return Error(EIO, "the medium has a bad page here");
        TRY(check_source());
        copied_ = true;
        stage_ = Stage::commit;
        if (piece_ != Piece::inside) return false;
        // There is no record of it.
        e_.data_dirty.store(true, std::memory_order_release);
        done_with_piece();
        return at_ == span_.to;
    }

    Result<> touch() {
        Change change(*e_.core);
        TRY(change.begin());
        touch(TRY(core::edit_inode(change, ino_)));
        TRY(change.commit());
        touched_ = true;
        return {};
    }
    void touch(media::Inode *inode) {
        const std::uint32_t mode = inode->mode.get();
        if (kill_) kill_setid(inode);
        killed_ |= inode->mode.get() != mode;
        if (!kernel_times_) pmfs::touch(inode, true, e_.live.shared(ino_));
    }

    Result<> commit() {
        const FileBlock block = file_block_of(at_);
        Change change(*e_.core);
        TRY(change.begin());
        auto *inode = TRY(core::edit_inode(change, ino_));
        const std::uint64_t old_size = inode->size.get();
        const std::uint64_t zeroed = std::max(old_size, zeroed_);
        if (span_.from > zeroed)
            change.after(
                TRY(zero_written(*e_.journal, Reader(*e_.core), *inode, ino_, zeroed, span_.from)));
        std::optional<core::MapPermit> permit;
        if (piece_ == Piece::hole || piece_ == Piece::unwritten)
            permit = TRY(
                e_.holders->permit(ino_, *inode, core::Move::allocate, base_, base_ + run_.blocks));
        if (piece_ == Piece::hole) TRY(take_blocks(change, *inode, block));
        // As early as possible: the stores continue while the record is built.
        if (!copied_) change.after(fill());
        if (permit) TRY(change_map(change, inode, *permit));
        if (end_ > old_size) inode->size.set(end_);
        touch(inode);
        TRY(change.commit());
        touched_ = true;
        done_with_piece();
        if (at_ != span_.to) TRY(claim_.take());
        return {};
    }

    Result<> take_blocks(Change &change, const media::Inode &inode, FileBlock block) {
        if (reserved_) return e_.allocator->take_reserved(change, run_);
        const core::Goal goal =
            goal_for(Reader(*e_.core), inode, ino_, block, span_.end_block() - block, caller_);
        run_ = TRY(e_.allocator->take_data(change, goal, run_.blocks));
        end_ = std::min(span_.to, byte_of(block + run_.blocks));
        return {};
    }

    Result<> change_map(Change &change, media::Inode *inode, const core::MapPermit &permit) {
        if (piece_ == Piece::unwritten)
            return core::map_set_written(change, inode, ino_, base_, base_ + run_.blocks, permit);
        TRY(core::map_insert(change, inode, ino_, {base_, run_.start, run_.blocks, false, false},
                             permit));
        inode->blocks.set(inode->blocks.get() + run_.blocks);
        return {};
    }

    void done_with_piece() {
        reserved_ = copied_ = false;
        at_ = end_;
        stage_ = Stage::plan;
    }

    // Zeroes the parts of the first and the last new block that the write does not cover.
    pm::Unfenced fill() {
        pm::Unfenced unfenced;
        const bool fresh = piece_ == Piece::hole || piece_ == Piece::unwritten;
        const std::uint64_t start = byte_of(run_.start), head = device() - start;
        if (fresh && head != 0) unfenced.add(e_.journal->zero_data(start, head));
        unfenced.add(e_.journal->write_data(device(), bytes_, at_ - span_.from, end_ - at_));
        const std::uint64_t written_to = device() + (end_ - at_);
        const std::uint64_t tail = byte_of(run_.end());
        if (fresh && written_to < tail)
            unfenced.add(e_.journal->zero_data(written_to, tail - written_to));
        return unfenced;
    }
    std::uint64_t device() const { return byte_of(run_.start) + (at_ - byte_of(base_)); }

    Engine &e_;
    Span span_;
    const bool kill_;
    Pieces bytes_;
    Caller caller_;
    Stage stage_ = Stage::begin;
    std::uint64_t zeroed_ = 0;  // up to here what the file grows over is zero; bytes
    bool kernel_times_ = false;
    bool touched_ = false;  // mode, and times that are not the kernel's, are set for this write
    bool killed_ = false;
    // The piece under way: bytes [at_, end_), in the blocks run_.
    std::uint64_t at_, end_ = 0;
    FileBlock base_;  // where the first one is in the file
    Run run_;
    Piece piece_ = Piece::inside;
    bool reserved_ = false, copied_ = false;
    std::unique_ptr<Evacuation> evacuation_;
    std::uint64_t evacuated_ = 0;                  // 1 + the place for which it was tried
    bool waited_ = false;                          // for its blocks to become free
    std::optional<core::Epochs::Section> inside_;  // while blocks of the file are written in place
};

// After bytes were stored, or some of them.
void note_stale(Engine &e, InodeNo ino, const Caller &caller, std::uint64_t offset,
                std::uint64_t size, bool ended, Stale *stale) {
    if (caller.written_back) e.live.wrote_back(ino);
    const auto wrote = e.live.wrote(caller.handle, {offset, offset + size}, ended, caller.pid);
    stale->pages = wrote.past_cache;
    stale->refilled = wrote.refilled;
    stale->refilled_part = wrote.refilled_part;
}

}  // namespace

void Volume::pages_go(InodeNo ino, ByteRange pages, std::uint32_t thread) {
    parts_->engine.live.pages_go(ino, pages, thread);
}

void Volume::pages_gone(InodeNo ino, ByteRange pages) {
    parts_->engine.live.pages_gone(ino, pages);
}

void Volume::pages_fill(InodeNo ino, ByteRange pages) {
    parts_->engine.live.pages_fill(ino, pages);
}

std::uint64_t Volume::write_backs(InodeNo ino) {
    return parts_->engine.live.write_backs(ino);
}

Result<std::size_t> Volume::write(InodeNo ino, std::uint64_t offset, const Pieces &bytes,
                                  bool kill_suid_sgid, const Caller &caller, Stale *stale) {
    Engine &e = parts_->engine;
    Stale ignored;
    if (stale == nullptr) stale = &ignored;
    TRY(writable(e));
    if (offset > media::kFileSizeMax || bytes.size() > media::kFileSizeMax - offset)
        return Error(EFBIG, "a file has at most 2^50 bytes");
    if (bytes.empty()) return std::size_t{0};
    const bool resumes = caller.progress != nullptr && caller.progress->kept();
    if (!resumes &&
        TRY(write_in_place(e, ino, offset, bytes, Besides(e, caller, kill_suid_sgid)))) {
        note_stale(e, ino, caller, offset, bytes.size(), true, stale);
        return bytes.size();
    }
    return asking(e, caller, [&]() -> Result<std::size_t> {
        auto operation = resumed_or_new<Write>(caller.progress, ino, e, ino,
                                               Span{offset, offset + bytes.size()}, kill_suid_sgid);
        Write &write = *operation;
        write.lend(bytes, caller);
        const Result<> done = parts_->scheduler.run_or_keep(operation, caller.progress);
        // The part that was written is returned; the next call gets the error.
        const bool partly = operation && !done.ok() && done.error().errno_value() == ENOSPC &&
                            write.written() != 0 && !caller.written_back && !caller.direct;
        note_stale(e, ino, caller, offset, bytes.size(), done.ok() || partly, stale);
        if (!operation) return done.error();
        stale->attributes = stale->mode = write.killed();
        if (partly) return write.written();
        // Nothing else tells the kernel, and when the write is run again the bits are cleared
        // already.
        if (!done.ok() && (write.killed() || write.written() != 0)) attributes_changed(e, ino);
        TRY(Result<>(done));
        return bytes.size();
    });
}

}  // namespace pmfs
