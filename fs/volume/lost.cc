// Holders that lost their grants and may still map the device: their blocks are quarantined until
// nobody maps them any more (docs/seal.md "Quarantine").
//
// What is in memory changes only behind the transaction that it belongs to, and both under one
// hold of the lock: an end that had to wait for the journal leaves the quarantine as it was, and
// looks at everything anew when it is run again.
#include <algorithm>
#include <set>

#include "volume/impl.h"
#include "volume/record.h"

namespace pmfs {

using core::Reader;
using core::Run;
using pm::Lender;

namespace {

// A kernel that does not say which boot it is: journal::current_boot_id().
bool known(std::span<const std::uint8_t> boot) {
    const auto all = [boot](std::uint8_t byte) {
        return std::all_of(boot.begin(), boot.end(), [byte](std::uint8_t b) { return b == byte; });
    };
    return !all(0) && !all(0xff);
}

GrantReason reason_of(const media::GrantHolder &holder) {
    const std::uint32_t flags = holder.flags.get();
    const std::uint32_t number = (flags & media::kGrantReasons) >> media::kGrantReasonShift;
    if (number != 0 && number <= static_cast<std::uint32_t>(GrantReason::still_mapped))
        return static_cast<GrantReason>(number);
    return (flags & media::kGrantRevoked) != 0 ? GrantReason::late : GrantReason::server_died;
}

}  // namespace

// --- does anybody map?

std::optional<Lender::Use> Volume::Impl::use_of(InodeNo record, const media::Inode &inode) const {
    if ((holder_of(inode).flags.get() & media::kGrantLent) == 0 || !lender) return std::nullopt;
    const media::GrantPlace place = place_of(inode);
    // A device may have several nodes, and an image copies; the lock is with one of them.
    if (lender->place() != Lender::Place{place.medium_device.get(), place.medium_inode.get()})
        return std::nullopt;
    return lender->use_of(lock_number(record, inode));
}

Life Volume::Impl::life_of_record(InodeNo record, const media::Inode &inode) const {
    const media::GrantHolder holder = holder_of(inode);
    if (known(boot_id) && known(holder.boot_id) &&
        !std::equal(boot_id.begin(), boot_id.end(), holder.boot_id))
        return Life::ended;
    // Whoever shares the process's memory maps as well, and it may itself have unmapped: so where
    // the kernel keeps the lock, that alone counts.
    if (const auto use = use_of(record, inode); use) {
        if (*use == Lender::Use::unknown) return Life::unknown;
        return *use == Lender::Use::none ? Life::ended : Life::alive;
    }
    return options.processes.life(process_of(inode));
}

bool Volume::Impl::maps_no_more(InodeNo record) {
    const auto inode = core::read_inode(Reader(*core), record);
    return inode.ok() && life_of_record(record, *inode.value()) == Life::ended;
}

std::vector<InodeNo> Volume::Impl::lost_records(InodeNo file) {
    std::vector<InodeNo> records;
    const auto inode = core::read_inode(Reader(*core), file);
    for (const auto &[number, lost] : quarantined)
        if (lost.file == file && inode.ok() && inode.value()->generation.get() == lost.generation)
            records.push_back(InodeNo(number));
    return records;
}

Result<std::vector<Holder>> Volume::Impl::lost_holders(InodeNo file) {
    SharedLock held(lock);
    std::vector<Holder> all;
    for (const InodeNo record : lost_records(file)) {
        const auto *inode = TRY(core::read_inode(Reader(*core), record));
        Holder holder;
        holder.grant = record.value();
        holder.pid = quarantined.find(record.value())->second.process.pid;
        holder.uid = inode->uid.get();
        holder.offset = inode->trim_from.get() * media::kBlockSize;
        holder.length = (inode->rdev.get() - inode->trim_from.get()) * media::kBlockSize;
        holder.may_store = (holder_of(*inode).flags.get() & media::kGrantStores) != 0;
        holder.maps = holder.lost = true;
        all.push_back(holder);
    }
    return all;
}

// --- the begin

Result<> Volume::Impl::quarantine(InodeNo record, GrantReason reason) {
    if (const auto noted = stored_by(record); !noted.ok() && !is_damage(noted.error()))
        return noted;
    auto claimed = claim(record, reason);
    // A volume too full for the claims, or a file that cannot be read: they hold in memory, and
    // what is given up stays in use until fsck finds it.
    if (!claimed.ok() && claimed.error().errno_value() != ENOSPC && !is_damage(claimed.error()))
        return claimed;
    const auto *inode = TRY(core::read_inode(Reader(*core), record));
    auto runs = TRY(claims_of(record));
    if (!claimed.ok()) {
        const auto more = unclaimed(record);
        if (!more.ok() && !is_damage(more.error())) return more.error();
        if (more.ok()) runs.insert(runs.end(), more.value().begin(), more.value().end());
        std::sort(runs.begin(), runs.end(),
                  [](const Run &a, const Run &b) { return a.start < b.start; });
    }
    allocator->quarantine().add(record, std::move(runs));
    LostHolder lost;
    lost.process = process_of(*inode);
    lost.file = InodeNo(inode->parent.get());
    lost.generation = inode->entries.get();
    lost.reason = reason;
    quarantined[record.value()] = lost;
    const bool look = use_of(record, *inode).has_value();
    FileDescriptor process = watch_process(lost.process);
    const bool unseen = !process.ok() && !look;
    caretaker.watch(record, std::move(process), look);
    if (unseen && life_of_record(record, *inode) == Life::ended)
        parked_later([this, record] { holder_ended(record); });
    return {};
}

// --- the end

Result<> Volume::Impl::settle_record(InodeNo record) {
    const std::vector<Run> claimed = TRY(claims_of(record));
    // Nobody sees the volume without them: the lock is held.
    std::vector<Run> kept = allocator->quarantine().remove(record);
    Result<> done = drop_record(record, true);
    if (done.ok()) return {};
    // What it claims no more was freed, or is its file's alone.
    if (const auto left = claims_of(record); left.ok())
        kept = difference(kept, difference(claimed, left.value()));
    allocator->quarantine().add(record, std::move(kept));
    return done;
}

Result<> Volume::Impl::end_quarantine(InodeNo record) {
    {
        ExclusiveLock held(lock);
        if (!quarantined.contains(record.value())) return {};
        TRY(settle_record(record));
        quarantined.erase(record.value());
    }
    caretaker.forget(record);
    return {};
}

// The process is gone.  Where the kernel says who maps it has the last word: somebody may share the
// process's memory.
void Volume::Impl::holder_ended(InodeNo record) {
    {
        ExclusiveLock held(lock);
        const auto found = quarantined.find(record.value());
        if (found == quarantined.end()) return;
        const auto inode = core::read_inode(Reader(*core), record);
        found->second.ended = inode.ok() && !use_of(record, *inode.value()).has_value();
    }
    look_again(record);
}

void Volume::Impl::look_again(InodeNo record) {
    {
        SharedLock held(lock);
        const auto found = quarantined.find(record.value());
        if (found == quarantined.end()) return;
        if (!found->second.ended && !maps_no_more(record)) return;
    }
    const auto done = end_quarantine(record);
    if (!done.ok() && must_park(done.error())) parked_later([this, record] { look_again(record); });
}

// --- at a mount

// Before anything is freed: records by which nobody maps any more go; the others' blocks stay. All
// are quarantined before the first goes, for several may claim a block that their file gave up: it
// is free with the last of them, and nobody may free it twice.
Result<> Volume::Impl::load_records() {
    std::vector<InodeNo> ended;
    const Reader reader(*core);
    for (const std::uint64_t at : TRY(core::all_listed(reader, core::kGrants))) {
        const InodeNo record(at);
        const auto found = core::read_inode(reader, record);
        // Damage: who else holds what cannot be told, so nothing may be freed until fsck.
        if (!found.ok() || (found.value()->flags.get() & media::kGrantRecord) == 0)
            return corrupt("the list of those who map the device is damaged");
        if (life_of_record(record, *found.value()) != Life::ended) {
            const GrantReason reason = reason_of(holder_of(*found.value()));
            Result<> done = quarantine(record, reason);
            while (!done.ok() && must_park(done.error())) {
                TRY(make_room());
                done = quarantine(record, reason);
            }
            TRY(std::move(done));
            continue;
        }
        allocator->quarantine().add(record, TRY(claims_of(record)));
        ended.push_back(record);
    }
    for (const InodeNo record : ended) {
        Result<> done = settle_record(record);
        while (!done.ok() && must_park(done.error())) {
            TRY(make_room());
            done = settle_record(record);
        }
        (void)done.ok();  // a damaged one stays, with what it claims
    }
    return {};
}

// At mount, for a step that must park: it got on by a transaction at least.
Result<> Volume::Impl::make_room() {
    TRY(journal->group_commit(true));
    allocator->release_held();
    return {};
}

// --- the administrator's side

Result<std::vector<Quarantined>> Volume::quarantine() {
    Impl &v = *impl_;
    SharedLock held(v.lock);
    std::vector<Quarantined> all;
    for (const auto &[number, lost] : v.quarantined) {
        const InodeNo record(number);
        const auto *inode = TRY(core::read_inode(Reader(*v.core), record));
        Quarantined one;
        one.id = number;
        one.file = lost.file;
        one.process = lost.process;
        one.uid = inode->uid.get();
        one.may_store = (holder_of(*inode).flags.get() & media::kGrantStores) != 0;
        one.alive = v.options.processes.life(lost.process) == Life::alive;
        one.mapped = v.use_of(record, *inode) == Lender::Use::some;
        one.reason = lost.reason;
        for (const Run &run : TRY(v.claims_of(record))) one.total += run.blocks * media::kBlockSize;
        const auto kept = v.given_up(record);
        if (!kept.ok()) one.held = one.total;  // as far as anybody knows
        if (kept.ok())
            for (const Run &run : kept.value()) one.held += run.blocks * media::kBlockSize;
        all.push_back(one);
    }
    return all;
}

Result<std::uint64_t> Volume::revoke(InodeNo ino, GrantId id, std::uint32_t pid,
                                     const Caller &caller) {
    Impl &v = *impl_;
    if (caller.uid != 0) return Error(EPERM, "only root ends what others hold");
    const Process process = v.options.processes.of_thread(pid);
    const auto meant = [&](GrantId grant, std::uint32_t holder) {
        return (id == 0 || grant == id) && (pid == 0 || holder == pid || holder == process.pid);
    };
    std::uint64_t ended = 0;
    for (const Grant &grant : v.live.grants(ino)) {
        if (!meant(grant.id, grant.holder.pid)) continue;
        Result<> done = v.lose(grant.handle, grant.id, GrantReason::revoked);
        while (!done.ok() && must_park(done.error())) {
            TRY(v.commit_now(true));
            done = v.lose(grant.handle, grant.id, GrantReason::revoked);
        }
        TRY(std::move(done));
        ++ended;
    }
    // Pins that map nothing.
    for (const Holder &pin : v.live.pins(ino))
        if (meant(pin.grant, pin.pid)) ended += v.live.unpin(pin.handle, pin.grant) ? 1 : 0;
    if (ended == 0) return Error(ENOENT, "nobody holds such a grant on the file");
    return ended;
}

Result<> Volume::release_quarantine(std::uint64_t id, const Caller &caller) {
    Impl &v = *impl_;
    if (caller.uid != 0) return Error(EPERM, "only root can say that nobody stores there any more");
    {
        SharedLock held(v.lock);
        if (!v.quarantined.contains(id)) return Error(ENOENT, "there is no such quarantine");
    }
    Result<> done = v.end_quarantine(InodeNo(id));
    while (!done.ok() && must_park(done.error())) {
        TRY(v.commit_now(true));
        done = v.end_quarantine(InodeNo(id));
    }
    return done;
}

}  // namespace pmfs
