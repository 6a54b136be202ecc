// Claims: one operation at a time may change the block map and the size of an inode in several
// steps.
//
// A later operation gets kClaimErrno with the inode, and waits with wait().  An operation of one
// step claims nothing, but asks respect() before it changes a map or a size.  Guarded by a lock of
// its own, inside the volume's.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <unordered_map>
#include <vector>

#include "base/ids.h"
#include "base/mutex.h"
#include "base/result.h"

namespace pmfs {

class Claim;

// moving: its blocks may not be written in place.  freeing: it has no name and no user, and
// operations that find no space wait for its blocks.
enum class ClaimFor : std::uint8_t { change, moving, freeing };

class Claims {
public:
    // Runs what waited for an inode, on another thread.  May be called with any lock held.
    using Resume = std::function<void(InodeNo, std::function<void()>)>;
    explicit Claims(Resume resume) : resume_(std::move(resume)) {}

    // kClaimErrno: another claim than `own` (null: any claim) is held.  With the volume's lock
    // held, success stays true until the lock is released.
    Result<> respect(InodeNo ino, const Claim *own = nullptr);
    // Its blocks are being moved and may not be written in place.
    Result<> respect_moves(InodeNo ino);
    // An inode without references whose blocks are being freed.
    std::optional<InodeNo> freeing() EXCLUDES(mutex_);
    // Runs `again` when the inode is not claimed any more.
    void wait(InodeNo ino, std::function<void()> again) EXCLUDES(mutex_);
    // At the end: drops waiting operations.
    void drop_waiting() EXCLUDES(mutex_);

private:
    friend class Claim;
    struct Claimed {
        const Claim *by = nullptr;
        ClaimFor purpose = ClaimFor::change;
        std::vector<std::function<void()>> waiting;
    };
    Result<> take(InodeNo ino, const Claim *by, ClaimFor purpose) EXCLUDES(mutex_);
    void release(InodeNo ino) EXCLUDES(mutex_);
    void resume_all(InodeNo ino, std::vector<std::function<void()>> ready);

    const Resume resume_;
    std::atomic<std::size_t> count_{0};  // so that the lock is not taken while there is no claim
    Mutex mutex_;
    std::unordered_map<std::uint64_t, Claimed> claimed_ GUARDED_BY(mutex_);
};

// An operation's claim on one inode.
class Claim {
public:
    Claim(Claims &claims, InodeNo ino) : claims_(claims), ino_(ino) {}
    ~Claim() { release(); }
    Claim(const Claim &) = delete;
    Claim &operator=(const Claim &) = delete;

    // With the volume's lock held, shared or exclusively.  kClaimErrno: another operation has it.
    // Taking it again changes its purpose.
    Result<> take(ClaimFor purpose = ClaimFor::change);
    void release();
    bool held() const { return held_; }
    InodeNo ino() const { return ino_; }

private:
    Claims &claims_;
    const InodeNo ino_;
    bool held_ = false;
};

}  // namespace pmfs
