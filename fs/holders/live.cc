// References, handles and grants: see live.h.
#include "holders/live.h"

#include <algorithm>
#include <utility>

#include "base/assert.h"
#include "media/geometry.h"

namespace pmfs {

void LiveTable::reference(InodeNo ino, std::uint64_t count) {
    Shard &shard = shard_of(ino.value());
    Lock lock(shard.mutex);
    shard.inodes[ino.value()].lookups += count;
}

bool LiveTable::reference_known(InodeNo ino) {
    Shard &shard = shard_of(ino.value());
    Lock lock(shard.mutex);
    const auto found = shard.inodes.find(ino.value());
    if (found == shard.inodes.end() || found->second.lookups == 0) return false;
    ++found->second.lookups;
    return true;
}

bool LiveTable::referenced(InodeNo ino) {
    Shard &shard = shard_of(ino.value());
    Lock lock(shard.mutex);
    const auto found = shard.inodes.find(ino.value());
    return found != shard.inodes.end() && found->second.lookups != 0;
}

bool LiveTable::drop_if_idle(Shard &shard, InodeNo ino) {
    const auto found = shard.inodes.find(ino.value());
    if (found == shard.inodes.end() || !found->second.idle()) return false;
    const bool reap = found->second.unlinked;
    if (found->second.drops.any()) --drops_;
    shard.inodes.erase(found);
    return reap;
}

bool LiveTable::forget(InodeNo ino, std::uint64_t count) {
    Shard &shard = shard_of(ino.value());
    Lock lock(shard.mutex);
    const auto found = shard.inodes.find(ino.value());
    if (found == shard.inodes.end()) return false;
    found->second.lookups -= std::min(count, found->second.lookups);  // `count` comes from a client
    return drop_if_idle(shard, ino);
}

bool LiveTable::mark_unlinked(InodeNo ino) {
    Shard &shard = shard_of(ino.value());
    Lock lock(shard.mutex);
    shard.inodes[ino.value()].unlinked = true;
    return drop_if_idle(shard, ino);
}

void LiveTable::set_nameless(InodeNo ino, bool linkable) {
    Shard &shard = shard_of(ino.value());
    Lock lock(shard.mutex);
    Inode &i = shard.inodes[ino.value()];
    i.unlinked = true;
    i.linkable = linkable;
}

void LiveTable::set_named(InodeNo ino) {
    Shard &shard = shard_of(ino.value());
    Lock lock(shard.mutex);
    const auto found = shard.inodes.find(ino.value());
    if (found != shard.inodes.end()) found->second.unlinked = found->second.linkable = false;
}

bool LiveTable::linkable(InodeNo ino) {
    Shard &shard = shard_of(ino.value());
    Lock lock(shard.mutex);
    const auto found = shard.inodes.find(ino.value());
    return found != shard.inodes.end() && found->second.linkable;
}

bool LiveTable::seal_checked(InodeNo ino) {
    Shard &shard = shard_of(ino.value());
    Lock lock(shard.mutex);
    const auto found = shard.inodes.find(ino.value());
    return found != shard.inodes.end() && found->second.seal_checked;
}

void LiveTable::set_seal_checked(InodeNo ino, bool checked) {
    Shard &shard = shard_of(ino.value());
    Lock lock(shard.mutex);
    const auto found = shard.inodes.find(ino.value());
    if (found != shard.inodes.end()) found->second.seal_checked = checked;
}

LiveTable::Counts LiveTable::counts(InodeNo ino) {
    Shard &shard = shard_of(ino.value());
    Lock lock(shard.mutex);
    const auto found = shard.inodes.find(ino.value());
    if (found == shard.inodes.end()) return {};
    const Inode &i = found->second;
    return {i.cached,         i.cached_write, i.direct,   i.direct_write,
            i.grants.count(), i.asked_write,  i.dense_end};
}

bool LiveTable::shared(InodeNo ino) {
    if (untold_.load(std::memory_order_relaxed) == 0) return false;
    Shard &shard = shard_of(ino.value());
    Lock lock(shard.mutex);
    const auto found = shard.inodes.find(ino.value());
    if (found == shard.inodes.end()) return false;
    const Inode &i = found->second;
    return i.untold != 0 && i.cached + i.direct > 1;
}

bool LiveTable::dense_to(InodeNo ino, FileBlock end) {
    Shard &shard = shard_of(ino.value());
    Lock lock(shard.mutex);
    const auto found = shard.inodes.find(ino.value());
    if (found == shard.inodes.end()) return false;
    found->second.dense_end = end;
    return true;
}

void LiveTable::not_dense_from(InodeNo ino, FileBlock first) {
    Shard &shard = shard_of(ino.value());
    Lock lock(shard.mutex);
    const auto found = shard.inodes.find(ino.value());
    if (found != shard.inodes.end())
        found->second.dense_end = std::min(found->second.dense_end, first);
}

// A write may have been on its way when pages were dropped, unless its thread waited for that.
LiveTable::Wrote LiveTable::wrote(HandleId handle, ByteRange bytes, bool ended,
                                  std::uint32_t thread) {
    Shard &shard = shard_of(handle);
    Lock lock(shard.mutex);
    const auto found = shard.handles.find(handle);
    if (found == shard.handles.end()) return {};
    Inode &i = shard.inodes[found->second.ino.value()];
    if (found->second.past_cache()) {
        if (i.cached == 0) note_direct_store(i);
        return {.past_cache = i.cached != 0};
    }
    if (!ended) return {};
    const WrittenPages pages(bytes, media::kBlockSize);
    const auto filled = [&drops = i.drops, thread](const ByteRange &range) {
        return (drops.thread == 0 || drops.thread != thread) &&
               (drops.filled.overlaps(range) || drops.filled_before.overlaps(range));
    };
    const Wrote wrote{.refilled = filled(pages.others), .refilled_part = filled(pages.part)};
    end_drops(i);
    return wrote;
}

// What was filled before this concerns no later write.
void LiveTable::end_drops(Inode &inode) {
    if (!inode.drops.any() || inode.drops.going != 0) return;
    inode.drops = {};
    --drops_;
}

// Pages that are kept have other bytes from now on, also if they are being dropped just now.
void LiveTable::note_direct_store(Inode &inode) {
    inode.stored_directly = true;
    inode.drops.covers_stores = false;
}

void LiveTable::pages_go(InodeNo ino, ByteRange pages, std::uint32_t thread) {
    Shard &shard = shard_of(ino.value());
    Lock lock(shard.mutex);
    const auto found = shard.inodes.find(ino.value());
    if (found == shard.inodes.end()) return;
    Drops &drops = found->second.drops;
    if (!drops.any()) {
        ++drops_;
        drops.thread = thread;
    }
    if (drops.thread != thread) drops.thread = 0;
    drops.alone = drops.going++ == 0;
    drops.covers_stores = !found->second.grants.storing();
    drops.dropped.extend(pages);
    drops.filled_before.add(std::exchange(drops.filled, {}));
}

void LiveTable::pages_gone(InodeNo ino, ByteRange pages) {
    Shard &shard = shard_of(ino.value());
    Lock lock(shard.mutex);
    const auto found = shard.inodes.find(ino.value());
    if (found == shard.inodes.end() || found->second.drops.going == 0) return;
    Drops &drops = found->second.drops;
    if (--drops.going != 0) return;
    if (drops.alone && pages.covers(drops.filled_before.hull())) drops.filled_before = {};
    if (drops.alone && drops.covers_stores && pages.covers(kWhole))
        found->second.stored_directly = false;
    // A write that is on its way has its file open.
    if (found->second.asked_write == 0) end_drops(found->second);
}

void LiveTable::pages_fill(InodeNo ino, ByteRange pages) {
    if (drops_.load() == 0) return;
    Shard &shard = shard_of(ino.value());
    Lock lock(shard.mutex);
    const auto found = shard.inodes.find(ino.value());
    if (found == shard.inodes.end()) return;
    Drops &drops = found->second.drops;
    if (drops.dropped.overlaps(pages)) drops.filled.add(pages);
}

void LiveTable::wrote_back(InodeNo ino) {
    Shard &shard = shard_of(ino.value());
    Lock lock(shard.mutex);
    const auto found = shard.inodes.find(ino.value());
    if (found != shard.inodes.end()) ++found->second.write_backs;
}

std::uint64_t LiveTable::write_backs(InodeNo ino) {
    Shard &shard = shard_of(ino.value());
    Lock lock(shard.mutex);
    const auto found = shard.inodes.find(ino.value());
    return found == shard.inodes.end() ? 0 : found->second.write_backs;
}

std::optional<LiveTable::Opened> LiveTable::open(InodeNo ino, const OpenRequest &request,
                                                 bool direct_io) {
    Shard &shard = shard_of(ino.value());
    Lock lock(shard.mutex);
    Inode &i = shard.inodes[ino.value()];
    bool keep = true;
    if (!direct_io) {
        const bool held =
            i.grants.freezes_gaps() || i.grants.may_store() || (written_back_ && !i.grants.empty());
        if (i.grants.storing() || (request.write && held)) return std::nullopt;
        keep = request.caller.client != 0 || !i.stored_directly;
    } else {
        keep = !i.stored_directly && !i.grants.storing();
    }
    // The shard is the inode's, so that a handle alone leads to both.
    const HandleId id = handle_ids_.fetch_add(1) * kShards + ino.value() % kShards;
    enlist(shard, i, {{id, ino, request.read, request.write, direct_io, request.caller}});
    if (request.caller.client != 0) ++i.untold, ++untold_;
    if (direct_io) {
        ++i.direct;
        i.direct_write += request.write ? 1 : 0;
    } else {
        ++i.cached;
        i.cached_write += request.write ? 1 : 0;
        i.asked_write += request.write && request.caller.client == 0 ? 1 : 0;
    }
    return Opened{id, keep};
}

std::optional<LiveTable::Released> LiveTable::release(HandleId handle) {
    Shard &shard = shard_of(handle);
    Lock lock(shard.mutex);
    const auto found = shard.handles.find(handle);
    if (found == shard.handles.end()) return std::nullopt;
    const OpenHandle info = found->second;
    Inode &i = shard.inodes[info.ino.value()];
    delist(shard, i, info);
    shard.handles.erase(found);
    const bool leased = i.grants.leased();
    for (const Grant &grant : i.grants.of_handle(handle)) remove(i, handle, grant.id);
    for (const bool bound : {false, true})
        while (drop_pin(i, handle, 0, bound)) continue;
    if (info.opener.client != 0) --i.untold, --untold_;
    if (info.direct_io) {
        --i.direct;
        i.direct_write -= info.write ? 1 : 0;
    } else {
        --i.cached;
        i.cached_write -= info.write ? 1 : 0;
        i.asked_write -= info.write && info.opener.client == 0 ? 1 : 0;
        if (i.asked_write == 0) end_drops(i);
    }
    Released r{info.ino, false, i.cached + i.direct == 0, leased && !i.grants.leased(),
               written_back_ && info.write && !info.direct_io};
    r.reap = drop_if_idle(shard, info.ino);
    return r;
}

std::optional<HandleInfo> LiveTable::handle(HandleId handle) {
    Shard &shard = shard_of(handle);
    Lock lock(shard.mutex);
    const auto found = shard.handles.find(handle);
    if (found == shard.handles.end()) return std::nullopt;
    return found->second;
}

bool LiveTable::opened_nonblocking(InodeNo ino, const Caller &caller) {
    Shard &shard = shard_of(ino.value());
    Lock lock(shard.mutex);
    const auto found = shard.inodes.find(ino.value());
    if (found == shard.inodes.end()) return false;
    HandleId id = found->second.first_handle;
    for (unsigned looked_at = 0; id != 0 && looked_at < 64; ++looked_at) {
        const OpenHandle &handle = shard.handles.at(id);
        if (handle.opener.pid == caller.pid && handle.opener.client == caller.client)
            return handle.opener.nonblocking;
        id = handle.next;
    }
    return false;
}

std::vector<HandleInfo> LiveTable::handles(InodeNo ino) {
    Shard &shard = shard_of(ino.value());
    Lock lock(shard.mutex);
    std::vector<HandleInfo> all;
    const auto found = shard.inodes.find(ino.value());
    if (found == shard.inodes.end()) return all;
    for (HandleId id = found->second.first_handle; id != 0;) {
        const OpenHandle &handle = shard.handles.at(id);
        all.push_back(handle);
        id = handle.next;
    }
    return all;
}

// The handles of an inode form a list, so that handles of other inodes need not be searched.
void LiveTable::enlist(Shard &shard, Inode &inode, OpenHandle handle) {
    handle.next = inode.first_handle;
    if (handle.next != 0) shard.handles.at(handle.next).previous = handle.handle;
    inode.first_handle = handle.handle;
    shard.handles[handle.handle] = handle;
}

void LiveTable::delist(Shard &shard, Inode &inode, const OpenHandle &handle) {
    if (handle.next != 0) shard.handles.at(handle.next).previous = handle.previous;
    if (handle.previous != 0)
        shard.handles.at(handle.previous).next = handle.next;
    else
        inode.first_handle = handle.next;
}

// --- grants

LiveTable::Inode *LiveTable::inode_of(Shard &shard, HandleId handle) {
    const auto found = shard.handles.find(handle);
    return found == shard.handles.end() ? nullptr : &shard.inodes[found->second.ino.value()];
}

Grant *LiveTable::find_grant(Shard &shard, HandleId handle, GrantId id) {
    Inode *inode = inode_of(shard, handle);
    return inode == nullptr ? nullptr : inode->grants.find(handle, id);
}

core::Standing LiveTable::standing(InodeNo ino, FileBlock first, FileBlock end) {
    Shard &shard = shard_of(ino.value());
    Lock lock(shard.mutex);
    const auto found = shard.inodes.find(ino.value());
    return found == shard.inodes.end() ? core::Standing{}
                                       : found->second.grants.standing(first, end);
}

core::Standing LiveTable::standing_around(InodeNo ino, FileBlock first, FileBlock end) {
    Shard &shard = shard_of(ino.value());
    Lock lock(shard.mutex);
    const auto found = shard.inodes.find(ino.value());
    return found == shard.inodes.end() ? core::Standing{}
                                       : found->second.grants.standing_around(first, end);
}

std::optional<core::PinTable::Blocks> LiveTable::bound(InodeNo ino, FileBlock from) {
    Shard &shard = shard_of(ino.value());
    Lock lock(shard.mutex);
    const auto found = shard.inodes.find(ino.value());
    if (found == shard.inodes.end()) return std::nullopt;
    const core::PinTable *pins = found->second.grants.pins_if_any(true);
    return pins == nullptr ? std::nullopt : pins->next(from);
}

FileBlock LiveTable::bound_end(InodeNo ino) {
    Shard &shard = shard_of(ino.value());
    Lock lock(shard.mutex);
    const auto found = shard.inodes.find(ino.value());
    if (found == shard.inodes.end()) return FileBlock(0);
    const core::PinTable *pins = found->second.grants.pins_if_any(true);
    return pins == nullptr ? FileBlock(0) : pins->end();
}

void LiveTable::bound_behind_end(InodeNo ino) {
    Shard &shard = shard_of(ino.value());
    Lock lock(shard.mutex);
    const auto found = shard.inodes.find(ino.value());
    if (found != shard.inodes.end()) found->second.bound_behind_end = true;
}

std::vector<Grant> LiveTable::grants(InodeNo ino) {
    Shard &shard = shard_of(ino.value());
    Lock lock(shard.mutex);
    const auto found = shard.inodes.find(ino.value());
    if (found == shard.inodes.end()) return {};
    return found->second.grants.list();
}

std::vector<Grant> LiveTable::grants_of(HandleId handle) {
    Shard &shard = shard_of(handle);
    Lock lock(shard.mutex);
    const Inode *inode = inode_of(shard, handle);
    return inode != nullptr ? inode->grants.of_handle(handle) : std::vector<Grant>();
}

std::optional<Grant> LiveTable::grant(HandleId handle, GrantId id) {
    Shard &shard = shard_of(handle);
    Lock lock(shard.mutex);
    const Grant *grant = find_grant(shard, handle, id);
    if (grant == nullptr) return std::nullopt;
    return *grant;
}

std::vector<Grant> LiveTable::storing_unrecorded() {
    std::vector<Grant> all;
    for (Shard &shard : shards_) {
        Lock lock(shard.mutex);
        for (const auto &[ino, inode] : shard.inodes)
            for (const Grant &grant : inode.grants.list())
                if (grant.stores && grant.record == InodeNo()) all.push_back(grant);
    }
    return all;
}

Result<> LiveTable::add_grant(InodeNo ino, const Grant &grant, Places::Elsewhere lost) {
    Shard &shard = shard_of(ino.value());
    Lock lock(shard.mutex);
    if (!shard.handles.contains(grant.handle)) return Error(EBADF, "the file was closed");
    Inode &i = shard.inodes[ino.value()];
    if (grant.stores ? i.cached != 0 : grant.may_store && i.cached_write != 0)
        return Error(EBUSY, kCached);
    if (grant.freezes_gaps && i.cached_write != 0) return Error(EBUSY, kGapsCached);
    if (kept_back(i)) return Error(EBUSY, kKeptBack);
    {
        Lock counted(places_mutex_);
        if (places_.take(grant.uid, grants_share_, lost) != Places::Taken::yes)
            return Error(EUSERS, "there are too many grants: see -o mappings=");
    }
    if (grant.may_store) note_direct_store(i);
    i.grants.add(grant);
    return {};
}

std::optional<Grant> LiveTable::remove(Inode &inode, HandleId handle, GrantId id) {
    const auto removed = inode.grants.remove(handle, id);
    if (!removed) return std::nullopt;
    Lock counted(places_mutex_);
    places_.give_back(removed->uid);
    return removed;
}

void LiveTable::set_record(HandleId handle, GrantId id, InodeNo record, const Process &holder) {
    Shard &shard = shard_of(handle);
    Lock lock(shard.mutex);
    Grant *grant = find_grant(shard, handle, id);
    if (grant == nullptr) return;
    grant->record = record;
    grant->holder = holder;
}

void LiveTable::begin_stores(HandleId handle, GrantId id) {
    Shard &shard = shard_of(handle);
    Lock lock(shard.mutex);
    Inode *inode = inode_of(shard, handle);
    if (inode == nullptr) return;
    inode->grants.begin_stores(handle, id);
    note_direct_store(*inode);
}

bool LiveTable::note_lent(HandleId handle, GrantId id, InodeNo record) {
    Shard &shard = shard_of(handle);
    Lock lock(shard.mutex);
    Grant *grant = find_grant(shard, handle, id);
    if (grant == nullptr || grant->record != record) return false;
    ++grant->lendings;
    return true;
}

std::optional<LiveTable::Dropped> LiveTable::drop_grant(HandleId handle, GrantId id) {
    Shard &shard = shard_of(handle);
    Lock lock(shard.mutex);
    const auto found = shard.handles.find(handle);
    if (found == shard.handles.end()) return std::nullopt;
    const InodeNo ino = found->second.ino;
    Inode &i = shard.inodes[ino.value()];
    const auto removed = remove(i, handle, id);
    if (!removed) return std::nullopt;
    if (removed->pin != 0) drop_pin(i, handle, removed->pin, removed->bound);
    const bool leases_gone = removed->kind == GrantKind::breakable && !i.grants.leased();
    const core::PinTable *bound = i.grants.pins_if_any(true);
    const bool left_behind = removed->bound && bound->count() == 0 && i.bound_behind_end;
    if (left_behind) i.bound_behind_end = false;
    return Dropped{ino, *removed, drop_if_idle(shard, ino), leases_gone, left_behind};
}

std::vector<Grant> LiveTable::ask_leases(InodeNo ino) {
    Shard &shard = shard_of(ino.value());
    Lock lock(shard.mutex);
    const auto found = shard.inodes.find(ino.value());
    if (found == shard.inodes.end()) return {};
    return found->second.grants.ask_leases();
}

// --- pins

Result<> LiveTable::charge(const core::PinTable::Pin &pin, std::uint64_t blocks,
                           std::uint64_t limit) {
    Lock lock(pins_mutex_);
    const auto found = pinned_.find(pin.uid);
    const std::uint64_t charged = found == pinned_.end() ? 0 : found->second;
    if (blocks != 0 && charged + blocks > limit / media::kBlockSize)
        return Error(ENOMEM, "the user would pin more than RLIMIT_MEMLOCK or pin_quota= allows");
    // A range is charged once but can be pinned many times, and each pin takes memory.
    if (pin.counted && pin_places_.take(pin.uid, grants_share_ * kPinsEach) != Places::Taken::yes)
        return Error(EUSERS, "there are too many pins: see -o mappings=");
    if (blocks != 0) pinned_[pin.uid] = charged + blocks;
    return {};
}

void LiveTable::discharge(std::uint32_t uid, std::uint64_t blocks, bool counted) {
    Lock lock(pins_mutex_);
    if (counted) pin_places_.give_back(uid);
    if (blocks == 0) return;
    std::uint64_t &charged = pinned_[uid];
    charged -= blocks;
    if (charged == 0) pinned_.erase(uid);
}

Result<GrantId> LiveTable::pin(InodeNo ino, core::PinTable::Pin pin, std::uint64_t limit,
                               bool counted, bool bound) {
    Shard &shard = shard_of(ino.value());
    Lock lock(shard.mutex);
    if (!shard.handles.contains(pin.handle)) return Error(EBADF, "the file was closed");
    Inode &inode = shard.inodes[ino.value()];
    if (kept_back(inode)) return Error(EBUSY, kKeptBack);
    core::PinTable &pins = inode.grants.pins(bound);
    pin.counted = counted;
    const std::uint64_t blocks = pins.new_blocks(pin.uid, pin.first, pin.end);
    TRY(charge(pin, blocks, limit));
    const auto number = pins.add(pin);
    if (number) return *number;
    discharge(pin.uid, blocks, counted);
    return Error(ENOMEM, "a block of the file is pinned too often to be counted");
}

// Ends one pin of a handle, that with this number or (0) any.  False when there is none.
bool LiveTable::drop_pin(Inode &inode, HandleId handle, std::uint64_t number, bool bound) {
    const core::PinTable *pins = inode.grants.pins_if_any(bound);
    if (pins == nullptr) return false;
    if (number == 0) number = pins->pin_of(handle);
    const auto removed = inode.grants.pins(bound).remove(handle, number);
    if (!removed) return false;
    discharge(removed->uid, removed->blocks, removed->counted);
    return true;
}

bool LiveTable::unpin(HandleId handle, GrantId pin, bool bound) {
    Shard &shard = shard_of(handle);
    Lock lock(shard.mutex);
    Inode *inode = inode_of(shard, handle);
    return inode != nullptr && drop_pin(*inode, handle, pin, bound);
}

std::vector<Holder> LiveTable::pins(InodeNo ino) {
    Shard &shard = shard_of(ino.value());
    Lock lock(shard.mutex);
    std::vector<Holder> all;
    const auto found = shard.inodes.find(ino.value());
    if (found == shard.inodes.end()) return all;
    const core::PinTable *pins = found->second.grants.pins_if_any(false);
    if (pins == nullptr) return all;
    pins->each([&all](std::uint64_t number, const core::PinTable::Pin &pin) {
        Holder holder;
        holder.grant = number;
        holder.kind = GrantKind::pin;
        holder.handle = pin.handle;
        holder.pid = pin.pid;
        holder.uid = pin.uid;
        holder.offset = media::byte_of(pin.first);
        holder.length = (pin.end - pin.first) * media::kBlockSize;
        all.push_back(holder);
    });
    return all;
}

}  // namespace pmfs
