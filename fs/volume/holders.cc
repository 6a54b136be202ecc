// Grants: taking, giving back, asking for and losing them (docs/seal.md "T", "B", "R").
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <span>

#include "base/clock.h"
#include "volume/impl.h"
#include "volume/record.h"

namespace pmfs {

using core::Change;
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

}  // namespace

// --- asking for leases

Result<core::MapPermit> Volume::Impl::permit(InodeNo ino, const media::Inode &inode, Move move,
                                             std::uint64_t first, std::uint64_t end,
                                             const Caller &caller) {
    const auto allowed = core::permit(inode, live.standing(ino, first, end), move);
    if (!allowed.ok() && allowed.error().errno_value() == kBreakErrno)
        return begin_break(ino, caller);
    return allowed;
}

bool Volume::Impl::owns(const Grant &grant, const Caller &caller, const Process &process) {
    return (caller.handle != 0 && grant.handle == caller.handle) ||
           same_process(grant.holder, process);
}

Error Volume::Impl::begin_break(InodeNo ino, const Caller &caller) {
    const Process process = options.processes.of_thread(caller.pid);
    for (const Grant &grant : live.grants(ino))
        if (grant.kind == GrantKind::breakable && owns(grant, caller, process))
            return Error(EDEADLK, "the caller holds a lease on the file itself");
    caretaker.begin_break(ino, monotonic_ns() + options.lease_break_ms * std::uint64_t{1'000'000});
    const std::vector<Grant> asked = live.ask_leases(ino);
    const std::uint32_t time = caretaker.time_left_ms(ino, monotonic_ns()).value_or(1);
    tell_holders([&](GrantWatcher &who) {
        for (const Grant &grant : asked) who.lease_breaking(grant.handle, grant.id, time);
    });
    // The last of them may have gone before the break began: then nobody would end it.
    const std::vector<Grant> left = live.grants(ino);
    if (std::none_of(left.begin(), left.end(),
                     [](const Grant &grant) { return grant.kind == GrantKind::breakable; }))
        caretaker.leases_gone(ino);
    const auto handle = live.handle(caller.handle);
    if (caller.nonblocking || (handle && handle->opener.nonblocking))
        return Error(EAGAIN, "the file is leased; its holders were asked to go");
    return Error(kBreakErrno, "waits for the file's leases to be given back").about(ino.value());
}

void Volume::when_ready(const Error &why, std::function<void()> again) {
    Impl &v = *impl_;
    if (why.errno_value() == kBreakErrno)
        return v.caretaker.wait(InodeNo(why.subject()), std::move(again));
    if (why.errno_value() == kClaimErrno)
        return v.file_claims.wait(InodeNo(why.subject()), std::move(again));
    if (v.options.no_background || !v.commit_thread.joinable()) {
        (void)v.commit_now(true).ok();  // a failure shows in the operation that runs again
        if (!v.options.no_background) return v.resume(InodeNo(why.subject()), std::move(again));
        return again();
    }
    v.parked_later(std::move(again));
}

// The time is over: the leases that were not given back are lost.
void Volume::Impl::revoke_leases(InodeNo ino) {
    for (const Grant &grant : live.grants(ino))
        if (grant.kind == GrantKind::breakable && grant.breaking)
            lose_or_park(grant.handle, grant.id, GrantReason::late);
}

// --- giving back, and losing

