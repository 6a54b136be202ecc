// Locks, waiting requests, and limits: see file_locks.h.
#include "front/clients/file_locks.h"

#include <algorithm>
#include <cerrno>

namespace pmfs::front {
namespace {

// How far the search for a deadlock goes.  (Linux follows ten owners.)
constexpr unsigned kDeadlockDepth = 64;

bool meet(LockKind a, LockKind b) {
    return a == LockKind::exclusive || b == LockKind::exclusive;
}

}  // namespace

// A change of an owner's ranges: those from `begin` to `end` are replaced by at most three.
struct FileLocks::Change {
    Ranges::iterator begin, end;
    std::size_t replaced = 0;
    std::vector<Ranges::value_type> made;
    bool less = false;  // a request may have waited for what is removed

    std::ptrdiff_t growth() const {
        return static_cast<std::ptrdiff_t>(made.size()) - static_cast<std::ptrdiff_t>(replaced);
    }
};

// Adjacent ranges of the same kind become one; parts of other ranges beside the new one stay.
FileLocks::Change FileLocks::plan(Ranges &ranges, const LockRequest &wanted) {
    const auto joins = [&](const Range &range) { return range.kind == wanted.kind; };
    auto at = ranges.lower_bound(wanted.first);
    if (at != ranges.begin()) {
        const auto before = std::prev(at);
        if (before->second.last >= wanted.first ||
            (joins(before->second) && before->second.last + 1 == wanted.first))
            at = before;
    }
    Change change{.begin = at, .end = at, .made = {}};
    std::uint64_t first = wanted.first, last = wanted.last;
    std::optional<Ranges::value_type> left, right;
    for (; at != ranges.end(); ++at) {
        const auto &[from, range] = *at;
        if (from > wanted.last && !(joins(range) && from == wanted.last + 1)) break;
        ++change.replaced;
        if (joins(range)) {
            first = std::min(first, from);
            last = std::max(last, range.last);
            continue;
        }
        change.less |= wanted.kind != LockKind::exclusive;
        if (from < wanted.first)
            left.emplace(from, Range{wanted.first - 1, range.kind, range.handle, range.pid});
        if (range.last > wanted.last) right.emplace(wanted.last + 1, range);
    }
    change.end = at;
    if (left) change.made.push_back(*left);
    if (wanted.kind != LockKind::none)
        change.made.emplace_back(first, Range{last, wanted.kind, wanted.handle, wanted.pid});
    if (right) change.made.push_back(*right);
    return change;
}

// The first range that conflicts with the request, or null.
const FileLocks::Range *FileLocks::conflict(const Ranges &ranges, const LockRequest &wanted,
                                            std::uint64_t *first) {
    auto at = ranges.upper_bound(wanted.first);
    if (at != ranges.begin() && std::prev(at)->second.last >= wanted.first) --at;
    for (; at != ranges.end() && at->first <= wanted.last; ++at)
        if (wanted.kind == LockKind::none || meet(wanted.kind, at->second.kind)) {
            *first = at->first;
            return &at->second;
        }
    return nullptr;
}

// The locks of one file, under the lock of its shard.
class FileLocks::Visit {
public:
    struct Finished {
        std::shared_ptr<Wait> waiter;
        int error;
    };

    Visit(FileLocks &all, File &file) : all_(all), file_(file) {}

    File &file() { return file_; }

    // 0; EAGAIN: a lock of `blocker` conflicts; ENOLCK.
    int set(const LockRequest &wanted, LockOwner *blocker) {
        const int error = wanted.whole ? set_whole(wanted, blocker) : set_range(wanted, blocker);
        if (error == 0 && wanted.kind != LockKind::none) all_.remember(wanted);
        return error;
    }

    void wait(const std::shared_ptr<Wait> &waiter) {
        if (waiter->state == Wait::State::over) return;  // it was cancelled
        LockOwner blocker;
        int error = set(waiter->wanted, &blocker);
        if (error == EAGAIN) error = all_.begin_waiting(*waiter, blocker);
        if (error != EAGAIN) return finish(waiter, error);
        waiter->state = Wait::State::queued;
        all_.remember(waiter->wanted);
        file_.waits.push_back(waiter);
    }

    int cancel(Wait &waiter) {
        if (waiter.state == Wait::State::over) return waiter.result;
        if (waiter.state == Wait::State::queued) {
            all_.stop_waiting(waiter);
            file_.waits.remove_if([&](const auto &other) { return other.get() == &waiter; });
        }
        waiter.state = Wait::State::over;
        return waiter.result = EINTR;
    }

