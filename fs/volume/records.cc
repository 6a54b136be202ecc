// Grant records: who maps the device, remembered on the medium (media/format.h "GrantHolder").
//
// A record is an inode on a list of its own.  It claims the device blocks that its holder maps.
// While the grant lives the file's map stands still, so the claims cost nothing; when the grant is
// lost and somebody may still map they are quarantined (lost.cc): whatever the file gives up stays
// in use.
// When the holder is gone, the blocks that the file gave up are freed, and the record goes.
#include <sys/stat.h>

#include <algorithm>

#include "volume/impl.h"
#include "volume/record.h"

namespace pmfs {

using core::Change;
using core::Move;
using core::Reader;
using core::Run;

namespace {

// The device blocks of file blocks [first, end), in order of the device.
Result<std::vector<Run>> runs_of(const Reader &reader, const media::Inode &inode, InodeNo ino,
                                 std::uint64_t first, std::uint64_t end) {
    std::vector<Run> runs;
    for (std::uint64_t at = first; at < end;) {
        const Extent e = TRY(core::next_extent(reader, inode, ino, at));
        if (e.hole() || e.file_block >= end) break;
        at = std::max(at, e.file_block);
        const std::uint64_t upto = std::min(e.end(), end);
        runs.push_back({e.start + (at - e.file_block), upto - at});
        at = upto;
    }
    std::sort(runs.begin(), runs.end(),
              [](const Run &a, const Run &b) { return a.start < b.start; });
    return runs;
}

// The file that a record names, as far as its slot tells: null when the file is gone.  EUCLEAN when
// nobody can say, for the slot is damaged or an older copy of itself.
Result<const media::Inode *> file_of(const Reader &reader, const media::Inode &record) {
    const InodeNo file(record.parent.get());
    const std::uint64_t generation = record.entries.get();
    const auto place = core::locate_inode(reader, file);
    // Gone, with its place.
    if (!place.ok() && place.error().errno_value() == ESTALE) return nullptr;
    if (!place.ok()) return place.error();
    const auto *slot = TRY(reader.inode(place.value().block, place.value().slot, file));
    const bool gone = slot->mode.get() == 0;
    if (slot->generation.get() < generation)
        return corrupt("the file that a grant record names is an older copy of itself");
    if (slot->generation.get() > generation || gone) return nullptr;
    return core::read_inode(reader, file);
}

}  // namespace

Result<InodeNo> Volume::Impl::add_record(const Grant &grant, InodeNo file) {
    const std::uint64_t group = TRY(core::ensure_free_inode(
        *core, core::group_of_inode(superblock, file), core::Need::essential));
    const std::uint64_t generation = TRY(core::read_inode(Reader(*core), file))->generation.get();
    Change change(*core);
    TRY(change.begin());
    const core::NewInode made = TRY(core::take_inode(change, group));
    media::Inode *inode = made.inode;
    inode->mode.set(S_IFREG);
    inode->uid.set(grant.uid);
    inode->flags.set(media::kGrantRecord);
    inode->parent.set(file.value());
    inode->entries.set(generation);
    inode->trim_from.set(grant.first);
    inode->rdev.set(grant.end);
    touch(inode, true);
    inode->crtime = inode->ctime;
    set_holder(inode, grant);
    TRY(core::push_inode(change, made.ino, inode, core::kGrants));
    TRY(change.commit());
    return made.ino;
}

// Makes the record claim what its holder maps; may be called again after it had to park.
Result<> Volume::Impl::claim(InodeNo record, GrantReason reason) {
    const Reader reader(*core);
    const auto *was = TRY(core::read_inode(reader, record));
    if ((was->flags.get() & media::kGrantRecord) == 0) return corrupt("no record of a grant");
    media::GrantHolder holder = holder_of(*was);
    if ((holder.flags.get() & media::kGrantClaimed) != 0) return {};
    for (const Run &run : TRY(unclaimed(record))) {
        TRY(core::map_make_room(*core, record, run.start, 1));
        Change change(*core);
        TRY(change.begin());
        auto *inode = TRY(core::edit_inode(change, record));
        const auto permit = TRY(core::permit(*inode, {}, Move::allocate));
        TRY(core::map_insert(change, inode, record,
                             {run.start, run.start, run.blocks, false, false}, permit));
        TRY(change.commit());
    }
    Change change(*core);
    TRY(change.begin());
    const auto number = static_cast<std::uint32_t>(reason) << media::kGrantReasonShift;
    holder.flags.set(holder.flags.get() | media::kGrantClaimed | number |
                     (reason == GrantReason::late ? media::kGrantRevoked : 0u));
    store_holder(TRY(core::edit_inode(change, record)), holder);
    TRY(change.commit());
    return {};
}

Result<std::vector<Run>> Volume::Impl::claims_of(InodeNo record) {
    const Reader reader(*core);
    return runs_of(reader, *TRY(core::read_inode(reader, record)), record, 0, kAllBlocks);
}

// What the holder maps and the record does not claim yet.
Result<std::vector<Run>> Volume::Impl::unclaimed(InodeNo record) {
    const Reader reader(*core);
    const auto *inode = TRY(core::read_inode(reader, record));
    const std::uint64_t first = inode->trim_from.get(), end = inode->rdev.get();
    const auto claims = TRY(claims_of(record));
    const auto *target = TRY(file_of(reader, *inode));
    if (target == nullptr) return std::vector<Run>{};
    return difference(TRY(runs_of(reader, *target, InodeNo(inode->parent.get()), first, end)),
                      claims);
}

void Volume::Impl::set_holder(media::Inode *record, const Grant &grant) const {
    media::GrantHolder holder{};
    std::copy(boot_id.begin(), boot_id.end(), holder.boot_id);
    holder.start_time.set(grant.holder.start_time);
    holder.pid.set(grant.holder.pid);
    holder.flags.set(media::kGrantPlaced | (grant.may_store ? media::kGrantStores : 0u) |
                     (grant.lent ? media::kGrantLent : 0u));
    store_holder(record, holder);
    media::GrantPlace place{};
    place.serial.set(grant.holder.serial);
    place.pid_namespace.set(grant.holder.pid_namespace);
    place.time_namespace.set(grant.holder.time_namespace);
    if (grant.lent) {
        place.medium_device.set(lender->place().device);
        place.medium_inode.set(lender->place().inode);
    }
    store_place(record, place);
}

Result<> Volume::Impl::set_record_holder(const Grant &grant) {
    Change change(*core);
    TRY(change.begin());
    auto *inode = TRY(core::edit_inode(change, grant.record));
    inode->uid.set(grant.uid);
    set_holder(inode, grant);
    TRY(change.commit());
    return {};
}

// What of the record's claims neither its file maps nor another record holds.  EUCLEAN: it cannot
// be known, so nothing is.
Result<std::vector<Run>> Volume::Impl::given_up(InodeNo record) {
    const Reader reader(*core);
    const auto *inode = TRY(core::read_inode(reader, record));
    auto claims = TRY(runs_of(reader, *inode, record, 0, kAllBlocks));
    const auto *target = TRY(file_of(reader, *inode));
    if (target == nullptr) return claims;
    return difference(claims,
                      TRY(runs_of(reader, *target, InodeNo(inode->parent.get()), 0, kAllBlocks)));
}

// The grant of this record ends, or is known to have ended: what its holder may have stored to the
// file moves the file's times.
Result<> Volume::Impl::stored_by(InodeNo record) {
    const Reader reader(*core);
    const auto *inode = TRY(core::read_inode(reader, record));
    if ((holder_of(*inode).flags.get() & media::kGrantStores) == 0) return {};
    const InodeNo file(inode->parent.get());
    const auto found = core::read_inode(reader, file);
    if (!found.ok() || found.value()->generation.get() != inode->entries.get()) return {};
    return stored(file, inode->uid.get());
}

// Frees the record and, with `settle`, what only it keeps from being free.
Result<> Volume::Impl::drop_record(InodeNo record, bool settle) {
    TRY(stored_by(record));
    std::vector<Run> free;
    if (settle)
        for (const Run &run : TRY(given_up(record)))
            for (const Run &part : allocator->quarantine().without(run)) free.push_back(part);
    for (bool first = true;; first = false) {
        Change change(*core);
        TRY(change.begin());
        auto *inode = TRY(core::edit_inode(change, record));
        const Reader reader(change);
        const Extent e = TRY(core::last_extent(reader, *inode, record, kAllBlocks));
        if (e.hole() || (first && free.empty() && inode->map_root.get() == 0)) break;
        const auto permit = TRY(core::permit(*inode, {}, Move::reap));
        const Run piece = allocator->tail_piece({e.start, e.blocks});
        // In this order: chunks that become free are no place for an extent any more.
        TRY(core::map_remove(change, inode, record, piece.start, piece.start + piece.blocks,
                             permit));
        for (const Run &run : free) {
            const std::uint64_t from = std::max(run.start, piece.start);
            const std::uint64_t end = std::min(run.start + run.blocks, piece.start + piece.blocks);
            if (from < end) TRY(allocator->give_back(change, {from, end - from}));
        }
        TRY(change.commit());
        TRY(best_effort(core::map_tidy(*core, record, kAllBlocks)));
    }
    TRY(clear_tree(record, media::TreeKind::map));
    Change change(*core);
    TRY(change.begin());
    auto *inode = TRY(core::edit_inode(change, record));
    TRY(core::unlink_inode(change, record, inode, core::kGrants));
    TRY(core::free_inode(change, record, inode));
    TRY(change.commit());
    return {};
}

}  // namespace pmfs