Result<> Volume::drop_grant(HandleId handle, GrantId id) {
    Impl &v = *impl_;
    std::optional<LiveTable::Dropped> dropped;
    if (id >= core::PinTable::kFirstNumber) {
        if (!v.live.unpin(handle, id)) return Error(ENOENT, "the handle holds no such pin");
        return {};
    }
    const auto grant = v.live.grant(handle, id);
    if (!grant) return v.drop_lost(handle, id);
    if (grant->record != InodeNo() || grant->may_store) {
        // The record goes first: as long as the map cannot change, its claims are true.
        ExclusiveLock held(v.lock);
        const auto still = v.live.grant(handle, id);
        if (!still) return Error(ENOENT, "the handle holds no such grant");
        if (still->record == InodeNo()) {
            TRY(v.stored(still->file, still->uid));
        } else {
            const auto *inode = TRY(core::read_inode(Reader(*v.core), still->record));
            const auto use = v.use_of(still->record, *inode);
            // A child of the holder, or a sharer of its memory, may map on.
            if (use && *use != pm::Lender::Use::none)
                TRY(v.quarantine(still->record, GrantReason::still_mapped));
            else
                TRY(v.drop_record(still->record, false));
        }
        dropped = v.live.drop_grant(handle, id);
    } else {
        dropped = v.live.drop_grant(handle, id);
    }
    if (!dropped) return Error(ENOENT, "the handle holds no such grant");
    v.after_drop(*dropped);
    return {};
}

// A holder whose grant was taken from it says that it has unmapped.
Result<> Volume::Impl::drop_lost(HandleId handle, GrantId id) {
    InodeNo record;
    {
        SharedLock held(lock);
        for (const auto &[number, lost] : quarantined)
            if (lost.handle == handle && lost.grant == id && id != 0) record = InodeNo(number);
        if (record == InodeNo()) return Error(ENOENT, "the handle holds no such grant");
        const auto *inode = TRY(core::read_inode(Reader(*core), record));
        const auto use = use_of(record, *inode);
        if (use && *use != pm::Lender::Use::none) return {};  // it ends with the last mapping
    }
    return end_quarantine(record);
}

void Volume::Impl::after_drop(const LiveTable::Dropped &dropped) {
    if (dropped.leases_gone) caretaker.leases_gone(dropped.ino);
    if (dropped.reap) reap_or_park(dropped.ino);
}

void Volume::lose_grant(HandleId handle, GrantId id) {
    impl_->lose_or_park(handle, id, GrantReason::cut_off);
}

void Volume::Impl::lose_or_park(HandleId handle, GrantId id, GrantReason reason) {
    const auto done = lose(handle, id, reason);
    if (!done.ok()) parked_later([this, handle, id, reason] { lose_or_park(handle, id, reason); });
}

// The record of a grant that ends without its holder's word: it goes, or is quarantined first where
// somebody may map by it.
Result<> Volume::Impl::end_record(const Grant &grant, GrantReason reason) {
    const auto *inode = TRY(core::read_inode(Reader(*core), grant.record));
    if (life_of_record(grant.record, *inode) == Life::ended)
        return drop_record(grant.record, false);
    TRY(quarantine(grant.record, reason));
    quarantined[grant.record.value()].handle = grant.handle;
    quarantined[grant.record.value()].grant = grant.id;
    return {};
}

Result<> Volume::Impl::lose(HandleId handle, GrantId id, GrantReason reason) {
    std::optional<LiveTable::Dropped> dropped;
    {
        ExclusiveLock held(lock);
        const auto grant = live.grant(handle, id);
        if (!grant) return {};
        if (grant->record == InodeNo()) {
            if (grant->may_store) TRY(stored(grant->file, grant->uid));
        } else {
            auto done = end_record(*grant, reason);
            if (!done.ok() && must_park(done.error())) return done;
            // A damaged record: what may be freed cannot be told, so nothing is.
            if (!done.ok()) grants_damaged = true;
        }
        dropped = live.drop_grant(handle, id);
    }
    if (!dropped) return {};
    if (reason == GrantReason::late || reason == GrantReason::revoked)
        tell_holders([&](GrantWatcher &who) { who.grant_revoked(handle, id); });
    after_drop(*dropped);
    return {};
}

// --- taking

