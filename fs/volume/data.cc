// Reading and writing file data.
//
// Reads and overwrites in place look into the map with the volume's lock held shared, and copy
// without it, inside an epoch (core/epoch.h).  All that changes the map, the size or the times is a
// change: one transaction for each contiguous piece, front to back, so that an interrupted write is
// a prefix.
#include <sys/stat.h>

#include <algorithm>

#include "core/xattr.h"
#include "volume/evacuation.h"
#include "volume/impl.h"

namespace pmfs {

using core::Change;
using core::Reader;
using core::Run;
using media::kBlockSize;

namespace {

constexpr std::size_t kZeroesSize = 1 << 20;
alignas(4096) const std::byte kZeroes[kZeroesSize] = {};

Result<const media::Inode *> read_file(const Reader &reader, InodeNo ino) {
    const auto *inode = TRY(core::read_inode(reader, ino));
    if (S_ISDIR(inode->mode.get())) return Error(EISDIR, "a directory");
    if (!S_ISREG(inode->mode.get())) return Error(EINVAL, "not a regular file");
    return inode;
}

struct Span {  // bytes of a file
    std::uint64_t from, to;
    std::uint64_t first_block() const { return from / kBlockSize; }
    std::uint64_t end_block() const { return (to + kBlockSize - 1) / kBlockSize; }
};

// Where an extent ends in the file.  A hole behind the last extent has no end that bytes can count.
std::uint64_t end_byte(const Extent &e) {
    constexpr std::uint64_t kEndless = ~std::uint64_t{0};
    return e.end() > kEndless / kBlockSize ? kEndless : e.end() * kBlockSize;
}

std::uint64_t device_byte(const Extent &e, std::uint64_t file_byte) {
    return e.start * kBlockSize + (file_byte - e.file_block * kBlockSize);
}

}  // namespace

Result<std::size_t> Volume::read(InodeNo ino, std::uint64_t offset, std::size_t size,
                                 const ReadSink &sink) {
    thread_local std::vector<iovec> pieces;
    // Before the map is looked at: what it says stays the file's data until the sink is done.
    const core::Epochs::Section inside(impl_->readers);
    const std::size_t count = TRY(impl_->find_data(ino, offset, size, &pieces));
    sink(pieces);
    return count;
}

// Where bytes of a file lie.  Fewer at its end.
Result<std::size_t> Volume::Impl::find_data(InodeNo ino, std::uint64_t offset, std::size_t size,
                                            std::vector<iovec> *pieces) {
    SharedLock held(lock);
    const Reader reader(*core);
    const auto *inode = TRY(read_file(reader, ino));
    const std::uint64_t file_size = inode->size.get();
    pieces->clear();
    if (offset >= file_size || size == 0) return std::size_t{0};
    const std::uint64_t end = std::min<std::uint64_t>(file_size, offset + size);
    for (std::uint64_t at = offset; at < end;) {
        const Extent e = TRY(core::find_extent(reader, *inode, ino, at / kBlockSize));
        std::uint64_t n = std::min(end, end_byte(e)) - at;
        const std::byte *from = kZeroes;
        if (e.hole() || e.unwritten) {
            n = std::min<std::uint64_t>(n, kZeroesSize);
        } else {
            from = region->data() + device_byte(e, at);
            if (region->lost(device_byte(e, at), n))
                return Error(EIO, "the medium lost a page of the file");
        }
        pieces->push_back({const_cast<std::byte *>(from), n});
        at += n;
    }
    return static_cast<std::size_t>(end - offset);
}

namespace {

// An overwrite of written blocks inside the file: what needs no change.
class InPlace {
public:
    InPlace(Volume::Impl &v, InodeNo ino, Span span) : v_(v), ino_(ino), span_(span) {}

