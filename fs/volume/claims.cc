// Taking claims, respecting and giving them up: see claims.h.
#include "volume/claims.h"

#include "base/errors.h"

namespace pmfs {

namespace {

Error claimed_error(InodeNo ino) {
    return Error(kClaimErrno, "another operation is under way on the file").about(ino.value());
}

}  // namespace

Result<> Claims::respect(InodeNo ino, const Claim *own) {
    if (count_.load(std::memory_order_acquire) == 0) return {};
    Lock held(mutex_);
    const auto found = claimed_.find(ino.value());
    if (found == claimed_.end() || found->second.by == own) return {};
    return claimed_error(ino);
}

Result<> Claims::respect_moves(InodeNo ino) {
    if (count_.load(std::memory_order_acquire) == 0) return {};
    Lock held(mutex_);
    const auto found = claimed_.find(ino.value());
    if (found == claimed_.end() || found->second.purpose != ClaimFor::moving) return {};
    return claimed_error(ino);
}

std::optional<InodeNo> Claims::freeing() {
    if (count_.load(std::memory_order_acquire) == 0) return std::nullopt;
    Lock held(mutex_);
    for (const auto &[ino, claimed] : claimed_)
        if (claimed.purpose == ClaimFor::freeing) return InodeNo(ino);
    return std::nullopt;
}

void Claims::wait(InodeNo ino, std::function<void()> again) {
    {
        Lock held(mutex_);
        const auto found = claimed_.find(ino.value());
        if (found != claimed_.end()) {
            found->second.waiting.push_back(std::move(again));
            return;
        }
    }
    resume_(ino, std::move(again));  // it was given up meanwhile
}

void Claims::drop_waiting() {
    std::vector<std::function<void()>> dropped;  // they may hold claims: destroyed without the lock
    Lock held(mutex_);
    for (auto &[ino, claimed] : claimed_) {
        for (auto &again : claimed.waiting) dropped.push_back(std::move(again));
        claimed.waiting.clear();
    }
    held.unlock();
}

Result<> Claims::take(InodeNo ino, const Claim *by, ClaimFor purpose) {
    std::vector<std::function<void()>> ready;
    {
        Lock held(mutex_);
        const auto [found, fresh] = claimed_.try_emplace(ino.value());
        if (!fresh && found->second.by != by) return claimed_error(ino);
        const bool moved = found->second.purpose == ClaimFor::moving;
        if (moved && purpose != ClaimFor::moving) ready = std::move(found->second.waiting);
        found->second.by = by;
        found->second.purpose = purpose;
        count_.store(claimed_.size(), std::memory_order_release);
    }
    resume_all(ino, std::move(ready));
    return {};
}

void Claims::resume_all(InodeNo ino, std::vector<std::function<void()>> ready) {
    for (auto &again : ready) resume_(ino, std::move(again));
}

void Claims::release(InodeNo ino) {
    std::vector<std::function<void()>> ready;
    {
        Lock held(mutex_);
        const auto found = claimed_.find(ino.value());
        if (found == claimed_.end()) return;
        ready = std::move(found->second.waiting);
        claimed_.erase(found);
        count_.store(claimed_.size(), std::memory_order_release);
    }
    resume_all(ino, std::move(ready));
}

Result<> Claim::take(ClaimFor purpose) {
    TRY(claims_.take(ino_, this, purpose));
    held_ = true;
    return {};
}

void Claim::release() {
    if (!held_) return;
    held_ = false;
    claims_.release(ino_);
}

}  // namespace pmfs