Result<> Volume::Impl::may_hold(const media::Inode &inode, const HandleInfo &opened,
                                const GrantRequest &request, const Caller &caller) {
    if (!S_ISREG(inode.mode.get())) return Error(EINVAL, "only regular files have a block map");
    if (request.maps && !opened.read)
        return Error(EBADF, "to be mapped, the file must be open for reading");
    // Who may have the device can read the file there anyway, and so may map what it can read here.
    const bool only_looks = request.maps && !request.may_store && request.trusted;
    if (caller.uid != 0 && caller.uid != inode.uid.get() && !opened.write && !only_looks)
        return Error(EPERM, "a grant takes the owner, root, or a descriptor for writing");
    if (request.forks && (!request.maps || request.may_store))
        return Error(EINVAL, "only a mapping that reads is handed down to children");
    if (request.forks && (inode.flags.get() & media::kSealedFull) == 0)
        return Error(EINVAL, "only a mapping of a file that is sealed full is handed down");
    const std::uint64_t size = inode.size.get();
    if (size == 0 || request.offset >= size)
        return Error(EINVAL, "there is nothing to hold at that offset");
    if (request.length > size - request.offset)
        return Error(EINVAL, "the range reaches past the end of the file");
    return {};
}

Result<std::uint64_t> Volume::Impl::pin_limit(const Caller &caller) {
    if (caller.uid == 0) return ~std::uint64_t{0};
    if (options.pin_quota) return *options.pin_quota;
    const std::uint64_t limit = options.processes.lockable_bytes(caller.pid);
    if (limit == 0) return Error(EPERM, "the user may not pin: RLIMIT_MEMLOCK is 0");
    return limit;
}

namespace {

bool all_zero(std::span<const std::byte> bytes) {
    return bytes.empty() || (bytes[0] == std::byte{0} &&
                             std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0);
}

}  // namespace

// A mapping shows whole units, and behind the end of the file there have to be zeroes: what was cut
// off by a truncation, or stored there through a mapping of before, goes.  EROFS: it cannot.
Result<> Volume::Impl::clear_behind_end(InodeNo ino) {
    const Reader reader(*core);
    const auto *inode = TRY(core::read_inode(reader, ino));
    const std::uint64_t size = inode->size.get(), unit = superblock.mapping_unit.get();
    const std::uint64_t end = (size + unit - 1) / unit * unit;
    for (std::uint64_t at = size; at < end;) {
        const Extent e = TRY(core::find_extent(reader, *inode, ino, at / kBlockSize));
        const std::uint64_t upto = std::min(end, e.end() * kBlockSize);
        const std::uint64_t place = e.start * kBlockSize + (at - e.file_block * kBlockSize);
        const bool clean = e.hole() || all_zero({region->data() + place, upto - at});
        if (!clean && !writable().ok())
            return Error(EROFS,
                         "the file has old bytes behind its end, which a mapping would show, and "
                         "the volume is read-only");
        if (!clean) journal->persist(TRY(zero_written(reader, *inode, ino, at, upto)));
        at = upto;
    }
    return {};
}

// Marks the file as one whose blocks behind its end may hold something.  Somebody is about to
// store: the file's times move, and it loses what any write would take from it.
Result<> Volume::Impl::mark_mapped(const Grant &grant) {
    const InodeNo ino = grant.file;
    TRY(drop_capability(ino));
    Change change(*core);
    TRY(change.begin());
    auto *inode = TRY(core::edit_inode(change, ino));
    inode->flags.set(inode->flags.get() | media::kEverMapped);
    if (grant.uid != 0) kill_setid(inode);
    touch(inode, true);
    TRY(change.commit());
    return {};
}

// kParkErrno: nothing has changed, run it again.  Other failures (damaged media) keep no grant from
// ending, and on a volume that may not be written to nothing is.
Result<> Volume::Impl::stored(InodeNo ino, std::uint32_t uid) {
    if (!writable().ok()) return {};
    const auto moved = [&]() -> Result<> {
        Change change(*core);
        TRY(change.begin());
        auto *inode = TRY(core::edit_inode(change, ino));
        if (uid != 0) kill_setid(inode);  // it may have been given them meanwhile
        touch(inode, true);
        TRY(change.commit());
        return {};
    }();
    if (moved.ok()) attributes_changed(ino);  // it may have ended without a request
    if (!moved.ok() && must_park(moved.error())) return moved;
    return {};
}

