// Choosing chunks, finding who owns their blocks, and moving these: see evacuation.h.
#include "volume/evacuation.h"

#include <sys/stat.h>

#include <algorithm>

#include "core/extent_map.h"
#include "core/inode.h"
#include "core/xattr.h"
#include "media/geometry.h"

namespace pmfs {

using core::Change;
using core::Reader;
using core::Run;
using media::kBlockSize;
using media::kChunkBlocks;

namespace {
// No inode's number: claimed by the operation that empties chunks.  Two would use each other's
// space for what they move.
const InodeNo kTurn(~std::uint64_t{0});

// After a failure that concerns a piece or a window.  If it was only that a block of metadata is
// not in memory, nothing is given up, and the step is run again.
Result<> unless_absent() {
    if (pm::NoWaiting::met()) return Error(kAbsentErrno, "a block of metadata is not in memory");
    return {};
}
}  // namespace

Evacuation::Evacuation(Engine &engine, unsigned chunks, unsigned unit, Worth worth, Claim *own)
    : e_(engine),
      chunks_(chunks),
      unit_(unit),
      worth_(worth),
      own_(own),
      turn_(engine.claims, kTurn) {}

Evacuation::~Evacuation() {
    if (!window_) return;
    ExclusiveLock held(e_.lock);
    finish();
}

void Evacuation::finish() {
    cancel();
    leave_inode();
    if (window_) e_.allocator->free_chunks(window_->first, chunks_);
    window_.reset();
    scan_.reset();
    if (stage_ == Stage::index) index_.reset();
    stage_ = Stage::choose;
}

void Evacuation::within(GroupNo group, GroupNo end) {
    first_group_ = group_ = group;
    end_group_ = end;
}

Hold Evacuation::hold() const {
    switch (stage_) {
        case Stage::pick:
        case Stage::wait:
        case Stage::copy:
            return Hold::none;
        case Stage::index:
        case Stage::scan:
        case Stage::check:
            return Hold::shared;
        default:
            return Hold::exclusive;
    }
}

Result<bool> Evacuation::step() {
    switch (stage_) {
        case Stage::choose:
            TRY(choose());
            return stage_ == Stage::done;
        case Stage::index:
            TRY(index());
            return false;
        case Stage::pick:
            pick();
            return false;
        case Stage::scan:
            TRY(scan());
            return false;
        case Stage::check:
            TRY(check());
            return false;
        case Stage::plan:
            TRY(plan());
            return stage_ == Stage::done;
        case Stage::wait:  // for writers in place that found the blocks before
            e_.readers.wait_for_readers();
            stage_ = Stage::copy;
            return false;
        case Stage::copy:
            copy();
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
    TRY(turn_.take());
    core::SpaceMap &map = e_.allocator->map();
    const bool needed = worth_ != Worth::useful;
    const auto group = map.broken_group(group_, needed);
    if (!group || *group >= end_group_) return none();
    group_ = *group;
    // Where it is needed, wholly free chunks are those that are still held back.
    const core::SpaceMap::Wanted wanted{chunks_, unit_, worth_ == Worth::in_a_row};
    const auto found = TRY(map.fewest_used(group_, wanted, needed ? 0 : 1, stuck_));
    if (!found || found->used > used_max_) {
        ++group_;  // one group in each step
        return {};
    }
    window_ = found;
    e_.allocator->keep_chunks(found->first, chunks_);
    failed_ = found->used != 0 ? hopeless() : std::nullopt;
    if (found->used == 0) {
        stage_ = Stage::done;
    } else if (failed_) {
        forget_owners();
        stage_ = Stage::plan;
    } else if (searched_ != group_) {
        search(found->used);
    } else if (index_ && index_->group() == group_) {
        stage_ = Stage::pick;
    } else {
        index_.emplace(group_);
        stage_ = Stage::index;
    }
    return {};
}

void Evacuation::forget_owners() {
    owned_.clear();
    from_index_ = false;
    next_ = offset_ = known_ = 0;
    attribute_moved_.reset();
}

// The window has so many blocks in use.
void Evacuation::search(std::uint64_t used) {
    forget_owners();
    searched_ = group_;
    scan_.emplace(place().start, place().end(), used);
    stage_ = Stage::scan;
}

Result<> Evacuation::index() {
    const auto done = index_->step(Reader(*e_.core), kLookedAt);
    TRY(unless_absent());
    if (!done.ok()) {
        index_.reset();
        search(window_->used);
    } else if (done.value()) {
        stage_ = Stage::pick;
    }
    return {};
}

void Evacuation::pick() {
    forget_owners();
    keep_owners(index_->within(place().start, place().end()));
    if (known_ < window_->used) return search(window_->used);
    from_index_ = true;
}

void Evacuation::keep_owners(std::vector<core::Owned> owned) {
    owned_ = std::move(owned);
    for (const core::Owned &one : owned_) known_ += one.blocks;
    stage_ = Stage::check;
}

// A chunk that cannot be emptied, as far as is known before its owners are searched for.
std::optional<ChunkNo> Evacuation::hopeless() {
    const core::SpaceMap &map = e_.allocator->map();
    const std::uint64_t blocks = chunks_ * kChunkBlocks, inside = blocks - window_->used;
    if (map.free_blocks() < inside + window_->used) return window_->first;
    const std::uint64_t whole = map.free_chunks() * kChunkBlocks;
    if (worth_ == Worth::useful && map.free_blocks() < whole + inside + window_->used)
        return window_->first;
    const BlockNo first = media::first_block(window_->first);
    const auto without = e_.allocator->quarantine().without({first, blocks});
    if (without.size() == 1 && without[0].blocks == blocks) return std::nullopt;
    const bool from_first = !without.empty() && without[0].start == first;
    return media::chunk_of(from_first ? without[0].end() : first);
}

// All windows were tried.  Those that were given up may work when others have freed blocks.
Result<> Evacuation::none() {
    stuck_.clear();
    group_ = first_group_;
    if (worth_ == Worth::useful || used_max_ != kNoLimit)
        return Error(ENOSPC, "no chunk is worth emptying");
    if (waits_++ < kWaitsMax && e_.allocator->drop_reservations()) return {};
    if (waits_ < kWaitsMax && e_.allocator->space_comes())
        return Error(kParkErrno, "freed blocks wait for a group commit, or for their readers");
    return Error(ENOSPC, "no chunk can be emptied");
}

Result<> Evacuation::scan() {
    const auto done = scan_->step(Reader(*e_.core), kLookedAt);
    TRY(unless_absent());
    if (!done.ok()) failed_ = window_->first;
    if (!failed_ && !done.value()) return {};
    keep_owners(std::move(scan_->found()));
    return {};
}

// Nothing is moved if one of the pieces certainly cannot be.
Result<> Evacuation::check() {
    const Reader reader(*e_.core);
    for (unsigned n = 0; !failed_ && next_ < owned_.size(); ++next_) {
        if (n++ == kLookedAt) return {};
        piece_ = owned_[next_];
        const auto inode = core::read_inode(reader, piece_.ino);
        TRY(unless_absent());
        if (!inode.ok() || piece_.attribute) continue;  // gone; or not a part of the file's map
        const bool own = own_ != nullptr && piece_.ino == own_->ino();
        if (may_move(*inode.value()) && e_.claims.respect(piece_.ino, own ? own_ : nullptr).ok())
            continue;
        if (!from_index_ || TRY(is_there(reader, *inode.value())))
            failed_ = media::chunk_of(piece_.start);
    }
    next_ = 0;
    stage_ = Stage::plan;
    return {};
}

// Whether the piece begins where it began when it was found.
Result<bool> Evacuation::is_there(const Reader &reader, const media::Inode &inode) const {
    const auto found = core::find_extent(reader, inode, piece_.ino, piece_.file_block);
    TRY(unless_absent());
    return found.ok() && !found.value().hole() &&
           found.value().place_of(piece_.file_block) == piece_.start;
}

void Evacuation::give_up_window(ChunkNo because) {
    stuck_.insert(because);
    finish();
}

void Evacuation::cancel() {
    if (reserved_) e_.allocator->cancel_reserved(run_);
    reserved_ = false;
}

Result<> Evacuation::claim(InodeNo ino) {
    if (claimed_ == ino) return {};
    leave_inode();
    if (own_ != nullptr && ino == own_->ino()) {
        TRY(own_->take(ClaimFor::moving));
    } else {
        claim_.emplace(e_.claims, ino);
        TRY(claim_->take(ClaimFor::moving));
    }
    claimed_ = ino;
    return {};
}

void Evacuation::leave_inode() {
    if (own_ != nullptr && claimed_ == own_->ino())
        (void)own_->take(ClaimFor::change).ok();  // the claim is held already
    claim_.reset();
    claimed_ = InodeNo();
}

// True: there is something of the piece to move, or the window was given up.
Result<bool> Evacuation::plan_piece(const Reader &reader, const core::Owned &owned) {
    if (owned.attribute) return move_attribute(reader, owned);
    const BlockNo first = media::first_block(window_->first);
    const BlockNo end = media::first_block(window_->first + chunks_);
    while (offset_ < owned.blocks) {
        const auto inode = core::read_inode(reader, owned.ino);
        TRY(unless_absent());
        if (!inode.ok()) return false;  // gone
        const FileBlock at = owned.file_block + offset_;
        const auto found = core::find_extent(reader, *inode.value(), owned.ino, at);
        TRY(unless_absent());
        if (!found.ok()) return false;
        const Extent &e = found.value();
        const BlockNo start = e.place_of(at);
        const std::uint64_t blocks = std::min(owned.blocks - offset_, e.end() - at);
        if (e.hole() || start < first || start >= end) {
            offset_ += blocks;  // it was moved, or changed by others
            continue;
        }
        piece_ = {owned.ino, at, start, e_.allocator->piece({start, blocks}).blocks};
        unwritten_ = e.unwritten;
        blob_ = S_ISLNK(inode.value()->mode.get());
        if (e.shared || !claim(owned.ino).ok() || !may_move(*inode.value())) {
            give_up_piece();
            return true;
        }
        TRY(reserve());
        return true;
    }
    return false;
}

core::Goal Evacuation::goal() const {
    core::Goal goal;
    goal.group = group_;
    goal.privileged = true;
    goal.broken = worth_ != Worth::in_a_row;
    goal.beside_data = worth_ == Worth::useful;
    return goal;
}

// Moves the large value of an attribute by writing it again, in one step: it never changes in
// place, and is read with the lock held.  True: it was moved, or the window was given up.
Result<bool> Evacuation::move_attribute(const Reader &reader, const core::Owned &owned) {
    const BlockNo first = media::first_block(window_->first);
    const BlockNo end = media::first_block(window_->first + chunks_);
    const auto inode = core::read_inode(reader, owned.ino);
    TRY(unless_absent());
    if (!inode.ok() || inode.value()->xattr_root.get() == 0) return false;  // gone
    const auto there = core::next_xattr(reader, *inode.value(), owned.ino, *owned.attribute);
    TRY(unless_absent());
    if (!there.ok() || !there.value() || there.value()->key != *owned.attribute) return false;
    const auto inside = [&](const Run &run) { return run.start < end && run.end() > first; };
    if (std::ranges::none_of(there.value()->runs, inside)) return false;  // it has moved
    const pm::FaultScope faults;  // a bad page concerns this window only
    const auto moved =
        attribute_moved_ == next_
            ? Result<std::uint64_t>(corrupt("an attribute's value was moved to the same place"))
            : core::move_xattr(*e_.core, owned.ino, *owned.attribute, goal());
    TRY(unless_absent());
    if (!moved.ok() && moved.error().errno_value() == kParkErrno) return moved.error();
    if (moved.ok()) {
        moved_ += moved.value();
        attribute_moved_ = next_;
    } else {
        give_up_window(media::chunk_of(owned.start));
    }
    return true;
}

// A place for the piece, or for its head.  A whole chunk that is congruent with its file moves to a
// whole chunk.
Result<> Evacuation::reserve() {
    core::Goal goal = this->goal();
    goal.file_block = piece_.file_block;
    goal.large = worth_ == Worth::in_a_row && piece_.blocks >= kChunkBlocks &&
                 media::congruent(piece_.start, piece_.file_block, kChunkBlocks);
    const auto place = e_.allocator->reserve_data(goal, piece_.blocks);
    if (!place.ok()) TRY(unless_absent());
    if (!place.ok() && must_park(place.error()) && worth_ != Worth::useful) return place.error();
    if (!place.ok()) {
        give_up_piece();
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
    const Reader reader(*e_.core);
    std::uint64_t used = 0;
    for (unsigned c = 0; c < chunks_; ++c)
        used += kChunkBlocks - TRY(e_.allocator->map().chunk(window_->first + c))->free;
    const bool grown = used > known_;  // another file has grown into it
    for (unsigned n = 0; !failed_ && !grown && used != 0 && next_ < owned_.size();) {
        if (n++ == kLookedAt) return {};
        if (TRY(plan_piece(reader, owned_[next_]))) return {};
        known_ -= owned_[next_++].blocks;
        offset_ = 0;
    }
    leave_inode();
    if (failed_ || (used != 0 && !from_index_))
        give_up_window(failed_ ? *failed_ : unknown_chunk());
    else if (used != 0)
        search(used);
    else
        stage_ = Stage::done;
    return {};
}

// The first chunk of the window with more blocks in use than have a known owner.
ChunkNo Evacuation::unknown_chunk() const {
    std::vector<std::uint64_t> known(chunks_);
    const BlockNo first = media::first_block(window_->first);
    for (std::size_t i = next_; i < owned_.size(); ++i) {
        const core::Owned &owned = owned_[i];
        for (BlockNo at = owned.start; at < owned.start + owned.blocks;) {
            const BlockNo end =
                std::min(owned.start + owned.blocks, media::first_block(media::chunk_of(at) + 1));
            known[(at - first) / kChunkBlocks] += end - at;
            at = end;
        }
    }
    for (unsigned c = 0; c < chunks_; ++c) {
        const auto chunk = e_.allocator->map().chunk(window_->first + c);
        if (!chunk.ok() || kChunkBlocks - chunk.value()->free > known[c]) return window_->first + c;
    }
    return window_->first;
}

bool Evacuation::may_move(const media::Inode &inode) {
    if ((inode.flags.get() & media::kTrimPending) != 0) return false;
    const auto without = e_.allocator->quarantine().without({piece_.start, piece_.blocks});
    if (without.size() != 1 || without[0].blocks != piece_.blocks) return false;
    const FileBlock end = piece_.file_block + piece_.blocks;
    const auto standing = e_.live.standing(piece_.ino, piece_.file_block, end);
    return core::ask(inode, standing, core::Move::relocate).ok();
}

// Without the lock: the old blocks are the claimed file's, the new ones are reserved.
void Evacuation::copy() {
    const std::uint64_t from = media::byte_of(piece_.start), size = piece_.blocks * kBlockSize;
    bool failed = e_.region->lost(from, size);
    if (!failed && blob_) {
        auto copied = core::copy_blob(*e_.core, {piece_.start, piece_.blocks}, run_);
        failed = !copied.ok();
        if (copied.ok()) e_.journal->persist(std::move(copied).take());
    } else if (!failed) {
        e_.journal->persist(
            e_.journal->write_data(media::byte_of(run_.start), {e_.region->data() + from, size}));
    }
    if (pm::take_fault() || failed || e_.region->lost(from, size))
        failed_ = media::chunk_of(piece_.start);
    e_.data_dirty.store(true, std::memory_order_release);
    stage_ = Stage::commit;
}

// What refuses concerns this window only: a bad page, a seal, a file that is gone.
Result<> Evacuation::commit() {
    const Result<> done =
        failed_ ? Result<>(Error(EIO, "the medium has a bad page here")) : exchange();
    if (!done.ok()) TRY(unless_absent());
    if (!done.ok() && done.error().errno_value() == kParkErrno) return done;
    if (!done.ok()) {
        give_up_piece();
        return {};
    }
    reserved_ = false;
    moved_ += run_.blocks;
    offset_ += run_.blocks;
    stage_ = Stage::plan;
    return {};
}

Result<> Evacuation::exchange() {
    const FileBlock at = piece_.file_block, end = at + piece_.blocks;
    TRY(core::map_make_room(*e_.core, piece_.ino, at, 2));
    TRY(core::map_make_room(*e_.core, piece_.ino, end, 2));
    Change change(*e_.core);
    TRY(change.begin());
    auto *inode = TRY(core::edit_inode(change, piece_.ino));
    const auto standing = e_.live.standing(piece_.ino, at, end);
    const auto permit = TRY(core::permit(*inode, standing, core::Move::relocate));
    const Run old = TRY(core::map_remove(change, inode, piece_.ino, at, end, permit));
    if (old.start != piece_.start) return corrupt("a block map changed although it was claimed");
    TRY(e_.allocator->give_back(change, old));
    TRY(e_.allocator->take_reserved(change, run_));
    TRY(core::map_insert(change, inode, piece_.ino,
                         {at, run_.start, run_.blocks, unwritten_, false}, permit));
    TRY(change.commit());
    return {};
}

Result<Run> Evacuation::take(Change &change) {
    return take_part(change, 0, chunks_);
}

Run Evacuation::place() const {
    return {media::first_block(window_->first), chunks_ * kChunkBlocks};
}

Result<Run> Evacuation::take_part(Change &change, unsigned from, unsigned chunks) {
    const auto taken = e_.allocator->take_kept(change, window_->first + from, chunks);
    if (!taken.ok()) TRY(unless_absent());
    if (taken.ok() || taken.error().errno_value() != ENOSPC) return taken;
    give_up_window(window_->first + from);
    return Run{};
}

}  // namespace pmfs
