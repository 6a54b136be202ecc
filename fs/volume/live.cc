// References, handles and grants: see live.h.
#include "volume/live.h"

#include <algorithm>

#include "base/assert.h"

namespace pmfs {

void LiveTable::reference(InodeNo ino, std::uint64_t count) {
    Shard &shard = shard_of(ino.value());
    Lock lock(shard.mutex);
    shard.inodes[ino.value()].lookups += count;
}

bool LiveTable::drop_if_idle(Shard &shard, InodeNo ino) {
    const auto found = shard.inodes.find(ino.value());
    if (found == shard.inodes.end() || !found->second.idle()) return false;
    const bool reap = found->second.unlinked;
    shard.inodes.erase(found);
    return reap;
}

bool LiveTable::forget(InodeNo ino, std::uint64_t count) {
    Shard &shard = shard_of(ino.value());
    Lock lock(shard.mutex);
    const auto found = shard.inodes.find(ino.value());
    if (found == shard.inodes.end()) return false;
    found->second.lookups -= std::min(count, found->second.lookups);  // a client's count
    return drop_if_idle(shard, ino);
}

bool LiveTable::mark_unlinked(InodeNo ino) {
    Shard &shard = shard_of(ino.value());
    Lock lock(shard.mutex);
    shard.inodes[ino.value()].unlinked = true;
    return drop_if_idle(shard, ino);
}

bool LiveTable::referenced(InodeNo ino) {
    Shard &shard = shard_of(ino.value());
    Lock lock(shard.mutex);
    return shard.inodes.contains(ino.value());
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
    Counts c{i.cached, i.cached_write, i.direct, i.grants.size(), false};
    for (const core::Grant &grant : i.grants) c.storing = c.storing || grant.may_store;
    return c;
}

std::optional<LiveTable::Opened> LiveTable::open(InodeNo ino, bool write, bool direct_io,
                                                 const Caller &opener) {
    Shard &shard = shard_of(ino.value());
    Lock lock(shard.mutex);
    Inode &i = shard.inodes[ino.value()];
    bool keep = true;
    if (!direct_io) {
        for (const core::Grant &grant : i.grants)
            if (grant.may_store) return std::nullopt;
        keep = !std::exchange(i.stored_directly, false);
    }
    // The shard is the inode's, so that a handle alone leads to both.
    const HandleId id = handle_ids_.fetch_add(1) * kShards + ino.value() % kShards;
    shard.handles[id] = {id, ino, write, direct_io, opener};
    if (direct_io) {
        ++i.direct;
    } else {
        ++i.cached;
        i.cached_write += write ? 1 : 0;
    }
    return Opened{id, keep};
}

std::optional<LiveTable::Released> LiveTable::release(HandleId handle) {
    Shard &shard = shard_of(handle);
    Lock lock(shard.mutex);
    const auto found = shard.handles.find(handle);
    if (found == shard.handles.end()) return std::nullopt;
    const HandleInfo info = found->second;
    shard.handles.erase(found);
    Inode &i = shard.inodes[info.ino.value()];
    std::erase_if(i.grants, [&](const core::Grant &g) { return g.handle == handle; });
    if (info.direct_io) {
        --i.direct;
    } else {
        --i.cached;
        i.cached_write -= info.write ? 1 : 0;
    }
    Released r{info.ino, false, i.cached + i.direct == 0};
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

std::vector<HandleInfo> LiveTable::handles(InodeNo ino) {
    Shard &shard = shard_of(ino.value());
    Lock lock(shard.mutex);
    std::vector<HandleInfo> all;
    for (const auto &[id, info] : shard.handles)
        if (info.ino == ino) all.push_back(info);
    return all;
}

std::vector<core::Grant> LiveTable::grants(InodeNo ino) {
    Shard &shard = shard_of(ino.value());
    Lock lock(shard.mutex);
    const auto found = shard.inodes.find(ino.value());
    if (found == shard.inodes.end()) return {};
    return found->second.grants;
}

bool LiveTable::add_grant(InodeNo ino, const core::Grant &grant, bool cached_ok) {
    Shard &shard = shard_of(ino.value());
    Lock lock(shard.mutex);
    if (!shard.handles.contains(grant.handle)) return false;
    Inode &i = shard.inodes[ino.value()];
    if (grant.may_store && i.cached != 0 && !cached_ok) return false;
    if (grant.may_store) i.stored_directly = true;
    i.grants.push_back(grant);
    return true;
}

std::optional<LiveTable::Dropped> LiveTable::drop_grant(HandleId handle, GrantId grant) {
    Shard &shard = shard_of(handle);
    Lock lock(shard.mutex);
    const auto found = shard.handles.find(handle);
    if (found == shard.handles.end()) return std::nullopt;
    const InodeNo ino = found->second.ino;
    Inode &i = shard.inodes[ino.value()];
    const auto erased = std::erase_if(
        i.grants, [&](const core::Grant &g) { return g.id == grant && g.handle == handle; });
    if (erased == 0) return std::nullopt;
    return Dropped{ino, drop_if_idle(shard, ino)};
}

}  // namespace pmfs