    // Removes those of an owner's ranges that were made with that handle; 0: with any.
    void drop_ranges(const LockOwner &owner, HandleId handle) {
        const auto found = file_.owned.find(owner);
        if (found == file_.owned.end()) return;
        Ranges &ranges = found->second.ranges;
        const std::size_t gone = std::erase_if(ranges, [&](const auto &range) {
            return handle == 0 || range.second.handle == handle;
        });
        if (ranges.empty()) file_.owned.erase(found);
        if (gone != 0) gone_from(owner, gone);
    }
    void drop_handle(HandleId handle) {
        std::vector<LockOwner> owners;
        for (const auto &[owner, owned] : file_.owned) owners.push_back(owner);
        for (const LockOwner &owner : owners) drop_ranges(owner, handle);
        for (auto at = file_.wholes.begin(); at != file_.wholes.end();) {
            const auto [owner, whole] = *at;
            if (whole.handle != handle) {
                ++at;
                continue;
            }
            at = file_.wholes.erase(at);
            gone_from(owner, 1);
        }
        for (auto at = file_.waits.begin(); at != file_.waits.end();) {
            const auto waiter = *at;
            if (waiter->wanted.handle != handle) {
                ++at;
                continue;
            }
            at = file_.waits.erase(at);
            all_.stop_waiting(*waiter);
            finish(waiter, EBADF);
        }
    }

    // Tries again, in order, the requests that waited for owners that have released something.
    void wake() {
        while (!changed_.empty()) {
            const auto changed = std::exchange(changed_, {});
            for (auto at = file_.waits.begin(); at != file_.waits.end();) {
                const auto waiter = *at;
                const bool tries = std::ranges::find(changed, waiter->blocker) != changed.end();
                const int error = tries ? again(*waiter) : EAGAIN;
                if (error == EAGAIN) {
                    ++at;
                    continue;
                }
                at = file_.waits.erase(at);
                finish(waiter, error);
            }
        }
    }
    // To be called with no lock held.
    std::vector<Finished> take_finished() { return std::move(finished_); }

private:
    int set_range(const LockRequest &wanted, LockOwner *blocker) {
        std::uint64_t first = 0;
        if (wanted.kind != LockKind::none)
            for (const auto &[owner, owned] : file_.owned)
                if (owner != wanted.owner && conflict(owned.ranges, wanted, &first) != nullptr) {
                    *blocker = owner;
                    return EAGAIN;
                }
        const auto entry = file_.owned.try_emplace(wanted.owner, Owned{file_.next, {}});
        if (entry.second) ++file_.next;
        Ranges &own = entry.first->second.ranges;
        const Change change = plan(own, wanted);
        const bool charged = all_.charge(wanted, change.growth());
        if (charged) {
            own.erase(change.begin, change.end);
            own.insert(change.made.begin(), change.made.end());
            if (change.less) changed_.push_back(wanted.owner);
        }
        if (own.empty()) file_.owned.erase(entry.first);
        return charged ? 0 : ENOLCK;
    }

    // (As in flock_lock_inode() of fs/locks.c: changing the kind releases the old lock first.)
    int set_whole(const LockRequest &wanted, LockOwner *blocker) {
        const auto own = file_.wholes.find(wanted.owner);
        if (own != file_.wholes.end()) {
            if (own->second.kind == wanted.kind) return 0;
            file_.wholes.erase(own);
            gone_from(wanted.owner, 1);
        }
        if (wanted.kind == LockKind::none) return 0;
        for (const auto &[owner, whole] : file_.wholes)
            if (meet(whole.kind, wanted.kind)) {
                *blocker = owner;
                return EAGAIN;
            }
        if (!all_.charge(wanted, 1)) return ENOLCK;
        file_.wholes.emplace(wanted.owner, Whole{wanted.kind, wanted.handle});
        return 0;
    }

    // For a waiting request: EAGAIN, and it goes on waiting, or its result.
    int again(Wait &waiter) {
        all_.stop_waiting(waiter);
        LockOwner blocker;
        const int error = set(waiter.wanted, &blocker);
        return error == EAGAIN ? all_.begin_waiting(waiter, blocker) : error;
    }

    void gone_from(const LockOwner &owner, std::size_t count) {
        Lock held(all_.accounts_mutex_);
        all_.charge_locked(owner, 0, -static_cast<std::ptrdiff_t>(count));
        changed_.push_back(owner);
    }

    void finish(const std::shared_ptr<Wait> &waiter, int error) {
        waiter->state = Wait::State::over;
        waiter->result = error;
        finished_.push_back({waiter, error});
    }