// Everything that can refuse, under the lock; then the grant stands.
Result<GrantId> Volume::Impl::take(const HandleInfo &opened, const GrantRequest &request,
                                   const Caller &caller, std::uint64_t *bad_offset) {
    const InodeNo ino = opened.ino;
    const Reader reader(*core);
    TRY(file_claims.respect(ino));
    if (!options.read_only) TRY(settle_trim(ino));
    const auto *inode = TRY(core::read_inode(reader, ino));
    TRY(may_hold(*inode, opened, request, caller));
    const std::uint64_t size = inode->size.get();
    const std::uint64_t unit = superblock.mapping_unit.get() / kBlockSize;
    const std::uint64_t to = request.length == 0 ? size : request.offset + request.length;
    const std::uint64_t first = request.offset / kBlockSize / unit * unit;
    const std::uint64_t end = (blocks_up(to) + unit - 1) / unit * unit;
    std::uint64_t bad = 0;
    const auto fits = core::check_mappable(reader, *inode, ino, first, end, unit, &bad);
    if (!fits.ok() && bad_offset) *bad_offset = bad * kBlockSize;
    TRY(Result<>(fits));
    TRY(core::ask(*inode, live.standing(ino, first, end), move_of(request.kind)));
    // Leases that are being given back are not taken anew before those who wait had their turn.
    if (request.kind == GrantKind::breakable && caretaker.breaking(ino))
        return begin_break(ino, caller);
    if (request.kind == GrantKind::breakable && caretaker.has_turns(ino))
        return Error(EAGAIN, "those who waited for the file's leases come first");

    Grant grant;
    grant.id = live.next_grant_id();
    grant.file = ino;
    grant.handle = opened.handle;
    grant.kind = request.kind;
    grant.may_store = request.may_store;
    grant.maps = request.maps;
    // T and B freeze more than their range, which has no gaps.
    const bool freezes = request.kind != GrantKind::pin && (first != 0 || end < blocks_up(size));
    grant.freezes_gaps = freezes && TRY(core::has_gaps(reader, *inode, ino));
    grant.lent = request.lent && lender.has_value() && !options.read_only;
    if (request.forks && !grant.lent && !options.read_only)
        return Error(EOPNOTSUPP, "this medium cannot tell whether children still map");
    grant.uid = caller.uid;
    grant.first = first;
    grant.end = end;
    const bool pins = request.kind == GrantKind::pin;
    if (pins) {
        core::PinTable::Pin pin;
        pin.first = first;
        pin.end = end;
        pin.handle = opened.handle;
        pin.uid = caller.uid;
        pin.pid = caller.pid;
        grant.pin = TRY(live.pin(ino, pin, TRY(pin_limit(caller))));
        if (!request.maps && !request.may_store) return grant.pin;
    }
    grant.holder = options.processes.of_thread(caller.pid);
    if (auto added = live.add_grant(ino, grant, quarantined.size()); !added.ok()) {
        if (grant.pin != 0) live.unpin(grant.handle, grant.pin);
        return added.error();
    }
    const auto written = write_grant(grant);
    if (!written.ok()) {
        (void)live.drop_grant(grant.handle, grant.id);
        return written.error();
    }
    return grant.id;
}

// What the medium has to know of a grant that stands, before its holder hears of it.
Result<> Volume::Impl::write_grant(const Grant &grant) {
    if (grant.maps || grant.may_store) TRY(clear_behind_end(grant.file));
    if (grant.may_store) TRY(mark_mapped(grant));
    if (!grant.maps || options.read_only) return {};
    const InodeNo record = TRY(add_record(grant, grant.file));
    live.set_record(grant.handle, grant.id, record, grant.holder);
    return {};
}

