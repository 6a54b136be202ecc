// Grants: taking them, giving them back, asking for them, and losing them (docs/seal.md).
#include "holders/holders.h"

#include <sys/stat.h>

#include <algorithm>
#include <limits>

#include "base/blocking.h"
#include "base/clock.h"
#include "base/errors.h"
#include "core/inode.h"
#include "core/protection.h"
#include "core/seal.h"
#include "media/geometry.h"

namespace pmfs {

using core::Move;
using core::Reader;
using media::kBlockSize;

namespace {

Move move_of(GrantKind kind) {
    switch (kind) {
        case GrantKind::temporary:
            return Move::take_temporary;
        case GrantKind::breakable:
            return Move::take_breakable;
        case GrantKind::pin:
            return Move::pin;
    }
    return Move::pin;
}

bool owns(const Grant &grant, const Caller &caller, const Process &process) {
    return (caller.handle != 0 && grant.handle == caller.handle) ||
           same_process(grant.holder, process);
}

// Whether what was learned about the grant's holder is still true.
bool unchanged(const Grant &seen, const Grant &now) {
    return seen.record == now.record && seen.lendings == now.lendings &&
           seen.holder.pid == now.holder.pid && seen.holder.start_time == now.holder.start_time;
}

Error no_grant() {
    return Error(ENOENT, "the handle has no such grant");
}

Error wait_for_leases(InodeNo ino) {
    return Error(kBreakErrno, "the file's leases must be given back first").about(ino.value());
}

}  // namespace

Holders::Holders(const Ground &ground)
    : ground_(ground),
      system_(ground_.processes, ground_.boot_id),
      records_(ground_, system_),
      caretaker_({[this](InodeNo ino) { revoke_leases(ino); },
                  [this](InodeNo record) { quarantines_.look_again(record, true); },
                  [this](InodeNo record) { quarantines_.look_again(record, false); }},
                 ground_.pool),
      quarantines_(ground_, system_, records_, caretaker_) {}

Result<> Holders::start() {
    return caretaker_.start();
}

void Holders::load(std::optional<pm::Lender> lender) {
    if (lender) system_.set_lender(std::move(*lender));
    damaged_ = !quarantines_.load().ok();
}

// --- asking for leases

Result<core::MapPermit> Holders::permit(InodeNo ino, const media::Inode &inode, Move move,
                                        FileBlock first, FileBlock end) {
    ground_.lock.assert_held_shared();
    return permit(ino, inode, move, ground_.live.standing(ino, first, end));
}

Result<core::MapPermit> Holders::permit_around(InodeNo ino, const media::Inode &inode, Move move,
                                               FileBlock first, FileBlock end) {
    ground_.lock.assert_held_shared();
    return permit(ino, inode, move, ground_.live.standing_around(ino, first, end));
}

Result<core::MapPermit> Holders::permit(InodeNo ino, const media::Inode &inode, Move move,
                                        const core::Standing &standing) {
    const auto allowed = core::permit(inode, standing, move);
    if (!allowed.ok() && allowed.error().errno_value() == kBreakErrno)
        return allowed.error().about(ino.value());
    return allowed;
}

core::Standing Holders::standing(InodeNo ino) {
    ground_.lock.assert_held_shared();
    core::Standing standing = ground_.live.standing(ino);
    standing.lost = quarantines_.any_of(ino);
    return standing;
}

Error Holders::begin_break(const Error &why, const Caller &caller) {
    const InodeNo ino(why.subject());
    LiveTable &live = ground_.live;
    const Process process = system_.process_of(caller.pid);
    for (const Grant &grant : live.grants(ino))
        if (grant.kind == GrantKind::breakable && owns(grant, caller, process))
            return Error(EDEADLK, "the caller holds a lease on the file itself");
    caretaker_.begin_break(ino, monotonic_ns() + ground_.lease_break_ms * std::uint64_t{1'000'000});
    const std::vector<Grant> asked = live.ask_leases(ino);
    const std::uint32_t time = caretaker_.time_left_ms(ino, monotonic_ns()).value_or(1);
    tell_holders([&](GrantWatcher &who) {
        for (const Grant &grant : asked) who.lease_breaking(grant.handle, grant.id, time);
    });
    // The last lease may have gone before the break began: then nothing else would end the break.
    const std::vector<Grant> left = live.grants(ino);
    if (std::none_of(left.begin(), left.end(),
                     [](const Grant &grant) { return grant.kind == GrantKind::breakable; }))
        caretaker_.leases_gone(ino);
    const auto handle = live.handle(caller.handle);
    if (caller.nonblocking || (handle && handle->opener.nonblocking))
        return Error(EAGAIN,
                     "the file is leased, and the holders were asked to give the leases back");
    return wait_for_leases(ino);
}

void Holders::wait(const Error &why, std::uint32_t user, std::function<void()> again) {
    caretaker_.wait(InodeNo(why.subject()), user, std::move(again));
}

// The time is over: the leases that were not given back are lost.
void Holders::revoke_leases(InodeNo ino) {
    for (const Grant &grant : ground_.live.grants(ino))
        if (grant.kind == GrantKind::breakable && grant.breaking)
            lose_or_park(grant.handle, grant.id, GrantReason::late);
}

// --- giving back, and losing

Result<System::Finding> Holders::look(const Grant &grant) {
    if (grant.record == InodeNo()) return System::Finding{};
    // What the broker has just sent, and not yet closed, would be taken for the holder's.
    if (grant.lent) tell_holders([](GrantWatcher &who) { who.settle_lending(); });
    Trace trace;
    {
        SharedLock held(ground_.lock);
        trace = TRY(records_.trace(grant.record));
    }
    return system_.look(trace, true);
}

Result<> Holders::drop(HandleId handle, GrantId id) {
    if (id >= core::PinTable::kFirstNumber) {
        if (!ground_.live.unpin(handle, id)) return Error(ENOENT, "the handle holds no such pin");
        return {};
    }
    for (;;) {
        const auto seen = ground_.live.grant(handle, id);
        if (!seen) return quarantines_.drop(handle, id);
        System::Finding found;
        if (seen->lent) found = TRY(look(*seen));
        std::optional<LiveTable::Dropped> dropped;
        {
            ExclusiveLock held(ground_.lock);
            const auto grant = ground_.live.grant(handle, id);
            if (!grant) return no_grant();
            if (!unchanged(*seen, *grant)) continue;
            TRY(drop_held(*grant, found));
            dropped = ground_.live.drop_grant(handle, id);
        }
        if (!dropped) return no_grant();
        after_drop(*dropped);
        return {};
    }
}

// The record is removed first: its claims are true only as long as the map cannot change.
Result<> Holders::drop_held(const Grant &grant, System::Finding &found) {
    if (grant.record == InodeNo())
        return grant.stores ? ground_.volume.stored_held(grant.file, grant.uid) : Result<>();
    // A child of the holder, or a process that shares its memory, may still map.
    if (found.use && *found.use != pm::Lender::Use::none)
        return quarantines_.begin(grant.record, GrantReason::still_mapped, found, nullptr);
    return records_.drop(grant.record, false);
}

void Holders::after_drop(const LiveTable::Dropped &dropped) {
    if (dropped.leases_gone) caretaker_.leases_gone(dropped.ino);
    if (dropped.left_behind) ground_.volume.trim_or_park(dropped.ino);
    if (dropped.reap) ground_.volume.reap_or_park(dropped.ino);
}

void Holders::lose_or_park(HandleId handle, GrantId id, GrantReason reason) {
    const auto done = lose(handle, id, reason);
    if (!done.ok())
        ground_.volume.parked_later(
            [this, handle, id, reason] { lose_or_park(handle, id, reason); });
}

// Removes the record, or quarantines it if a process may still map by it.
Result<> Holders::end_record(const Grant &grant, GrantReason reason,
                             Result<System::Finding> &found) {
    if (!found.ok()) return found.error();
    if (found.value().life == Life::ended) return records_.drop(grant.record, false);
    return quarantines_.begin(grant.record, reason, found.value(), &grant);
}

// kParkErrno: nothing has changed, run it again.
Result<> Holders::lose(HandleId handle, GrantId id, GrantReason reason) {
    std::optional<LiveTable::Dropped> dropped;
    while (!dropped) {
        const auto seen = ground_.live.grant(handle, id);
        if (!seen) return {};
        auto found = look(*seen);
        ExclusiveLock held(ground_.lock);
        const auto grant = ground_.live.grant(handle, id);
        if (!grant) return {};
        if (!unchanged(*seen, *grant)) continue;
        if (grant->record == InodeNo()) {
            if (grant->stores) TRY(ground_.volume.stored_held(grant->file, grant->uid));
        } else {
            auto done = end_record(*grant, reason, found);
            if (!done.ok() && must_park(done.error())) return done;
            // The record is damaged: what may be freed is unknown, so nothing is freed.
            if (!done.ok()) damaged_ = true;
        }
        dropped = ground_.live.drop_grant(handle, id);
    }
    if (reason == GrantReason::late || reason == GrantReason::revoked)
        tell_holders([&](GrantWatcher &who) { who.grant_revoked(handle, id); });
    after_drop(*dropped);
    return {};
}

void Holders::end_with_processes(InodeNo ino) {
    for (const Grant &grant : ground_.live.grants(ino)) {
        if (grant.lendings == 0 || system_.life_of(grant.holder) != Life::ended) continue;
        lose_or_park(grant.handle, grant.id, GrantReason::cut_off);
    }
    quarantines_.look_again_at(ino);
}

// A mapping may outlive its handle, and grants that may have stored update the file's times.
Result<> Holders::close_handle(HandleId handle) {
    for (const Grant &grant : ground_.live.grants_of(handle))
        if (grant.maps || grant.may_store) TRY(lose(handle, grant.id, GrantReason::handle_closed));
    return {};
}

// --- taking

namespace {

Result<> may_hold(const media::Inode &inode, const HandleInfo &opened, const GrantRequest &request,
                  const Caller &caller) {
    if (!S_ISREG(inode.mode.get())) return Error(EINVAL, "only regular files have a block map");
    if (request.may_store) TRY(core::may_change(inode));
    if (request.maps && !opened.read)
        return Error(EBADF, "to map it, the file must be open for reading");
    // A process that may have the device can read the file there anyway, so it may map for reading.
    const bool only_looks = request.maps && !request.may_store && request.trusted;
    if (caller.uid != 0 && caller.uid != inode.uid.get() && !opened.write && !only_looks)
        return Error(EPERM,
                     "only root, the owner, and a process that has the file open for writing may "
                     "take a grant");
    if (request.forks && (!request.maps || request.may_store))
        return Error(EINVAL, "only a mapping for reading can be inherited by children");
    if (request.forks && (inode.flags.get() & media::kSealedFull) == 0)
        return Error(EINVAL,
                     "only a mapping of a file that is sealed full can be inherited by children");
    const std::uint64_t size = inode.size.get();
    if (size == 0 || request.offset >= size)
        return Error(EINVAL, "the offset is at or behind the end of the file");
    if (request.length > size - request.offset)
        return Error(EINVAL, "the range reaches past the end of the file");
    return {};
}

}  // namespace

Holders::Identity Holders::identify(const GrantRequest &request, const Caller &caller) const {
    Identity identity;
    const bool only_pins = request.kind == GrantKind::pin && !request.maps && !request.may_store;
    if (!only_pins) identity.process = system_.process_of(caller.pid);
    if (request.kind != GrantKind::pin) return identity;
    if (caller.uid == 0)
        identity.pin_limit = ~std::uint64_t{0};
    else if (ground_.pin_quota)
        identity.pin_limit = *ground_.pin_quota;
    else
        identity.pin_limit = system_.lockable_bytes(caller.pid);
    return identity;
}

// All checks except those of the tables; gives the grant that is to be added.
Result<Grant> Holders::design(const HandleInfo &opened, const GrantRequest &request,
                              const Caller &caller, std::uint64_t *bad_offset) {
    const InodeNo ino = opened.ino;
    const Reader reader(ground_.core);
    TRY(ground_.volume.unclaimed_held(ino));
    if (!ground_.read_only) TRY(ground_.volume.settle_trim_held(ino));
    const auto *inode = TRY(core::read_inode(reader, ino));
    TRY(may_hold(*inode, opened, request, caller));
    const std::uint64_t size = inode->size.get();
    const FileBlock size_end = media::file_block_from(size);
    const std::uint64_t unit =
        std::max<std::uint64_t>(request.unit, ground_.core.superblock.mapping_unit.get()) /
        kBlockSize;
    const std::uint64_t to = request.length == 0 ? size : request.offset + request.length;
    Grant grant;
    grant.first = media::unit_down(media::file_block_of(request.offset), unit);
    grant.end = media::unit_up(media::file_block_from(to), unit);
    FileBlock bad;
    // Where a unit is a block, a range that is known to be dense need not be read: survey().
    const FileBlock dense = ground_.live.counts(ino).dense_end;
    const FileBlock unknown = unit == 1 ? std::clamp(dense, grant.first, grant.end) : grant.first;
    const auto fits = core::check_mappable(reader, *inode, ino, unknown, grant.end, unit, &bad);
    if (!fits.ok() && bad_offset) *bad_offset = media::byte_of(bad);
    TRY(Result<>(fits));
    TRY(core::ask(*inode, ground_.live.standing(ino, grant.first, grant.end),
                  move_of(request.kind)));
    // While leases are being given back, no new ones are given until all waiting operations have
    // run.
    if (request.kind == GrantKind::breakable && caretaker_.breaking(ino))
        return wait_for_leases(ino);
    if (request.kind == GrantKind::breakable && caretaker_.has_turns(ino))
        return Error(EAGAIN, "other operations that waited for the file's leases run first");
    grant.file = ino;
    grant.handle = opened.handle;
    grant.kind = request.kind;
    grant.may_store = request.may_store;
    grant.stores = request.may_store && !request.announces;
    grant.maps = request.maps;
    grant.bound = request.bound;
    grant.uid = caller.uid;
    // T and B freeze the whole map, and only their range is known to have no gaps.
    const bool freezes =
        request.kind != GrantKind::pin && (grant.first != FileBlock(0) || grant.end < size_end);
    grant.freezes_gaps =
        freezes && TRY(core::dense_until(reader, *inode, ino, std::min(dense, size_end), size_end,
                                         std::numeric_limits<unsigned>::max())) < size_end;
    grant.lent = request.lent && system_.lends() && !ground_.read_only;
    if (request.forks && !grant.lent && !ground_.read_only)
        return Error(EOPNOTSUPP, "this medium cannot tell whether children still map");
    return grant;
}

// With the lock held; from then on the grant is valid.
Result<GrantId> Holders::take_held(const HandleInfo &opened, const GrantRequest &request,
                                   const Caller &caller, const Identity &identity,
                                   std::uint64_t *bad_offset) {
    LiveTable &live = ground_.live;
    Grant grant = TRY(design(opened, request, caller, bad_offset));
    grant.id = live.next_grant_id();
    grant.holder = identity.process;
    if (request.kind == GrantKind::pin) {
        if (identity.pin_limit == 0)
            return Error(EPERM, "the user may not pin: RLIMIT_MEMLOCK is 0");
        core::PinTable::Pin pin;
        pin.first = grant.first;
        pin.end = grant.end;
        pin.handle = opened.handle;
        pin.uid = caller.uid;
        pin.pid = caller.pid;
        const bool alone = !request.maps && !request.may_store;
        grant.pin = TRY(live.pin(grant.file, pin, identity.pin_limit, alone, grant.bound));
        if (alone) return grant.pin;
    }
    const Places::Elsewhere lost{quarantines_.count(), quarantines_.count_of(grant.uid)};
    if (auto added = live.add_grant(grant.file, grant, lost); !added.ok()) {
        if (grant.pin != 0) live.unpin(grant.handle, grant.pin, grant.bound);
        return added.error();
    }
    const auto written = write_grant(grant);
    if (!written.ok()) {
        (void)live.drop_grant(grant.handle, grant.id);
        return written.error();
    }
    return grant.id;
}

// Writes the record of a grant, before its holder gets the answer.
Result<> Holders::write_grant(const Grant &grant) {
    if (grant.maps || grant.may_store) TRY(ground_.volume.clear_behind_end_held(grant.file));
    if (grant.stores) TRY(ground_.volume.will_store_held(grant.file, grant.uid));
    if (!grant.maps || ground_.read_only) return {};
    const InodeNo record = TRY(records_.add(grant));
    ground_.live.set_record(grant.handle, grant.id, record, grant.holder);
    return {};
}

// Notes how far the file is dense, a piece of its map at a time, so that design() need not read all
// of the map with the lock held.
void Holders::survey(InodeNo ino) {
    constexpr unsigned kExtents = 1024;
    for (;;) {
        SharedLock held(ground_.lock);
        const Reader reader(ground_.core);
        const auto inode = core::read_inode(reader, ino);
        if (!inode.ok() || !S_ISREG(inode.value()->mode.get())) return;
        const FileBlock end = media::file_block_from(inode.value()->size.get());
        const FileBlock from = std::min(ground_.live.counts(ino).dense_end, end);
        const auto until = core::dense_until(reader, *inode.value(), ino, from, end, kExtents);
        if (!until.ok() || until.value() == from) return;
        if (!ground_.live.dense_to(ino, until.value())) return;  // nobody has it open any more
    }
}

Result<GrantId> Holders::take(HandleId handle, const GrantRequest &request, const Caller &caller,
                              std::uint64_t *bad_offset) {
    const auto opened = ground_.live.handle(handle);
    if (!opened) return Error(EBADF, "there is no such open file");
    if (request.may_store) {
        TRY(ground_.volume.writable());
        if (!opened->write) return Error(EACCES, "to store, the file must be open for writing");
    }
    const Identity identity = identify(request, caller);
    survey(opened->ino);
    ground_.volume.wait_for_writers();
    const auto taken = [&] {
        ExclusiveLock held(ground_.lock);
        return take_held(*opened, request, caller, identity, bad_offset);
    }();
    if (!taken.ok() && taken.error().errno_value() == kBreakErrno)
        return begin_break(taken.error(), caller);
    if (!taken.ok() || ground_.read_only) return taken;
    if (auto durable = ground_.volume.make_durable(); !durable.ok()) {
        (void)drop(handle, taken.value()).ok();
        return durable.error();
    }
    return taken;
}

Result<> Holders::adopt(HandleId handle, GrantId id, const Caller &holder) {
    const Process process = system_.process_of(holder.pid);
    ExclusiveLock held(ground_.lock);
    auto grant = ground_.live.grant(handle, id);
    if (!grant) return Error(ENOENT, "the grant is gone");
    grant->holder = process;
    grant->uid = holder.uid;
    if (grant->record != InodeNo()) TRY(records_.set_holder(*grant));
    ground_.live.set_record(handle, id, grant->record, grant->holder);
    return {};
}

Result<> Holders::begin_stores(HandleId handle, GrantId id) {
    ExclusiveLock held(ground_.lock);
    auto grant = ground_.live.grant(handle, id);
    if (!grant) return Error(ENOENT, "the grant is gone");
    if (grant->stores || !grant->may_store) return {};
    if (ground_.live.counts(grant->file).cached != 0) return Error(EBUSY, kCached);
    TRY(ground_.volume.will_store_held(grant->file, grant->uid));
    grant->stores = true;
    if (grant->record != InodeNo()) TRY(records_.set_holder(*grant));
    ground_.live.begin_stores(handle, id);
    return {};
}

// The descriptor gets its lock before it counts as lent, and it counts as lent only while the grant
// is valid: code that ends the grant either has seen the lock, or sees that it has to look again.
Result<FileDescriptor> Holders::lend_device(HandleId handle, GrantId id) {
    const Error gone(ENOENT, "the grant is gone");
    const auto grant = ground_.live.grant(handle, id);
    if (!grant) return gone;
    if (!grant->lent)
        return Error(EOPNOTSUPP, "this medium cannot tell which processes still map it");
    if (grant->record == InodeNo()) return gone;
    Trace trace;
    {
        SharedLock held(ground_.lock);
        trace = TRY(records_.trace(grant->record));
    }
    FileDescriptor lent = TRY(system_.lend(trace, grant->may_store));
    SharedLock held(ground_.lock);
    if (!ground_.live.note_lent(handle, id, grant->record)) return gone;
    return lent;
}

// --- lists of holders

Result<std::vector<Holder>> Holders::list(InodeNo ino) {
    std::vector<Holder> all = ground_.live.pins(ino);
    for (const Grant &g : ground_.live.grants(ino)) {
        std::erase_if(all, [&g](const Holder &pin) { return !g.bound && pin.grant == g.pin; });
        all.push_back({g.id, g.kind, g.handle, g.holder.pid, g.uid, media::byte_of(g.first),
                       (g.end - g.first) * kBlockSize, g.may_store, g.breaking, g.maps});
    }
    const std::vector<Holder> lost = TRY(quarantines_.holders(ino));
    all.insert(all.end(), lost.begin(), lost.end());
    return all;
}

std::uint32_t Holders::lease_time_left(HandleId handle, GrantId id) {
    const auto grant = ground_.live.grant(handle, id);
    if (!grant || !grant->breaking) return 0;
    return caretaker_.time_left_ms(grant->file, monotonic_ns()).value_or(1);
}

void Holders::set_watcher(GrantWatcher *watcher) {
    ExclusiveLock held(watcher_lock_);
    watcher_ = watcher;
}

void Holders::tell_holders(const std::function<void(GrantWatcher &)> &what) {
    may_block("news to a holder");
    SharedLock held(watcher_lock_);
    if (watcher_ != nullptr) what(*watcher_);
}

// --- for the administrator

Result<std::uint64_t> Holders::revoke(InodeNo ino, GrantId id, std::uint32_t pid,
                                      const Caller &caller) {
    if (caller.uid != 0) return Error(EPERM, "only root may end grants of others");
    const Process process = system_.process_of(pid);
    const auto meant = [&](GrantId grant, std::uint32_t holder) {
        return (id == 0 || grant == id) && (pid == 0 || holder == pid || holder == process.pid);
    };
    std::uint64_t ended = 0;
    for (const Grant &grant : ground_.live.grants(ino)) {
        if (!meant(grant.id, grant.holder.pid)) continue;
        Result<> done = lose(grant.handle, grant.id, GrantReason::revoked);
        while (!done.ok() && must_park(done.error())) {
            TRY(ground_.volume.checkpoint());
            done = lose(grant.handle, grant.id, GrantReason::revoked);
        }
        TRY(std::move(done));
        ++ended;
    }
    // Pins that map nothing.
    for (const Holder &pin : ground_.live.pins(ino))
        if (meant(pin.grant, pin.pid)) ended += ground_.live.unpin(pin.handle, pin.grant) ? 1 : 0;
    if (ended == 0) return Error(ENOENT, "there is no such grant on the file");
    return ended;
}

Result<> Holders::release_quarantine(std::uint64_t id, const Caller &caller) {
    if (caller.uid != 0) return Error(EPERM, "only root may release a quarantine");
    return quarantines_.release(InodeNo(id));
}

}  // namespace pmfs