    FileLocks &all_;
    File &file_;
    std::vector<LockOwner> changed_;
    std::vector<Finished> finished_;
};

void FileLocks::visit(InodeNo ino, const std::function<void(Visit &)> &work) {
    Shard &shard = shard_of(ino);
    std::vector<Visit::Finished> finished;
    {
        Lock held(shard.mutex);
        const auto file = shard.files.try_emplace(ino).first;
        Visit visit(*this, file->second);
        work(visit);
        visit.wake();
        finished = visit.take_finished();
        if (file->second.empty()) shard.files.erase(file);
    }
    for (const auto &[waiter, error] : finished) waiter->done(*waiter, error);
}

int FileLocks::set(const LockRequest &wanted) {
    int error = 0;
    LockOwner blocker;
    visit(wanted.ino, [&](Visit &visit) { error = visit.set(wanted, &blocker); });
    return error;
}

void FileLocks::wait(const std::shared_ptr<Wait> &waiter) {
    visit(waiter->wanted.ino, [&](Visit &visit) { visit.wait(waiter); });
}

int FileLocks::cancel(Wait &waiter) {
    int error = 0;
    visit(waiter.wanted.ino, [&](Visit &visit) { error = visit.cancel(waiter); });
    return error;
}

std::optional<LockRequest> FileLocks::in_the_way(const LockRequest &wanted) {
    std::optional<LockRequest> found;
    visit(wanted.ino, [&](Visit &visit) {
        std::uint64_t since = UINT64_MAX;
        for (const auto &[owner, owned] : visit.file().owned) {
            if ((owner == wanted.owner) != (wanted.kind == LockKind::none)) continue;
            if (owned.since > since) continue;
            std::uint64_t first = 0;
            const Range *range = conflict(owned.ranges, wanted, &first);
            if (range == nullptr) continue;
            since = owned.since;
            found = LockRequest{.ino = wanted.ino,
                                .handle = range->handle,
                                .owner = owner,
                                .kind = range->kind,
                                .first = first,
                                .last = range->last,
                                .pid = range->pid};
        }
    });
    return found;
}

void FileLocks::closed(const LockOwner &owner, InodeNo ino) {
    if (!used_.load()) return;
    visit(ino, [&](Visit &visit) { visit.drop_ranges(owner, 0); });
}

// --- handles

void FileLocks::remember(const LockRequest &made) {
    Lock held(handles_mutex_);
    handles_.emplace(made.handle, made.ino);
    used_.store(true);
}

void FileLocks::released(HandleId handle) {
    if (!used_.load()) return;
    InodeNo ino;
    {
        Lock held(handles_mutex_);
        const auto found = handles_.find(handle);
        if (found == handles_.end()) return;
        ino = found->second;
        handles_.erase(found);
    }
    visit(ino, [&](Visit &visit) { visit.drop_handle(handle); });
}

// --- accounts

bool FileLocks::charge(const LockRequest &request, std::ptrdiff_t more) {
    Lock held(accounts_mutex_);
    const auto full = [more](const auto &table, const auto &key, std::size_t limit) {
        const auto found = table.find(key);
        const std::size_t has = found == table.end() ? 0 : found->second;
        return more > 0 && limit != 0 && has + static_cast<std::size_t>(more) > limit;
    };
    const auto &[client, number] = request.owner;
    const auto owner = owners_.find(request.owner);
    const std::size_t has = owner == owners_.end() ? 0 : owner->second.held;
    const std::uint32_t user = has == 0 ? request.user : owner->second.user;
    const std::size_t kept = user == 0 ? 0 : request.client_max / 8;
    if (full(clients_, client, request.client_max - kept)) return false;
    if (user != 0 && full(users_, std::pair(client, user), request.share_max)) return false;
    if (more > 0 && request.share_max != 0 &&
        has + static_cast<std::size_t>(more) > request.share_max)
        return false;
    charge_locked(request.owner, user, more);
    return true;
}

// `user` is charged if the owner has nothing yet.
void FileLocks::charge_locked(const LockOwner &owner, std::uint32_t user, std::ptrdiff_t more) {
    if (more == 0) return;
    const auto add = [more](auto &table, const auto &key) {
        const auto count = table.try_emplace(key, 0).first;
        count->second += static_cast<std::size_t>(more);
        if (count->second == 0) table.erase(count);
    };
    const auto account = owners_.try_emplace(owner).first;
    Account &its = account->second;
    if (its.held == 0) its.user = user;
    add(clients_, owner.client);
    add(users_, std::pair(owner.client, its.user));
    its.held += static_cast<std::size_t>(more);
    if (its.held == 0) owners_.erase(account);
}

int FileLocks::begin_waiting(Wait &waiter, const LockOwner &blocker) {
    const LockRequest &wanted = waiter.wanted;
    if (!charge(wanted, 1)) return ENOLCK;
    Lock held(accounts_mutex_);
    waiter.blocker = blocker;
    if (wanted.whole) return EAGAIN;
    if (deadlock_locked(wanted.owner, blocker)) {
        charge_locked(wanted.owner, wanted.user, -1);
        return EDEADLK;
    }
    owners_[wanted.owner].waits.push_back(&waiter);
    return EAGAIN;
}

void FileLocks::stop_waiting(Wait &waiter) {
    Lock held(accounts_mutex_);
    std::erase(owners_[waiter.wanted.owner].waits, &waiter);
    charge_locked(waiter.wanted.owner, waiter.wanted.user, -1);
}

// As posix_locks_deadlock() of fs/locks.c: whether it would wait for itself, directly or through
// other owners.  If an owner has several waiting threads the oldest one counts.
bool FileLocks::deadlock_locked(const LockOwner &waiter, LockOwner blocker) const {
    for (unsigned depth = 0; depth < kDeadlockDepth; ++depth) {
        if (blocker == waiter) return true;
        const auto found = owners_.find(blocker);
        if (found == owners_.end() || found->second.waits.empty()) return false;
        blocker = found->second.waits.front()->blocker;
    }
    return false;
}

std::size_t FileLocks::held_by(ClientId client) {
    Lock held(accounts_mutex_);
    const auto found = clients_.find(client);
    return found == clients_.end() ? 0 : found->second;
}

}  // namespace pmfs::front
