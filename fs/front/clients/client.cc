// What a client holds: see client.h.
#include "front/clients/client.h"

#include <malloc.h>

#include <algorithm>

namespace pmfs::front {

Client::Client(Volume &volume, ClientId id, Policy policy, Origin origin)
    : volume_(volume), id_(id), policy_(std::move(policy)), origin_(std::move(origin)) {}

std::optional<InodeNo> Client::inode_of(std::uint64_t node) const {
    if (node == kRootNode) return policy_.root;
    if (InodeNo(node) == policy_.root) return std::nullopt;
    return InodeNo(node);
}

bool Client::holds(InodeNo ino) {
    if (ino == policy_.root) return true;
    Shard &shard = shard_of(ino.value());
    Lock held(shard.mutex);
    return shard.lookups.contains(ino.value());
}

Result<> Client::check_node(InodeNo ino, bool by_number) {
    if (holds(ino)) return {};
    if (by_number && whole()) return volume_.check_named(ino);
    return Error(ESTALE, "the client was not given an inode with that number");
}

void Client::add_lookup(InodeNo ino) {
    if (ino == policy_.root) return volume_.forget(ino, 1);  // it has the root without a reference
    Shard &shard = shard_of(ino.value());
    Lock held(shard.mutex);
    std::uint64_t &count = shard.lookups[ino.value()];
    if (count++ == 0) nodes_.fetch_add(1, std::memory_order_relaxed);
}

void Client::forget(InodeNo ino, std::uint64_t count) {
    bool last = false;
    {
        Shard &shard = shard_of(ino.value());
        Lock held(shard.mutex);
        const auto found = shard.lookups.find(ino.value());
        if (found == shard.lookups.end()) return;
        count = std::min(count, found->second);
        found->second -= count;
        last = found->second == 0;
        if (last) {
            shard.lookups.erase(found);
            owed_.fetch_sub(shard.owed.erase(ino.value()), std::memory_order_relaxed);
        }
    }
    volume_.forget(ino, count);
    if (last) count_forgotten(nodes_.fetch_sub(1, std::memory_order_relaxed) - 1);
}

// malloc(3) keeps the memory of what was freed until it is told to look for whole pages in it. That
// takes longer the more there is, so it is told only when more nodes have gone than are left: the
// time for all of them grows with their number and no faster.
void Client::count_forgotten(std::size_t left) {
    constexpr std::size_t kFew = 10'000;  // about 3 MiB
    const std::size_t count = forgotten_.fetch_add(1, std::memory_order_relaxed) + 1;
    if (count < std::max(kFew, left)) return;
    forgotten_.fetch_sub(count, std::memory_order_relaxed);
    volume_.run_later(0, 0, true, [] { ::malloc_trim(0); });
}

void Client::owe_attributes(InodeNo ino) {
    Shard &shard = shard_of(ino.value());
    Lock held(shard.mutex);
    if (!shard.lookups.contains(ino.value())) return;
    if (shard.owed.insert(ino.value()).second) owed_.fetch_add(1, std::memory_order_relaxed);
}

bool Client::owes_attributes(InodeNo ino) {
    if (owed_.load(std::memory_order_relaxed) == 0) [[likely]]
        return false;
    Shard &shard = shard_of(ino.value());
    Lock held(shard.mutex);
    return shard.owed.contains(ino.value());
}

void Client::paid_attributes(InodeNo ino) {
    if (owed_.load(std::memory_order_relaxed) == 0) [[likely]]
        return;
    Shard &shard = shard_of(ino.value());
    Lock held(shard.mutex);
    owed_.fetch_sub(shard.owed.erase(ino.value()), std::memory_order_relaxed);
}

Result<HandleInfo> Client::check_handle(HandleId handle, InodeNo ino, bool writes) {
    const HandleInfo info = TRY(volume_.handle_info(handle));
    if (info.opener.client != id_) return Error(EBADF, "the handle belongs to another client");
    if (info.ino != ino) return Error(EBADF, "the handle belongs to another file");
    if (writes && !info.write) return Error(EBADF, "the file is not open for writing");
    return info;
}

void Client::opened(HandleId handle) {
    Shard &shard = shard_of(handle);
    Lock held(shard.mutex);
    shard.grants.emplace(handle, 0);
    handles_.fetch_add(1, std::memory_order_relaxed);
}

bool Client::has_open(HandleId handle) {
    Shard &shard = shard_of(handle);
    Lock held(shard.mutex);
    return shard.grants.contains(handle);
}

bool Client::closed(HandleId handle) {
    Shard &shard = shard_of(handle);
    Lock held(shard.mutex);
    const auto found = shard.grants.find(handle);
    if (found == shard.grants.end()) return false;
    grants_.fetch_sub(found->second, std::memory_order_relaxed);
    shard.grants.erase(found);
    handles_.fetch_sub(1, std::memory_order_relaxed);
    return true;
}

// Grants may end without a request: a lease whose time was over, a mapping whose process has died.
// The volume knows; it is asked when all places are taken.
void Client::recount_grants() {
    std::vector<HandleId> counted;
    for (Shard &shard : shards_) {
        Lock held(shard.mutex);
        for (const auto &[handle, grants] : shard.grants)
            if (grants != 0) counted.push_back(handle);
    }
    for (const HandleId handle : counted) {
        const auto info = volume_.handle_info(handle);
        const auto holders = info.ok() ? volume_.holders(info.value().ino) : info.error();
        if (!holders.ok()) continue;
        const auto there = static_cast<std::size_t>(std::ranges::count_if(
            holders.value(),
            [handle](const Holder &holder) { return holder.handle == handle && !holder.lost; }));
        Shard &shard = shard_of(handle);
        Lock held(shard.mutex);
        const auto found = shard.grants.find(handle);
        if (found == shard.grants.end() || found->second <= there) continue;
        grants_.fetch_sub(found->second - there, std::memory_order_relaxed);
        found->second = there;
    }
}

Result<> Client::take_grant_place(HandleId handle) {
    if (policy_.grants_max != 0 && grants_.load(std::memory_order_relaxed) >= policy_.grants_max)
        recount_grants();
    Shard &shard = shard_of(handle);
    Lock held(shard.mutex);
    const auto found = shard.grants.find(handle);
    if (found == shard.grants.end()) return Error(EBADF, "the client has no such open file");
    const std::size_t had = grants_.fetch_add(1, std::memory_order_relaxed);
    if (policy_.grants_max != 0 && had >= policy_.grants_max) {
        grants_.fetch_sub(1, std::memory_order_relaxed);
        return Error(ENOLCK, "the client has too many grants");
    }
    ++found->second;
    return {};
}

void Client::free_grant_place(HandleId handle) {
    Shard &shard = shard_of(handle);
    Lock held(shard.mutex);
    const auto found = shard.grants.find(handle);
    if (found == shard.grants.end() || found->second == 0) return;
    --found->second;
    grants_.fetch_sub(1, std::memory_order_relaxed);
}

Result<> Client::check_room(bool for_node, bool for_handle) const {
    const auto full = [](const std::atomic<std::size_t> &used, std::size_t limit) {
        return limit != 0 && used.load(std::memory_order_relaxed) >= limit;
    };
    if (for_node && full(nodes_, policy_.lookups_max))
        return Error(ENFILE, "the client holds too many files");
    if (for_handle && full(handles_, policy_.handles_max))
        return Error(EMFILE, "the client has too many open files");
    return {};
}

Result<> Client::start_notifier(Notifier::Kernel kernel) {
    notifier_ = std::make_unique<Notifier>(std::move(kernel));
    return notifier_->start();
}

bool Client::opened_directory(InodeNo ino) {
    Shard &shard = shard_of(ino.value());
    Lock held(shard.mutex);
    return ++shard.directories[ino.value()] == 1;
}

void Client::closed_directory(InodeNo ino) {
    Shard &shard = shard_of(ino.value());
    Lock held(shard.mutex);
    const auto found = shard.directories.find(ino.value());
    if (found != shard.directories.end() && --found->second == 0) shard.directories.erase(found);
}

void Client::forget_all(const std::function<void(HandleId)> &release) {
    std::vector<HandleId> handles;
    std::vector<std::pair<InodeNo, std::uint64_t>> lookups;
    for (Shard &shard : shards_) {
        Lock held(shard.mutex);
        for (const auto &[handle, grants] : shard.grants) handles.push_back(handle);
        for (const auto &[ino, count] : shard.lookups) lookups.emplace_back(ino, count);
    }
    for (const HandleId handle : handles) release(handle);
    for (const auto &[ino, count] : lookups) forget(ino, count);
}

}  // namespace pmfs::front
