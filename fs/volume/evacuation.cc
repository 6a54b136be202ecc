// Choosing chunks, finding who owns their blocks, and moving these: see evacuation.h.
#include "volume/evacuation.h"

#include <algorithm>

#include "core/inode.h"
#include "volume/impl.h"

namespace pmfs {

using core::Change;
using core::Reader;
using core::Run;
using media::kBlockSize;
using media::kChunkBlocks;

Evacuation::Evacuation(Volume::Impl &volume, unsigned chunks, unsigned unit, Claim *own,
                       InodeNo own_ino)
    : v_(volume), chunks_(chunks), unit_(unit), own_(own), own_ino_(own_ino) {}

Evacuation::~Evacuation() {
    if (!window_) return;
    ExclusiveLock held(v_.lock);
    finish();
}

void Evacuation::finish() {
    cancel();
    leave_inode();
    if (window_) v_.allocator->free_chunks(window_->first, chunks_);
    window_.reset();
}

Hold Evacuation::hold() const {
    if (stage_ == Stage::wait || stage_ == Stage::copy) return Hold::none;
    return stage_ == Stage::scan ? Hold::shared : Hold::exclusive;
}

Result<bool> Evacuation::step() {
    switch (stage_) {
        case Stage::choose:
            TRY(choose());
            return false;
        case Stage::scan:
            if (TRY(scan())) stage_ = Stage::plan;
            return false;
        case Stage::plan:
            TRY(plan());
            return stage_ == Stage::done;
        case Stage::wait:  // for those who write in place to what they found before the claim
            v_.readers.wait_for_readers();
            stage_ = Stage::copy;
            return false;
        case Stage::copy:
            TRY(copy());
            return false;
        case Stage::commit:
            TRY(commit());
            return false;
        case Stage::done:
            return true;
    }
    return true;
}

// The window with the fewest blocks in use, in the next group that has one.
Result<> Evacuation::choose() {
    core::SpaceMap &map = v_.allocator->map();
    for (auto g = map.broken_group(group_); g; g = map.broken_group(++group_)) {
        group_ = *g;
        const auto found = TRY(map.fewest_used(group_, chunks_, unit_, stuck_));
        if (!found || found->used > used_max_) continue;
        if (chunks_ * kChunkBlocks > map.free_blocks()) break;  // no room for what is moved
        window_ = found;
        v_.allocator->keep_chunks(found->first, chunks_);
        const std::uint64_t first = found->first * kChunkBlocks;
        scan_.emplace(first, first + chunks_ * kChunkBlocks, found->used);
        next_ = offset_ = 0;
        stage_ = found->used == 0 ? Stage::done : Stage::scan;
        return {};
    }
    return Error(ENOSPC, "no chunk can be emptied");
}

Result<bool> Evacuation::scan() {
    return scan_->step(Reader(*v_.core), kExtentsLookedAt);
}

void Evacuation::give_up_window() {
    stuck_.insert(window_->first);
    finish();
    stage_ = Stage::choose;
}

void Evacuation::cancel() {
    if (reserved_) v_.allocator->cancel_reserved(run_);
    reserved_ = false;
}

Result<> Evacuation::claim(InodeNo ino) {
    if (claimed_ == ino) return {};
    leave_inode();
    if (own_ != nullptr && ino == own_ino_) {
        TRY(own_->take(ClaimFor::moving));
    } else {
        claim_.emplace(v_.file_claims, ino);
        TRY(claim_->take(ClaimFor::moving));
    }
    claimed_ = ino;
    return {};
}

void Evacuation::leave_inode() {
    if (claimed_ != InodeNo() && claimed_ == own_ino_ && own_ != nullptr)
        (void)own_->take(ClaimFor::change).ok();  // it is held
    claim_.reset();
    claimed_ = InodeNo();
}

// Refusals that concern this piece only.
bool Evacuation::unmoved(const Error &error) const {
    const int value = error.errno_value();
    return value == EINVAL || value == ETXTBSY || value == EBUSY || value == EAGAIN ||
           value == EDEADLK || value == kClaimErrno || value == kBreakErrno || value == ESTALE ||
           is_damage(error);
}

// True: there is a next step; something of the piece is to be moved, or the window was given up.
Result<bool> Evacuation::plan_piece(const Reader &reader, const core::Owned &owned) {
    const std::uint64_t first = window_->first * kChunkBlocks;
    while (offset_ < owned.blocks) {
        const auto inode = core::read_inode(reader, owned.ino);
        if (!inode.ok()) return false;  // gone
        const std::uint64_t at = owned.file_block + offset_;
        const auto found = core::find_extent(reader, *inode.value(), owned.ino, at);
        if (!found.ok()) return false;
        const Extent &e = found.value();
        const std::uint64_t start = e.start + (at - e.file_block);
        const std::uint64_t blocks = std::min(owned.blocks - offset_, e.end() - at);
        if (e.hole() || start < first || start >= first + chunks_ * kChunkBlocks) {
            offset_ += blocks;  // it was moved, or changed by others
            continue;
        }
        piece_ = {owned.ino, at, start, v_.allocator->piece({start, blocks}).blocks};
        unwritten_ = e.unwritten;
        const auto claimed = claim(owned.ino);
        if (!claimed.ok() && !unmoved(claimed.error())) return claimed.error();
        if (!claimed.ok() || !may_move(*inode.value(), e)) {
            give_up_window();
            return true;
        }
        TRY(reserve());
        return true;
    }
    return false;
}

// A place for the piece, or for its head.
Result<> Evacuation::reserve() {
    core::Goal goal;
    goal.group = piece_.start / media::kGroupBlocks;
    goal.broken = goal.privileged = true;
    const auto place = v_.allocator->reserve_data(goal, piece_.blocks);
    if (!place.ok() && place.error().errno_value() != ENOSPC) return place.error();
    if (!place.ok()) {
        give_up_window();
        return {};
    }
    run_ = place.value();
    reserved_ = true;
    piece_.blocks = run_.blocks;
    stage_ = unwritten_ ? Stage::commit : Stage::wait;
    return {};
}

// The next piece: what is to be copied, and where to.
Result<> Evacuation::plan() {
    const Reader reader(*v_.core);
    if (scan_->unknown() != 0) {
        give_up_window();
        return {};
    }
    for (; next_ < scan_->found().size(); ++next_, offset_ = 0)
        if (TRY(plan_piece(reader, scan_->found()[next_]))) return {};
    leave_inode();
    for (unsigned c = 0; c < chunks_; ++c)
        if (TRY(v_.allocator->map().chunk(window_->first + c))->free != kChunkBlocks) {
            give_up_window();  // somebody has grown into it
            return {};
        }
    stage_ = Stage::done;
    return {};
}

bool Evacuation::may_move(const media::Inode &inode, const Extent &e) {
    if ((inode.flags.get() & media::kTrimPending) != 0 || e.shared) return false;
    const auto without = v_.allocator->quarantine().without({piece_.start, piece_.blocks});
    if (without.size() != 1 || without[0].blocks != piece_.blocks) return false;
    const std::uint64_t end = piece_.file_block + piece_.blocks;
    const auto standing = v_.live.standing(piece_.ino, piece_.file_block, end);
    return core::ask(inode, standing, core::Move::relocate).ok();
}

// Without the lock: the old blocks are the claimed file's, the new ones are reserved.
Result<> Evacuation::copy() {
    const std::uint64_t from = piece_.start * kBlockSize, size = piece_.blocks * kBlockSize;
    v_.journal->persist(
        v_.journal->write_data(run_.start * kBlockSize, {v_.region->data() + from, size}));
    if (v_.region->lost(from, size) || pm::take_fault())
        return Error(EIO, "the medium lost a page of a file");
    v_.data_dirty.store(true, std::memory_order_release);
    stage_ = Stage::commit;
    return {};
}

Result<> Evacuation::commit() {
    const std::uint64_t at = piece_.file_block, end = at + piece_.blocks;
    TRY(core::map_make_room(*v_.core, piece_.ino, at, 2));
    TRY(core::map_make_room(*v_.core, piece_.ino, end, 2));
    Change change(*v_.core);
    TRY(change.begin());
    auto *inode = TRY(core::edit_inode(change, piece_.ino));
    const auto permit =
        core::permit(*inode, v_.live.standing(piece_.ino, at, end), core::Move::relocate);
    if (!permit.ok()) {
        if (!unmoved(permit.error())) return permit.error();
        give_up_window();
        return {};
    }
    const Run old = TRY(core::map_remove(change, inode, piece_.ino, at, end, permit.value()));
    if (old.start != piece_.start) return corrupt("a block map changed under its claim");
    TRY(v_.allocator->give_back(change, old));
    TRY(v_.allocator->take_reserved(change, run_));
    TRY(core::map_insert(change, inode, piece_.ino,
                         {at, run_.start, run_.blocks, unwritten_, false}, permit.value()));
    TRY(change.commit());
    reserved_ = false;
    moved_ += run_.blocks;
    offset_ += run_.blocks;
    stage_ = Stage::plan;
    return {};
}

Result<Run> Evacuation::take(Change &change) {
    return v_.allocator->take_kept(change, window_->first, chunks_);
}

}  // namespace pmfs