Result<GrantId> Volume::take_grant(HandleId handle, const GrantRequest &request,
                                   const Caller &caller, std::uint64_t *bad_offset) {
    Impl &v = *impl_;
    if (v.options.writeback) return Error(EOPNOTSUPP, "no grants on a mount with -o writeback");
    const auto opened = v.live.handle(handle);
    if (!opened) return Error(EBADF, "no such open file");
    if (request.may_store) {
        TRY(v.writable());
        if (!opened->write) return Error(EACCES, "to store, the file must be open for writing");
    }
    // Who writes in place and found the file longer than it is may still store behind its end.
    v.readers.wait_for_readers();
    GrantId id;
    {
        ExclusiveLock held(v.lock);
        id = TRY(v.take(*opened, request, caller, bad_offset));
    }
    if (v.options.read_only) return id;
    if (auto durable = v.make_durable(); !durable.ok()) {
        (void)drop_grant(handle, id).ok();
        return durable.error();
    }
    return id;
}

Result<> Volume::adopt_grant(HandleId handle, GrantId id, const Caller &holder) {
    Impl &v = *impl_;
    ExclusiveLock held(v.lock);
    auto grant = v.live.grant(handle, id);
    if (!grant) return Error(ENOENT, "the grant is gone");
    grant->holder = v.options.processes.of_thread(holder.pid);
    grant->uid = holder.uid;
    if (grant->record != InodeNo()) TRY(v.set_record_holder(*grant));
    v.live.set_record(handle, id, grant->record, grant->holder);
    return {};
}

Result<FileDescriptor> Volume::lend_device(HandleId handle, GrantId id) {
    Impl &v = *impl_;
    const auto taken = v.live.grant(handle, id);
    if (!taken) return Error(ENOENT, "the grant is gone");
    if (!taken->lent) return Error(EOPNOTSUPP, "this medium cannot tell who still maps it");
    FileDescriptor lent = TRY(v.lender->open(taken->may_store));
    SharedLock held(v.lock);
    // From here on it cannot end without the lock being seen.
    const auto grant = v.live.grant(handle, id);
    if (!grant || grant->record == InodeNo()) return Error(ENOENT, "the grant is gone");
    const auto *inode = TRY(core::read_inode(Reader(*v.core), grant->record));
    TRY(pm::Lender::mark(lent, lock_number(grant->record, *inode)));
    return lent;
}

Result<std::vector<Holder>> Volume::holders(InodeNo ino) {
    std::vector<Holder> all = impl_->live.pins(ino);
    for (const Grant &g : impl_->live.grants(ino)) {
        std::erase_if(all, [&g](const Holder &pin) { return pin.grant == g.pin; });
        all.push_back({g.id, g.kind, g.handle, g.holder.pid, g.uid, g.first * kBlockSize,
                       (g.end - g.first) * kBlockSize, g.may_store, g.breaking, g.maps});
    }
    const std::vector<Holder> lost = TRY(impl_->lost_holders(ino));
    all.insert(all.end(), lost.begin(), lost.end());
    return all;
}

std::uint32_t Volume::lease_time_left(HandleId handle, GrantId id) {
    const auto grant = impl_->live.grant(handle, id);
    if (!grant || !grant->breaking) return 0;
    return impl_->caretaker.time_left_ms(grant->file, monotonic_ns()).value_or(1);
}

void Volume::set_watcher(GrantWatcher *watcher) {
    ExclusiveLock held(impl_->watcher_lock);
    impl_->watcher = watcher;
}

void Volume::Impl::tell_holders(const std::function<void(GrantWatcher &)> &what) {
    SharedLock held(watcher_lock);
    if (watcher != nullptr) what(*watcher);
}

void Volume::tend(std::uint64_t now_ns) {
    impl_->caretaker.tend(now_ns);
}

}  // namespace pmfs
