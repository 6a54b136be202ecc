// Grant records on the medium: see records.h.
#include "holders/records.h"

#include <sys/stat.h>

#include <algorithm>

#include "base/clock.h"
#include "core/btree.h"
#include "core/extent_map.h"
#include "core/inode.h"

namespace pmfs {

using core::Change;
using core::Move;
using core::Reader;
using core::Run;

namespace {

// The device blocks of file blocks [first, end), in order of the device.
Result<std::vector<Run>> runs_of(const Reader &reader, const media::Inode &inode, InodeNo ino,
                                 FileBlock first, FileBlock end) {
    std::vector<Run> runs;
    for (FileBlock at = first; at < end;) {
        const Extent e = TRY(core::next_extent(reader, inode, ino, at));
        if (e.hole() || e.file_block >= end) break;
        at = std::max(at, e.file_block);
        const FileBlock upto = std::min(e.end(), end);
        runs.push_back({e.place_of(at), upto - at});
        at = upto;
    }
    std::sort(runs.begin(), runs.end(),
              [](const Run &a, const Run &b) { return a.start < b.start; });
    return runs;
}

// The file that a record names, according to its inode slot: null when the file is gone.  EUCLEAN
// when that is unknown, because the slot is damaged or an older copy of itself.
Result<const media::Inode *> file_of(const Reader &reader, const media::Inode &record) {
    const InodeNo file(record.parent.get());
    const std::uint64_t generation = record.entries.get();
    const auto place = core::locate_inode(reader, file);
    // The inode is gone, and so is its block.
    if (!place.ok() && place.error().errno_value() == ESTALE) return nullptr;
    if (!place.ok()) return place.error();
    const auto *slot = TRY(reader.inode(place.value().block, place.value().slot, file));
    const bool gone = slot->mode.get() == 0;
    if (slot->generation.get() < generation)
        return corrupt("the inode that a grant record names is an older copy of itself");
    if (slot->generation.get() > generation || gone) return nullptr;
    return core::read_inode(reader, file);
}

}  // namespace

Result<InodeNo> Records::add(const Grant &grant) {
    ground_.lock.assert_held();
    const InodeNo file = grant.file;
    const GroupNo group = TRY(core::ensure_free_inode(
        ground_.core, core::group_of_inode(ground_.core.superblock, file), core::Need::essential));
    const std::uint64_t generation =
        TRY(core::read_inode(Reader(ground_.core), file))->generation.get();
    Change change(ground_.core);
    TRY(change.begin());
    const core::NewInode made = TRY(core::take_inode(change, group));
    media::Inode *inode = made.inode;
    inode->mode.set(S_IFREG);
    inode->uid.set(grant.uid);
    inode->flags.set(media::kGrantRecord);
    inode->parent.set(file.value());
    inode->entries.set(generation);
    inode->trim_from.set(grant.first.value());
    inode->rdev.set(grant.end.value());
    inode->mtime = inode->ctime = inode->crtime = core::to_media(now_coarse());
    describe(inode, grant);
    TRY(core::push_inode(change, made.ino, inode, core::kGrants));
    TRY(change.commit());
    return made.ino;
}

Result<> Records::claim(InodeNo record, GrantReason reason) {
    ground_.lock.assert_held();
    const Reader reader(ground_.core);
    const auto *was = TRY(core::read_inode(reader, record));
    if ((was->flags.get() & media::kGrantRecord) == 0)
        return corrupt("the inode is not a grant record");
    media::GrantHolder holder = holder_of(*was);
    if ((holder.flags.get() & media::kGrantClaimed) != 0) return {};
    for (const Run &run : TRY(unclaimed(record))) {
        TRY(core::map_make_room(ground_.core, record, claim_of(run.start), 1));
        Change change(ground_.core);
        TRY(change.begin());
        auto *inode = TRY(core::edit_inode(change, record));
        const auto permit = TRY(core::permit(*inode, {}, Move::allocate));
        TRY(core::map_insert(change, inode, record,
                             {claim_of(run.start), run.start, run.blocks, false, false}, permit));
        TRY(change.commit());
    }
    Change change(ground_.core);
    TRY(change.begin());
    const auto number = static_cast<std::uint32_t>(reason) << media::kGrantReasonShift;
    holder.flags.set(holder.flags.get() | media::kGrantClaimed | number |
                     (reason == GrantReason::late ? media::kGrantRevoked : 0u));
    store_holder(TRY(core::edit_inode(change, record)), holder);
    TRY(change.commit());
    return {};
}

Result<std::vector<Run>> Records::claims_of(InodeNo record) {
    ground_.lock.assert_held_shared();
    const Reader reader(ground_.core);
    return runs_of(reader, *TRY(core::read_inode(reader, record)), record, FileBlock(0),
                   kAllBlocks);
}

Result<std::vector<Run>> Records::unclaimed(InodeNo record) {
    ground_.lock.assert_held_shared();
    const Reader reader(ground_.core);
    const auto *inode = TRY(core::read_inode(reader, record));
    const FileBlock first(inode->trim_from.get()), end(inode->rdev.get());
    const auto claims = TRY(claims_of(record));
    const auto *target = TRY(file_of(reader, *inode));
    if (target == nullptr) return std::vector<Run>{};
    return difference(TRY(runs_of(reader, *target, InodeNo(inode->parent.get()), first, end)),
                      claims);
}

void Records::describe(media::Inode *record, const Grant &grant) const {
    media::GrantHolder holder{};
    std::copy(ground_.boot_id.begin(), ground_.boot_id.end(), holder.boot_id);
    holder.start_time.set(grant.holder.start_time);
    holder.pid.set(grant.holder.pid);
    holder.flags.set(media::kGrantPlaced | (grant.stores ? media::kGrantStores : 0u) |
                     (grant.lent ? media::kGrantLent : 0u));
    store_holder(record, holder);
    media::GrantPlace place{};
    place.serial.set(grant.holder.serial);
    place.pid_namespace.set(grant.holder.pid_namespace);
    place.time_namespace.set(grant.holder.time_namespace);
    if (grant.lent) {
        place.medium_device.set(system_.place().device);
        place.medium_inode.set(system_.place().inode);
    }
    store_place(record, place);
}

Result<> Records::set_holder(const Grant &grant) {
    ground_.lock.assert_held();
    Change change(ground_.core);
    TRY(change.begin());
    auto *inode = TRY(core::edit_inode(change, grant.record));
    inode->uid.set(grant.uid);
    describe(inode, grant);
    TRY(change.commit());
    return {};
}

Result<std::vector<Run>> Records::given_up(InodeNo record) {
    ground_.lock.assert_held_shared();
    const Reader reader(ground_.core);
    const auto *inode = TRY(core::read_inode(reader, record));
    auto claims = TRY(runs_of(reader, *inode, record, FileBlock(0), kAllBlocks));
    const auto *target = TRY(file_of(reader, *inode));
    if (target == nullptr) return claims;
    return difference(claims, TRY(runs_of(reader, *target, InodeNo(inode->parent.get()),
                                          FileBlock(0), kAllBlocks)));
}

Result<> Records::stored_by(InodeNo record) {
    ground_.lock.assert_held();
    const Reader reader(ground_.core);
    const auto *inode = TRY(core::read_inode(reader, record));
    if ((holder_of(*inode).flags.get() & media::kGrantStores) == 0) return {};
    const InodeNo file(inode->parent.get());
    const auto found = core::read_inode(reader, file);
    if (!found.ok() || found.value()->generation.get() != inode->entries.get()) return {};
    return ground_.volume.stored_held(file, inode->uid.get());
}

Result<> Records::drop(InodeNo record, bool settle) {
    ground_.lock.assert_held();
    TRY(stored_by(record));
    std::vector<Run> free;
    if (settle)
        for (const Run &run : TRY(given_up(record)))
            for (const Run &part : ground_.core.allocator.quarantine().without(run))
                free.push_back(part);
    TRY(drop_claims(record, free));
    TRY(ground_.volume.clear_map_held(record));
    Change change(ground_.core);
    TRY(change.begin());
    auto *inode = TRY(core::edit_inode(change, record));
    TRY(core::unlink_inode(change, record, inode, core::kGrants));
    TRY(core::free_inode(change, record, inode));
    TRY(change.commit());
    return {};
}

// Empties the record's map, and frees those of its blocks that are in `free`.
Result<> Records::drop_claims(InodeNo record, const std::vector<Run> &free) {
    core::Allocator &allocator = ground_.core.allocator;
    for (bool first = true;; first = false) {
        Change change(ground_.core);
        TRY(change.begin());
        auto *inode = TRY(core::edit_inode(change, record));
        const Reader reader(change);
        const Extent e = TRY(core::last_extent(reader, *inode, record, kAllBlocks));
        if (e.hole() || (first && free.empty() && inode->map_root.get() == 0)) return {};
        const auto permit = TRY(core::permit(*inode, {}, Move::reap));
        const Run piece = allocator.tail_piece({e.start, e.blocks});
        // In this order: an extent must not point into a chunk that has become free.
        TRY(core::map_remove(change, inode, record, claim_of(piece.start), claim_of(piece.end()),
                             permit));
        for (const Run &run : free) {
            const BlockNo from = std::max(run.start, piece.start);
            const BlockNo end = std::min(run.end(), piece.end());
            if (from < end) TRY(allocator.give_back(change, {from, end - from}));
        }
        TRY(change.commit());
        TRY(best_effort(core::map_tidy(ground_.core, record, kAllBlocks)));
    }
}

Result<Trace> Records::trace(InodeNo record) {
    ground_.lock.assert_held_shared();
    return trace_of(record, *TRY(core::read_inode(Reader(ground_.core), record)));
}

Result<> Records::list(std::vector<Trace> *all) {
    ground_.lock.assert_held_shared();
    const Reader reader(ground_.core);
    for (const std::uint64_t at : TRY(core::all_listed(reader, core::kGrants))) {
        const InodeNo record(at);
        const auto found = core::read_inode(reader, record);
        // Damage: what other records claim is unknown, so nothing may be freed until fsck.
        if (!found.ok() || (found.value()->flags.get() & media::kGrantRecord) == 0)
            return corrupt("the list of processes that map the device is damaged");
        all->push_back(trace_of(record, *found.value()));
    }
    return {};
}

}  // namespace pmfs
