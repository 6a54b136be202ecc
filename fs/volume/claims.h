// Who may change the block map and the size of an inode in several steps: one operation at a time.
//
// Whoever comes later gets kClaimErrno about the inode, and waits with wait().  An operation of one
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

// moving: nobody may write to its blocks in place.  freeing: it has no name and no user, and
// whoever finds no space waits for what it leaves.
enum class ClaimFor : std::uint8_t { change, moving, freeing };

class Claims {
public:
    // Runs what waited for an inode, on another thread; called with any lock held.
    using Resume = std::function<void(InodeNo, std::function<void()>)>;
    explicit Claims(Resume resume) : resume_(std::move(resume)) {}

    // kClaimErrno: somebody else than `own` (null: anybody) has claimed it.  With the volume's lock
    // held, that is true until it is given up.
    Result<> respect(InodeNo ino, const Claim *own = nullptr);
    // Its blocks are being moved: nobody may write to them in place.
    Result<> respect_moves(InodeNo ino);
    // An inode of whose blocks nobody knows any more, and which are being freed.
    std::optional<InodeNo> freeing() EXCLUDES(mutex_);
    // Runs `again` when nobody claims the inode any more.
    void wait(InodeNo ino, std::function<void()> again) EXCLUDES(mutex_);
    // At the end: what waits is dropped.
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
    std::atomic<std::size_t> count_{0};  // so that nobody takes the lock where nothing is claimed
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

    // With the volume's lock held, in whatever way.  kClaimErrno: somebody else has it.  Taken
    // again, it is for another purpose from now on.
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