    // True when the write can go ahead.  With the lock held shared, inside an epoch.
    Result<bool> fits(const Reader &reader, const media::Inode &inode, bool kill) {
        if (span_.to > inode.size.get()) return false;
        if (kill && Volume::Impl::has_setid(inode.mode.get())) return false;
        if (inode.xattr_root.get() != 0 &&
            core::has_xattr(reader, inode, ino_, "security.capability"))
            return false;
        if (core::from_media(inode.mtime) != now_coarse()) return false;
        count_ = 0;
        for (std::uint64_t at = span_.from; at < span_.to;) {
            const Extent e = TRY(core::find_extent(reader, inode, ino_, at / kBlockSize));
            if (e.hole() || e.unwritten || e.shared || count_ == pieces_.size()) return false;
            const std::uint64_t n = std::min(span_.to, end_byte(e)) - at;
            pieces_[count_++] = {device_byte(e, at), n};
            at += n;
        }
        return true;
    }
    void write(std::span<const std::byte> bytes) {
        pm::Unfenced duty;
        for (std::size_t i = 0; i < count_; ++i) {
            duty.add(v_.journal->write_data(pieces_[i].at, bytes.first(pieces_[i].size)));
            bytes = bytes.subspan(pieces_[i].size);
        }
        v_.journal->persist(std::move(duty));
    }

private:
    struct Piece {
        std::uint64_t at, size;
    };
    Volume::Impl &v_;
    InodeNo ino_;
    Span span_;
    std::array<Piece, 16> pieces_;
    std::size_t count_ = 0;
};

}  // namespace

core::Goal Volume::Impl::goal_for(const Reader &reader, const media::Inode &inode, InodeNo ino,
                                  std::uint64_t file_block, std::uint64_t blocks,
                                  const Caller &caller) {
    core::Goal goal;
    goal.file_block = file_block;
    goal.owner = ino.value();
    goal.group = core::group_of_inode(superblock, ino);
    goal.privileged = caller.uid == 0;
    bool follows = file_block == 0;
    if (file_block != 0) {
        const auto before = core::last_extent(reader, inode, ino, file_block - 1);
        if (before.ok() && !before.value().hole()) {
            goal.near = before.value().start + (file_block - before.value().file_block);
            follows = before.value().end() == file_block;
        }
    }
    // Whole chunks are for what lies behind a file's first one, and for files that are as large as
    // that from the start; not for blocks here and there in a sparse file.
    constexpr std::uint64_t kManyBlocks = 32;
    const bool together = follows || blocks >= kManyBlocks || file_block % media::kChunkBlocks == 0;
    goal.large =
        blocks >= media::kChunkBlocks ||
        (together && (file_block >= media::kChunkBlocks || inode.size.get() >= media::kChunkSize));
    return goal;
}

// Bytes [from, to) are about to be inside the file; whatever written blocks hold there must read
// as zeroes.
Result<pm::Unfenced> Volume::Impl::zero_written(const Reader &reader, const media::Inode &inode,
                                                InodeNo ino, std::uint64_t from, std::uint64_t to) {
    pm::Unfenced duty;
    while (from < to) {
        const auto found = core::next_extent(reader, inode, ino, from / kBlockSize);
        if (!found.ok()) {
            journal->persist(std::move(duty));
            return found.error();
        }
        const Extent &e = found.value();
        if (e.hole() || e.file_block * kBlockSize >= to) break;
        from = std::max(from, e.file_block * kBlockSize);
        const std::uint64_t end = std::min(to, end_byte(e));
        if (!e.unwritten) duty.add(journal->zero_data(device_byte(e, from), end - from));
        from = end;
    }
    return duty;
}

namespace {

// Pieces up to this size are copied with the lock held: that takes less time than to take it again.
constexpr std::uint64_t kCopyInLock = 16 << 10;

// One write that changes metadata, from piece to piece.
class Write final : public Operation {
public:
    Write(Volume::Impl &v, InodeNo ino, Span span, bool kill)
        : Operation(v.file_claims, ino), v_(v), span_(span), kill_(kill), at_(span.from) {}
    ~Write() override {
        if (!reserved_) return;
        ExclusiveLock held(v_.lock);
        v_.allocator->cancel_reserved(run_);
    }

    // What lives with the call only.
    void lend(std::span<const std::byte> bytes, const Caller &caller) {
        bytes_ = bytes;
        caller_ = caller;
    }
    std::size_t written() const { return static_cast<std::size_t>(at_ - span_.from); }
    bool killed() const { return killed_; }

