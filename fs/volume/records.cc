// Grant records: who maps the device, remembered on the medium (media/format.h "GrantHolder"), and
// the quarantine of those who lost their grants (docs/seal.md).
//
// A record is an inode on a list of its own.  It claims the device blocks that its holder maps.
// While the grant lives the file's map stands still, so the claims cost nothing; when the grant is
// lost and the holder may be alive they are quarantined: whatever the file gives up stays in use.
// When the holder is gone, the blocks that the file gave up are freed, and the record goes.
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <set>

#include "volume/impl.h"

namespace pmfs {

using core::Change;
using core::Move;
using core::Reader;
using core::Run;

namespace {

constexpr std::uint64_t kAllBlocks = ~std::uint64_t{0} >> 1;

media::GrantHolder holder_of(const media::Inode &record) {
    media::GrantHolder holder;
    static_assert(sizeof holder == sizeof record.seal_digest);
    std::memcpy(static_cast<void *>(&holder), record.seal_digest, sizeof holder);
    return holder;
}
void set_holder(media::Inode *record, const media::GrantHolder &holder) {
    std::memcpy(record->seal_digest, &holder, sizeof holder);
}

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

// `from` without what `taken` has; both in order of the device.
std::vector<Run> difference(const std::vector<Run> &from, const std::vector<Run> &taken) {
    std::vector<Run> left;
    auto t = taken.begin();
    for (const Run &run : from) {
        std::uint64_t at = run.start;
        const std::uint64_t end = run.start + run.blocks;
        while (t != taken.end() && t->start + t->blocks <= at) ++t;
        for (auto u = t; u != taken.end() && u->start < end; ++u) {
            if (u->start > at) left.push_back({at, u->start - at});
            at = std::max(at, u->start + u->blocks);
        }
        if (at < end) left.push_back({at, end - at});
    }
    return left;
}

// The file that a record names, as far as its slot tells: null when the file is gone.  EUCLEAN when
// nobody can say, for the slot is damaged or an older copy of itself.
Result<const media::Inode *> file_of(const Reader &reader, const media::Inode &record) {
    const InodeNo file(record.parent.get());
    const std::uint64_t generation = record.entries.get();
    const auto place = core::locate_inode(reader, file);
    if (!place.ok()) return corrupt("a grant record names a file that never was");
    const auto *slot = TRY(reader.inode(place.value().block, place.value().slot, file));
    if (slot->generation.get() < generation)
        return corrupt("the file that a grant record names is an older copy of itself");
    if (slot->generation.get() > generation || slot->mode.get() == 0) return nullptr;
    return core::read_inode(reader, file);
}

bool is_damage(const Error &error) {
    return error.errno_value() == EUCLEAN || error.errno_value() == EIO;
}

}  // namespace

Result<InodeNo> Volume::Impl::add_record(const Grant &grant, InodeNo file) {
    TRY(core::ensure_free_inode(*core));
    const std::uint64_t generation = TRY(core::read_inode(Reader(*core), file))->generation.get();
    Change change(*core);
    TRY(change.begin());
    const core::NewInode made = TRY(core::take_inode(change));
    media::Inode *inode = made.inode;
    inode->mode.set(S_IFREG);
    inode->uid.set(grant.uid);
    inode->flags.set(media::kGrantRecord);
    inode->parent.set(file.value());
    inode->entries.set(generation);
    inode->trim_from.set(grant.first);
    inode->rdev.set(grant.end);
    touch(inode, true);
    inode->crtime = inode->atime = inode->mtime;
    set_holder(inode, identity_of(grant));
    TRY(core::push_inode(change, made.ino, inode, &media::State::grant_head));
    TRY(change.commit());
    return made.ino;
}

// Makes the record claim what its holder maps; may be called again after it had to park.
Result<> Volume::Impl::claim(InodeNo record, bool revoked) {
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
    holder.flags.set(holder.flags.get() | media::kGrantClaimed |
                     (revoked ? media::kGrantRevoked : 0u));
    set_holder(TRY(core::edit_inode(change, record)), holder);
    TRY(change.commit());
    return {};
}

// What the holder maps and the record does not claim yet.
Result<std::vector<Run>> Volume::Impl::unclaimed(InodeNo record) {
    const Reader reader(*core);
    const auto *inode = TRY(core::read_inode(reader, record));
    const std::uint64_t first = inode->trim_from.get(), end = inode->rdev.get();
    const auto claims = TRY(runs_of(reader, *inode, record, 0, kAllBlocks));
    const auto *target = TRY(file_of(reader, *inode));
    if (target == nullptr) return std::vector<Run>{};
    return difference(TRY(runs_of(reader, *target, InodeNo(inode->parent.get()), first, end)),
                      claims);
}

media::GrantHolder Volume::Impl::identity_of(const Grant &grant) const {
    media::GrantHolder holder{};
    std::copy(boot_id.begin(), boot_id.end(), holder.boot_id);
    holder.start_time.set(grant.holder.start_time);
    holder.pid.set(grant.holder.pid);
    holder.flags.set(grant.may_store ? media::kGrantStores : 0u);
    return holder;
}

Result<> Volume::Impl::set_record_holder(const Grant &grant) {
    Change change(*core);
    TRY(change.begin());
    auto *inode = TRY(core::edit_inode(change, grant.record));
    inode->uid.set(grant.uid);
    set_holder(inode, identity_of(grant));
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
    return difference(
        claims, TRY(runs_of(reader, *target, InodeNo(inode->parent.get()), 0, kAllBlocks)));
}

// Frees the record and, with `settle`, what only it keeps from being free.
Result<> Volume::Impl::drop_record(InodeNo record, bool settle) {
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
    TRY(core::unlink_inode(change, inode, &media::State::grant_head));
    TRY(core::free_inode(change, record, inode));
    TRY(change.commit());
    return {};
}

// --- quarantine

Result<> Volume::Impl::quarantine(InodeNo record, const Process &holder, bool revoked) {
    auto claimed = claim(record, revoked);
    // A volume too full for the claims, or a file that cannot be read: they hold in memory, and what
    // is given up stays in use until fsck finds it.
    if (!claimed.ok() && claimed.error().errno_value() != ENOSPC && !is_damage(claimed.error()))
        return claimed;
    const Reader reader(*core);
    const auto *inode = TRY(core::read_inode(reader, record));
    auto runs = TRY(runs_of(reader, *inode, record, 0, kAllBlocks));
    if (!claimed.ok()) {
        const auto more = unclaimed(record);
        if (!more.ok() && !is_damage(more.error())) return more.error();
        if (more.ok()) runs.insert(runs.end(), more.value().begin(), more.value().end());
    }
    allocator->quarantine().add(record, std::move(runs));
    quarantined[record.value()] = {holder, revoked};
    FileDescriptor process = watch_process(holder);
    if (process.ok())
        caretaker.watch(record, std::move(process));
    else if (options.processes.life(holder) == Life::ended)
        parked_later([this, record] { end_quarantine(record); });
    return {};
}

// The holder is gone: what its file gave up is free.
void Volume::Impl::end_quarantine(InodeNo record) {
    Result<> done;
    {
        ExclusiveLock held(lock);
        if (!quarantined.contains(record.value())) return;
        allocator->quarantine().remove(record);
        done = drop_record(record, true);
        if (done.ok() || !must_park(done.error())) quarantined.erase(record.value());
    }
    caretaker.forget(record);
    if (!done.ok() && must_park(done.error()))
        parked_later([this, record] { end_quarantine(record); });
}

// At mount, before anything is freed: records of holders that are gone go; the others' blocks stay.
// All are quarantined before the first goes, for several may claim a block that their file gave up:
// it is free with the last of them, and nobody may free it twice.
Result<> Volume::Impl::load_records() {
    std::vector<InodeNo> ended;
    std::set<std::uint64_t> seen;
    const Reader reader(*core);
    for (std::uint64_t at = TRY(core::read_state(reader))->grant_head.get(); at != 0;) {
        const InodeNo record(at);
        const auto found = core::read_inode(reader, record);
        // Damage: who else holds what cannot be told, so nothing may be freed until fsck.
        if (!found.ok() || (found.value()->flags.get() & media::kGrantRecord) == 0 ||
            !seen.insert(at).second)
            return corrupt("the list of those who map the device is damaged");
        at = found.value()->next.get();
        const media::GrantHolder holder = holder_of(*found.value());
        const Process process{holder.pid.get(), holder.start_time.get()};
        const bool this_boot = std::equal(boot_id.begin(), boot_id.end(), holder.boot_id);
        if (this_boot && options.processes.life(process) != Life::ended) {
            const bool revoked = (holder.flags.get() & media::kGrantRevoked) != 0;
            Result<> done = quarantine(record, process, revoked);
            while (!done.ok() && must_park(done.error())) {
                TRY(make_room());
                done = quarantine(record, process, revoked);
            }
            TRY(std::move(done));
            continue;
        }
        allocator->quarantine().add(record,
                                    TRY(runs_of(reader, *found.value(), record, 0, kAllBlocks)));
        ended.push_back(record);
    }
    for (const InodeNo record : ended) {
        allocator->quarantine().remove(record);
        Result<> done = drop_record(record, true);
        while (!done.ok() && must_park(done.error())) {
            TRY(make_room());
            done = drop_record(record, true);
        }
        (void)done.ok();  // a damaged one stays
    }
    return {};
}

// At mount, for a step that must park: it got on by a transaction at least.
Result<> Volume::Impl::make_room() {
    TRY(journal->group_commit(true));
    allocator->release_held();
    return {};
}

Result<std::vector<Quarantined>> Volume::quarantine() {
    Impl &v = *impl_;
    SharedLock held(v.lock);
    std::vector<Quarantined> all;
    for (const auto &[number, holder] : v.quarantined) {
        const InodeNo record(number);
        const Reader reader(*v.core);
        const auto *inode = TRY(core::read_inode(reader, record));
        Quarantined one;
        one.id = number;
        one.file = InodeNo(inode->parent.get());
        one.process = holder.process;
        one.uid = inode->uid.get();
        one.may_store = (holder_of(*inode).flags.get() & media::kGrantStores) != 0;
        one.alive = v.options.processes.life(holder.process) == Life::alive;
        one.revoked = holder.revoked;
        for (const Run &run : TRY(runs_of(reader, *inode, record, 0, kAllBlocks)))
            one.total += run.blocks * media::kBlockSize;
        const auto kept = v.given_up(record);
        if (!kept.ok()) one.held = one.total;  // as far as anybody knows
        if (kept.ok())
            for (const Run &run : kept.value()) one.held += run.blocks * media::kBlockSize;
        all.push_back(one);
    }
    return all;
}

Result<> Volume::release_quarantine(std::uint64_t id, const Caller &caller) {
    Impl &v = *impl_;
    if (caller.uid != 0) return Error(EPERM, "only root can say that nobody stores there any more");
    {
        SharedLock held(v.lock);
        if (!v.quarantined.contains(id)) return Error(ENOENT, "there is no such quarantine");
    }
    v.end_quarantine(InodeNo(id));
    return {};
}

}  // namespace pmfs
