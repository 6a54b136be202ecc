// Holders that lost their grants: see quarantines.h.
#include "holders/quarantines.h"

#include <algorithm>

#include "base/errors.h"
#include "core/inode.h"
#include "media/geometry.h"

namespace pmfs {

using core::Reader;
using core::Run;
using pm::Lender;

namespace {

GrantReason reason_of(const media::GrantHolder &holder) {
    const std::uint32_t flags = holder.flags.get();
    const std::uint32_t number = (flags & media::kGrantReasons) >> media::kGrantReasonShift;
    if (number != 0 && number <= static_cast<std::uint32_t>(GrantReason::still_mapped))
        return static_cast<GrantReason>(number);
    return (flags & media::kGrantRevoked) != 0 ? GrantReason::late : GrantReason::server_died;
}

}  // namespace

std::size_t Quarantines::count() const {
    ground_.lock.assert_held_shared();
    return lost_.size();
}

std::size_t Quarantines::count_of(std::uint32_t uid) const {
    ground_.lock.assert_held_shared();
    const auto found = by_user_.find(uid);
    return found == by_user_.end() ? 0 : found->second;
}

std::vector<InodeNo> Quarantines::of_file(InodeNo file) const {
    std::vector<InodeNo> records;
    const auto inode = core::read_inode(Reader(ground_.core), file);
    if (!inode.ok()) return records;
    for (auto at = by_file_.lower_bound({file.value(), 0});
         at != by_file_.end() && at->first == file.value(); ++at)
        if (lost_.at(at->second).generation == inode.value()->generation.get())
            records.push_back(InodeNo(at->second));
    return records;
}

bool Quarantines::any_of(InodeNo file) const {
    ground_.lock.assert_held_shared();
    return !of_file(file).empty();
}

// --- the begin

// Makes the record claim what its holder maps, as far as possible; `runs`: the blocks to hold back.
Result<> Quarantines::claim(InodeNo record, GrantReason reason, std::vector<Run> *runs) {
    auto claimed = records_.claim(record, reason);
    // If the volume is too full for the claims, or the file cannot be read, the claims are kept in
    // memory only, and blocks that the file gives up stay in use until fsck finds them.
    if (!claimed.ok() && claimed.error().errno_value() != ENOSPC && !is_damage(claimed.error()))
        return claimed;
    *runs = TRY(records_.claims_of(record));
    if (claimed.ok()) return {};
    const auto more = records_.unclaimed(record);
    if (!more.ok() && !is_damage(more.error())) return more.error();
    if (more.ok()) runs->insert(runs->end(), more.value().begin(), more.value().end());
    std::sort(runs->begin(), runs->end(),
              [](const Run &a, const Run &b) { return a.start < b.start; });
    return {};
}

Result<> Quarantines::begin(InodeNo record, GrantReason reason, System::Finding &found,
                            const Grant *grant) {
    ground_.lock.assert_held();
    if (const auto noted = records_.stored_by(record); !noted.ok() && !is_damage(noted.error()))
        return noted;
    std::vector<Run> runs;
    TRY(claim(record, reason, &runs));
    const auto *inode = TRY(core::read_inode(Reader(ground_.core), record));
    ground_.core.allocator.quarantine().add(record, std::move(runs));
    forget(record);  // (it is not there, unless this is run again)
    Lost lost;
    lost.process = trace_of(record, *inode).process;
    lost.uid = inode->uid.get();
    lost.file = InodeNo(inode->parent.get());
    lost.generation = inode->entries.get();
    lost.reason = reason;
    ++by_user_[lost.uid];
    by_file_.insert({lost.file.value(), record.value()});
    if (grant != nullptr) {
        lost.handle = grant->handle;
        lost.grant = grant->id;
        by_grant_[{lost.handle, lost.grant}] = record;
    }
    lost_[record.value()] = lost;
    caretaker_.watch(record, std::move(found.process), found.use.has_value());
    return {};
}

// --- the end

Result<> Quarantines::settle(InodeNo record) {
    core::Quarantine &held_back = ground_.core.allocator.quarantine();
    forget_bytes(record);  // also on failure, some claims may be gone
    const std::vector<Run> claimed = TRY(records_.claims_of(record));
    // The lock is held, so no other thread sees the volume without them.
    std::vector<Run> kept = held_back.remove(record);
    Result<> done = records_.drop(record, true);
    if (done.ok()) return {};
    // Blocks that it does not claim any more were freed, or belong to the file alone.
    if (const auto left = records_.claims_of(record); left.ok())
        kept = difference(kept, difference(claimed, left.value()));
    held_back.add(record, std::move(kept));
    return done;
}

void Quarantines::forget(InodeNo record) {
    const auto found = lost_.find(record.value());
    if (found == lost_.end()) return;
    forget_bytes(record);
    by_file_.erase({found->second.file.value(), record.value()});
    by_grant_.erase({found->second.handle, found->second.grant});
    if (--by_user_[found->second.uid] == 0) by_user_.erase(found->second.uid);
    lost_.erase(found);
}

Result<> Quarantines::end(InodeNo record) {
    {
        ExclusiveLock held(ground_.lock);
        if (!lost_.contains(record.value())) return {};
        TRY(settle(record));
        forget(record);
    }
    caretaker_.forget(record);
    return {};
}

std::optional<Trace> Quarantines::trace(InodeNo record) {
    SharedLock held(ground_.lock);
    if (!lost_.contains(record.value())) return std::nullopt;
    const auto found = records_.trace(record);
    if (!found.ok()) return std::nullopt;
    return found.value();
}

void Quarantines::look_again(InodeNo record, bool process_ended) {
    const auto traced = trace(record);
    if (!traced) return;
    const System::Finding found = system_.look(*traced, false);
    if (found.life != Life::ended && (!process_ended || found.use)) return;
    const auto done = end(record);
    if (!done.ok() && must_park(done.error()))
        ground_.volume.parked_later(
            [this, record, process_ended] { look_again(record, process_ended); });
}

void Quarantines::look_again_at(InodeNo file) {
    std::vector<InodeNo> records;
    {
        SharedLock held(ground_.lock);
        records = of_file(file);
    }
    for (const InodeNo record : records) look_again(record, false);
}

Result<> Quarantines::drop(HandleId handle, GrantId id) {
    InodeNo record;
    {
        SharedLock held(ground_.lock);
        const auto found = by_grant_.find({handle, id});
        if (found == by_grant_.end() || id == 0)
            return Error(ENOENT, "the handle has no such grant");
        record = found->second;
    }
    if (const auto traced = trace(record)) {
        const auto use = system_.use_of(*traced);
        if (use && *use != Lender::Use::none) return {};  // it ends when the last mapping does
    }
    return end(record);
}

Result<> Quarantines::patiently(const std::function<Result<>()> &step) {
    Result<> done = step();
    while (!done.ok() && must_park(done.error())) {
        TRY(ground_.volume.checkpoint());
        done = step();
    }
    return done;
}

Result<> Quarantines::release(InodeNo record) {
    {
        SharedLock held(ground_.lock);
        if (!lost_.contains(record.value())) return Error(ENOENT, "there is no such quarantine");
    }
    return patiently([&] { return end(record); });
}

// --- at a mount

// Before anything is freed: records by which no process maps any more are removed; the blocks of
// the others stay. All are quarantined before the first is removed, because several may claim a
// block that their file gave up: it becomes free with the last of them, and must not be freed
// twice.
Result<> Quarantines::load() {
    std::vector<Trace> all;
    Result<> listed;
    {
        SharedLock held(ground_.lock);
        listed = records_.list(&all);
    }
    std::vector<InodeNo> ended;
    for (const Trace &one : all) {
        System::Finding found = system_.look(one, true);
        if (found.life == Life::ended) {
            ExclusiveLock held(ground_.lock);
            ground_.core.allocator.quarantine().add(one.record,
                                                    TRY(records_.claims_of(one.record)));
            ended.push_back(one.record);
            continue;
        }
        TRY(patiently([&]() -> Result<> {
            ExclusiveLock held(ground_.lock);
            const auto *inode = TRY(core::read_inode(Reader(ground_.core), one.record));
            return begin(one.record, reason_of(holder_of(*inode)), found, nullptr);
        }));
    }
    TRY(std::move(listed));
    for (const InodeNo record : ended)
        (void)patiently([&]() -> Result<> {  // a damaged one stays, with its claims
            ExclusiveLock held(ground_.lock);
            return settle(record);
        })
            .ok();
    return {};
}

// --- lists

Result<std::vector<Holder>> Quarantines::holders(InodeNo file) {
    SharedLock held(ground_.lock);
    std::vector<Holder> all;
    for (const InodeNo record : of_file(file)) {
        const auto *inode = TRY(core::read_inode(Reader(ground_.core), record));
        Holder holder;
        holder.grant = record.value();
        holder.pid = lost_.at(record.value()).process.pid;
        holder.uid = inode->uid.get();
        const FileBlock first(inode->trim_from.get()), end(inode->rdev.get());
        holder.offset = media::byte_of(first);
        holder.length = (end - first) * media::kBlockSize;
        holder.may_store = (holder_of(*inode).flags.get() & media::kGrantStores) != 0;
        holder.maps = holder.lost = true;
        all.push_back(holder);
    }
    return all;
}

// A file that gives up a block of a record frees it, and then struck() grows: until then, and as
// long as the record's claims stay, the numbers are what they were.
Result<Quarantines::Bytes> Quarantines::bytes_of(InodeNo record, bool *recounted) {
    const std::uint64_t now = ground_.core.allocator.quarantine().struck();
    {
        const Lock held(bytes_lock_);
        const auto known = bytes_.find(record.value());
        if (known != bytes_.end() && known->second.as_of == now) return known->second;
    }
    if (recounted != nullptr) *recounted = true;
    Bytes bytes{.as_of = now};
    for (const Run &run : TRY(records_.claims_of(record)))
        bytes.total += run.blocks * media::kBlockSize;
    const auto kept = records_.given_up(record);
    if (!kept.ok()) bytes.held = bytes.total;  // as far as is known
    if (kept.ok())
        for (const Run &run : kept.value()) bytes.held += run.blocks * media::kBlockSize;
    const Lock held(bytes_lock_);
    bytes_[record.value()] = bytes;
    return bytes;
}

void Quarantines::forget_bytes(InodeNo record) {
    const Lock held(bytes_lock_);
    bytes_.erase(record.value());
}

Result<std::optional<Quarantined>> Quarantines::row(InodeNo record, Trace *trace) {
    SharedLock held(ground_.lock);
    const auto found = lost_.find(record.value());
    if (found == lost_.end()) return std::optional<Quarantined>();
    const auto *inode = TRY(core::read_inode(Reader(ground_.core), record));
    *trace = trace_of(record, *inode);
    Quarantined one;
    one.id = record.value();
    one.file = found->second.file;
    one.process = found->second.process;
    one.uid = inode->uid.get();
    one.may_store = (holder_of(*inode).flags.get() & media::kGrantStores) != 0;
    one.reason = found->second.reason;
    const Bytes bytes = TRY(bytes_of(record, nullptr));
    one.total = bytes.total;
    one.held = bytes.held;
    return std::optional(one);
}

Result<QuarantineTotal> Quarantines::total() {
    std::vector<InodeNo> records;
    {
        SharedLock held(ground_.lock);
        for (const auto &[number, lost] : lost_) records.push_back(InodeNo(number));
    }
    QuarantineTotal sum;
    for (const InodeNo record : records) {
        SharedLock held(ground_.lock);  // not for all of them: others may be waiting
        if (!lost_.contains(record.value())) continue;
        bool recounted = false;
        sum.held += TRY(bytes_of(record, &recounted)).held;
        sum.recounted += recounted;
        ++sum.rows;
    }
    return sum;
}

Result<std::vector<Quarantined>> Quarantines::list(InodeNo from, std::size_t count, InodeNo *next) {
    std::vector<InodeNo> records;
    {
        SharedLock held(ground_.lock);
        auto at = lost_.lower_bound(from.value());
        for (; at != lost_.end() && records.size() < count; ++at)
            records.push_back(InodeNo(at->first));
        *next = at != lost_.end() ? InodeNo(at->first) : InodeNo();
    }
    std::vector<Quarantined> all;
    for (const InodeNo record : records) {
        Trace trace;
        auto one = TRY(row(record, &trace));
        if (!one) continue;
        one->alive = system_.life_of(one->process) == Life::alive;
        one->mapped = system_.use_of(trace) == Lender::Use::some;
        all.push_back(*one);
    }
    return all;
}

}  // namespace pmfs