    Hold hold() const override {
        if (stage_ == Stage::evacuate) return evacuation_->hold();
        return stage_ == Stage::copy ? Hold::none : Hold::exclusive;
    }
    Result<bool> step() override {
        if (stage_ == Stage::copy) return copy();
        TRY(v_.writable());
        if (stage_ == Stage::evacuate) return evacuate();
        v_.lock.assert_held();
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
    // truncation was to be finished first, which takes a step more.
    Result<bool> begin() REQUIRES(v_.lock) {
        const auto *was = TRY(read_file(Reader(*v_.core), ino_));
        TRY(v_.file_claims.respect(ino_, &claim_));
        if ((was->flags.get() & media::kTrimPending) != 0) {
            TRY(claim_.take());
            TRY(v_.trim_step(ino_));
            return false;
        }
        TRY(ask_seal());
        TRY(v_.drop_capability(ino_));
        stage_ = Stage::plan;
        return true;
    }

    Result<> ask_seal() {
        const Reader reader(*v_.core);
        const auto *inode = TRY(core::read_inode(reader, ino_));
        const std::uint64_t first = span_.first_block(), end = span_.end_block();
        if (span_.to > inode->size.get())
            TRY(v_.permit(ino_, *inode, core::Move::grow, first, end, caller_));
        for (std::uint64_t at = first; at < end;) {
            const Extent e = TRY(core::find_extent(reader, *inode, ino_, at));
            if (e.hole() || e.unwritten || e.shared)
                TRY(v_.permit(ino_, *inode, core::Move::allocate, at, std::min(e.end(), end),
                              caller_));
            at = e.end();
        }
        return {};
    }

    // The piece at at_, whole if it is small; else what is needed before it is copied.
    Result<> next() {
        TRY(v_.file_claims.respect(ino_, &claim_));
        const std::uint64_t block = at_ / kBlockSize, end_block = span_.end_block();
        const Reader reader(*v_.core);
        const auto *was = TRY(core::read_inode(reader, ino_));
        const Extent e = TRY(core::find_extent(reader, *was, ino_, block));
        const std::uint64_t upto = std::min(e.end(), end_block);
        end_ = std::min(span_.to, upto * kBlockSize);
        run_ = {e.start + (block - e.file_block), upto - block};
        base_ = block;
        piece_ = e.hole()                  ? Piece::hole
                 : e.unwritten             ? Piece::unwritten
                 : end_ <= was->size.get() ? Piece::inside
                                           : Piece::behind;
        bool small = end_ - at_ <= kCopyInLock;
        // More steps that change something: nobody else may change the file before the last one.
        if (end_ != span_.to || (!small && piece_ != Piece::inside)) TRY(claim_.take());
        if (piece_ == Piece::hole || piece_ == Piece::unwritten) {
            auto room = core::map_make_room(*v_.core, ino_, block, 2);
            if (room.ok() && piece_ == Piece::unwritten)
                room = core::map_make_room(*v_.core, ino_, upto, 2);
            const bool full = !room.ok() && room.error().errno_value() == ENOSPC;
            if (!full || piece_ == Piece::hole) TRY(std::move(room));
            // No block for one extent more: all of this one becomes written (as ext4 does it).
            if (full) TRY(whole_extent(e));
            small = small && !full;
        }
        if (piece_ == Piece::inside && (touched_ || !small)) {
            // No record, but for times and mode, once for the whole write.
            if (!touched_) TRY(touch());
            inside_.emplace(v_.readers);
            return copy_next();
        }
        if (small) return commit();
        if (piece_ == Piece::hole) {
            TRY(v_.permit(ino_, *was, core::Move::allocate, block, upto, caller_));
            const core::Goal goal =
                v_.goal_for(reader, *was, ino_, block, end_block - block, caller_);
            if (TRY(make_whole(goal))) return {};
            run_ = TRY(v_.allocator->reserve_data(goal, upto - block));
            reserved_ = true;
            end_ = std::min(span_.to, (block + run_.blocks) * kBlockSize);
        }
        return copy_next();
    }
    // A large file's next chunk is worth moving half as much out of its way.  True: that comes
    // first.
    Result<bool> make_whole(const core::Goal &goal) {
        v_.lock.assert_held();
        if (evacuated_ == at_ + 1 || !v_.evacuations_help()) return false;
        if (!TRY(v_.allocator->lacks_chunk(goal))) return false;
        evacuated_ = at_ + 1;
        evacuation_ = std::make_unique<Evacuation>(v_, 1, 1, Evacuation::Worth::useful, &claim_);
        evacuation_->at_most(media::kChunkBlocks / 2);
        waited_ = false;
        stage_ = Stage::evacuate;
        return true;
    }
    Result<bool> evacuate() {
        const auto done = evacuation_->step();
        if (done.ok() && !done.value()) return false;
        if (!done.ok() && done.error().errno_value() == kParkErrno) return done;
        v_.lock.assert_held();  // it ends, in one way or the other, where it chooses or plans
        // On an image, what was moved out comes to be free by a group commit.
        if (done.ok() && !std::exchange(waited_, true) && v_.allocator->space_comes())
            return Error(kParkErrno, "the blocks of an emptied chunk wait for a group commit");
        if (!done.ok() && done.error().errno_value() != kClaimErrno) v_.no_evacuation_helps();
        evacuation_->finish();
        evacuation_.reset();
        stage_ = Stage::plan;
        return false;
    }
    // A volume that is full to the last block; nothing else may come between.
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

    // Without the lock: the blocks are reserved, or the file's, which is claimed.
    Result<bool> copy() {
        v_.journal->persist(fill());
        inside_.reset();
        if (pm::take_fault()) return Error(EIO, "the medium has a bad page here");
        copied_ = true;
        stage_ = Stage::commit;
        if (piece_ != Piece::inside) return false;
        // No record tells of it.
        v_.data_dirty.store(true, std::memory_order_release);
        done_with_piece();
        return at_ == span_.to;
    }

    Result<> touch() {
        Change change(*v_.core);
        TRY(change.begin());
        touch(TRY(core::edit_inode(change, ino_)));
        TRY(change.commit());
        touched_ = true;
        return {};
    }
    void touch(media::Inode *inode) {
        const std::uint32_t mode = inode->mode.get();
        if (kill_) Volume::Impl::kill_setid(inode);
        killed_ |= inode->mode.get() != mode;
        Volume::Impl::touch(inode, true);
    }

    Result<> commit() {
        const std::uint64_t block = at_ / kBlockSize;
        const Reader reader(*v_.core);
        const auto *was = TRY(core::read_inode(reader, ino_));
        Change change(*v_.core);
        TRY(change.begin());
        auto *inode = TRY(core::edit_inode(change, ino_));
        const std::uint64_t old_size = inode->size.get();
        if (span_.from > old_size)
            change.after(TRY(v_.zero_written(reader, *was, ino_, old_size, span_.from)));
        if (piece_ == Piece::hole || piece_ == Piece::unwritten)
            TRY(change_map(change, inode, *was, block));
        if (!copied_) change.after(fill());
        if (end_ > old_size) inode->size.set(end_);
        touch(inode);
        TRY(change.commit());
        touched_ = true;
        done_with_piece();
        if (at_ != span_.to) TRY(claim_.take());
        return {};
    }

    Result<> change_map(Change &change, media::Inode *inode, const media::Inode &was,
                        std::uint64_t block) {
        const std::uint64_t upto = base_ + run_.blocks;
        const auto permit =
            TRY(v_.permit(ino_, *inode, core::Move::allocate, base_, upto, caller_));
        if (piece_ == Piece::unwritten)
            return core::map_set_written(change, inode, ino_, base_, upto, permit);
        if (reserved_) {
            TRY(v_.allocator->take_reserved(change, run_));
        } else {
            run_ = TRY(v_.allocator->take_data(
                change,
                v_.goal_for(Reader(*v_.core), was, ino_, block, span_.end_block() - block, caller_),
                upto - block));
            end_ = std::min(span_.to, (block + run_.blocks) * kBlockSize);
        }
        TRY(core::map_insert(change, inode, ino_, {block, run_.start, run_.blocks, false, false},
                             permit));
        inode->blocks.set(inode->blocks.get() + run_.blocks);
        return {};
    }

    void done_with_piece() {
        reserved_ = copied_ = false;
        at_ = end_;
        stage_ = Stage::plan;
    }

    // Of new blocks, what the write does not cover of the first and the last one is zeroed.
    pm::Unfenced fill() {
        pm::Unfenced duty;
        const bool fresh = piece_ == Piece::hole || piece_ == Piece::unwritten;
        const std::uint64_t start = run_.start * kBlockSize, head = device() - start;
        if (fresh && head != 0) duty.add(v_.journal->zero_data(start, head));
        duty.add(v_.journal->write_data(device(), part()));
        const std::uint64_t written_to = device() + (end_ - at_);
        const std::uint64_t tail = start + run_.blocks * kBlockSize;
        if (fresh && written_to < tail)
            duty.add(v_.journal->zero_data(written_to, tail - written_to));
        return duty;
    }
    std::uint64_t device() const { return run_.start * kBlockSize + (at_ - base_ * kBlockSize); }
    std::span<const std::byte> part() const { return bytes_.subspan(at_ - span_.from, end_ - at_); }

    Volume::Impl &v_;
    const Span span_;
    const bool kill_;
    std::span<const std::byte> bytes_;
    Caller caller_;
    Stage stage_ = Stage::begin;
    bool touched_ = false;  // times and mode are those of this write
    bool killed_ = false;
    // The piece under way: bytes [at_, end_), in the blocks run_.
    std::uint64_t at_, end_ = 0;
    std::uint64_t base_ = 0;  // the file block of the first one
    Run run_;
    Piece piece_ = Piece::inside;
    bool reserved_ = false, copied_ = false;
    std::unique_ptr<Evacuation> evacuation_;
    std::uint64_t evacuated_ = 0;                  // 1 + the place for which that was tried
    bool waited_ = false;                          // for its blocks to be free
    std::optional<core::Epochs::Section> inside_;  // while blocks of the file are written in place
};

}  // namespace

// True when it was one that changes no metadata, and is done.
Result<bool> Volume::Impl::write_in_place(InodeNo ino, std::uint64_t offset,
                                          std::span<const std::byte> bytes, bool kill) {
    const core::Epochs::Section inside(readers);
    InPlace in_place(*this, ino, {offset, offset + bytes.size()});
    {
        SharedLock held(lock);
        const Reader reader(*core);
        const auto *inode = TRY(read_file(reader, ino));
        if (!TRY(in_place.fits(reader, *inode, kill))) return false;
        TRY(file_claims.respect_moves(ino));
    }
    in_place.write(bytes);
    // Behind the data: a group commit that clears this before it syncs has missed nothing.
    data_dirty.store(true, std::memory_order_release);
    return true;
}

Result<std::size_t> Volume::write(InodeNo ino, std::uint64_t offset,
                                  std::span<const std::byte> bytes, bool kill_suid_sgid,
                                  const Caller &caller, Stale *stale) {
    Impl &v = *impl_;
    Stale nobody_asks;
    if (stale == nullptr) stale = &nobody_asks;
    TRY(v.writable());
    if (offset > media::kFileSizeMax || bytes.size() > media::kFileSizeMax - offset)
        return Error(EFBIG, "a file has at most 2^50 bytes");
    if (bytes.empty()) return std::size_t{0};
    const bool resumes = caller.progress != nullptr && caller.progress->kept();
    if (!resumes && TRY(v.write_in_place(ino, offset, bytes, kill_suid_sgid))) {
        stale->pages = v.live.wrote_past_cache(caller.handle);
        return bytes.size();
    }
    return v.asking(caller, [&]() -> Result<std::size_t> {
        auto operation = resumed_or_new<Write>(caller.progress, ino, v, ino,
                                               Span{offset, offset + bytes.size()}, kill_suid_sgid);
        Write &write = *operation;
        write.lend(bytes, caller);
        const Result<> done = v.scheduler.run_or_keep(operation, caller.progress);
        stale->pages = v.live.wrote_past_cache(caller.handle);  // also of a part
        if (!operation) return done.error();
        stale->attributes = write.killed();
        // What is written is written; the rest is the next call's error.
        if (!done.ok() && done.error().errno_value() == ENOSPC && write.written() != 0 &&
            !caller.written_back)
            return write.written();
        // Nobody else tells the kernel; and run again, it would not find the bits any more.
        if (!done.ok() && write.killed()) v.attributes_changed(ino);
        TRY(Result<>(done));
        return bytes.size();
    });
}

namespace {
// Of a file with many extents, so many are looked at in one hold of the lock.
constexpr unsigned kExtentsLookedAt = 1024;
}  // namespace

Result<std::uint64_t> Volume::seek_data(InodeNo ino, std::uint64_t offset) {
    return impl_->seek(ino, offset, true);
}

Result<std::uint64_t> Volume::seek_hole(InodeNo ino, std::uint64_t offset) {
    return impl_->seek(ino, offset, false);
}

Result<std::uint64_t> Volume::Impl::seek(InodeNo ino, std::uint64_t offset, bool data) {
    for (std::uint64_t at = offset / kBlockSize;;) {
        SharedLock held(lock);
        const Reader reader(*core);
        const auto *inode = TRY(read_file(reader, ino));
        const std::uint64_t size = inode->size.get();
        if (offset >= size) return Error(ENXIO, "past the end of the file");
        for (unsigned n = 0; n < kExtentsLookedAt; ++n) {
            if (at * kBlockSize >= size) {
                if (data) return Error(ENXIO, "no data up to the end of the file");
                return size;
            }
            const Extent e = TRY(core::find_extent(reader, *inode, ino, at));
            if ((e.hole() || e.unwritten) != data) return std::max(offset, at * kBlockSize);
            at = e.end();
        }
    }
}

}  // namespace pmfs
