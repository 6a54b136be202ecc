// The file locks of all clients whose kernels leave them to the server: byte ranges (fcntl), which
// an owner holds, and whole files (flock), which an open file holds. The two kinds do not affect
// each other. They behave as on a local filesystem of Linux (fs/locks.c), between clients.
//
// A lock belongs to the open file with which it was made, and ends with it at the latest. So
// nothing is left of a client that has gone, and nothing outlives the server.
//
// A request that waits occupies no thread: the thread that releases a lock grants it to the waiting
// request, and calls it back.
#pragma once
#include <array>
#include <atomic>
#include <compare>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/ids.h"
#include "base/mutex.h"
#include "volume/types.h"

namespace pmfs::front {

// The owner of locks: a number that a client's kernel gives a process (its table of descriptors) or
// an open file.
struct LockOwner {
    ClientId client = 0;
    std::uint64_t number = 0;
    friend auto operator<=>(const LockOwner &, const LockOwner &) = default;
};

enum class LockKind : std::uint8_t { none, shared, exclusive };  // none: unlock

struct LockRequest {
    static constexpr std::uint64_t kLast = INT64_MAX;  // of the bytes that can be locked

    InodeNo ino;
    HandleId handle = 0;  // of the open file
    LockOwner owner;
    bool whole = false;  // flock
    LockKind kind = LockKind::none;
    std::uint64_t first = 0, last = kLast;  // bytes, both locked
    std::uint32_t pid = 0;                  // of the client's kernel, for F_GETLK
    std::uint32_t user = 0;                 // the caller's, to which its owner's locks are charged
    // How many locks and waiting requests the client may have (an eighth is reserved for root), and
    // each of its owners, and each of its users but root.  0: no limit.
    std::size_t client_max = 0, share_max = 0;
};

class FileLocks {
public:
    // A waiting request, from wait() on.  `done` is called once, with no lock held, by any thread:
    // with 0 (it has the lock), EDEADLK, ENOLCK, or EBADF (its open file has gone).
    struct Wait {
        Wait(const LockRequest &what, std::function<void(const Wait &waiter, int error)> then)
            : wanted(what), done(std::move(then)) {}
        const LockRequest wanted;
        const std::function<void(const Wait &waiter, int error)> done;

    private:
        friend class FileLocks;
        enum class State { fresh, queued, over };
        // Guarded by the shard of its file; `blocker` also by accounts_mutex_.
        State state = State::fresh;
        int result = 0;
        LockOwner blocker;
    };

    // 0; EAGAIN: another owner's lock conflicts; ENOLCK: too many.  An flock that changes its kind
    // releases the old lock first, and does not get it back when it fails (flock(2)).
    int set(const LockRequest &wanted);
    // The same, but it waits for a conflicting lock.  `done` may be called before this returns.
    void wait(const std::shared_ptr<Wait> &waiter);
    // Cancels, before or after wait().  EINTR: `done` is not called.  Otherwise the value with
    // which `done` was or is about to be called.
    int cancel(Wait &waiter);
    // A lock that conflicts with that range; as on Linux, one of the owner that came first.  For
    // kind none: one of the owner's own locks in it.
    std::optional<LockRequest> in_the_way(const LockRequest &wanted);

    // The owner has closed any descriptor of the file: its ranges are released.
    void closed(const LockOwner &owner, InodeNo ino);
    // The open file is closed: releases its locks and ends its waiting requests.
    void released(HandleId handle);

    // How many locks and waiting requests the client has.
    std::size_t held_by(ClientId client);

private:
    struct Range {
        std::uint64_t last;
        LockKind kind;
        HandleId handle;
        std::uint32_t pid;
    };
    using Ranges = std::map<std::uint64_t, Range>;  // by first byte; they do not overlap
    struct Change;                                  // of an owner's ranges
    struct Whole {
        LockKind kind;
        HandleId handle;
    };
    struct Owned {
        std::uint64_t since;  // the order in which owners came to the file
        Ranges ranges;
    };
    struct File {
        std::uint64_t next = 0;
        std::map<LockOwner, Owned> owned;
        std::map<LockOwner, Whole> wholes;
        std::list<std::shared_ptr<Wait>> waits;  // in the order in which they came
        bool empty() const { return owned.empty() && wholes.empty() && waits.empty(); }
    };
    struct Shard {
        Mutex mutex;
        std::unordered_map<InodeNo, File> files GUARDED_BY(mutex);
    };
    // An owner's locks in all files.
    struct Account {
        std::size_t held = 0;             // locks and waits
        std::uint32_t user = 0;           // who is charged: the user of the first lock
        std::vector<const Wait *> waits;  // for ranges
    };
    class Visit;

    static constexpr std::size_t kShards = 64;
    Shard &shard_of(InodeNo ino) { return shards_[ino.value() % kShards]; }
    // Changes the locks of a file, and then serves the requests that wait for them.
    void visit(InodeNo ino, const std::function<void(Visit &)> &work);
    static const Range *conflict(const Ranges &ranges, const LockRequest &wanted,
                                 std::uint64_t *first);
    static Change plan(Ranges &ranges, const LockRequest &wanted);
    void remember(const LockRequest &made) EXCLUDES(handles_mutex_);

    // --- accounts
    // False: `more` would be too many (a decrease never is).
    bool charge(const LockRequest &request, std::ptrdiff_t more) EXCLUDES(accounts_mutex_);
    void charge_locked(const LockOwner &owner, std::uint32_t user, std::ptrdiff_t more)
        REQUIRES(accounts_mutex_);
    // EAGAIN: it waits for `blocker` from now on.  EDEADLK: `blocker` waits for it; ENOLCK: too
    // many.
    int begin_waiting(Wait &waiter, const LockOwner &blocker) EXCLUDES(accounts_mutex_);
    void stop_waiting(Wait &waiter) EXCLUDES(accounts_mutex_);
    bool deadlock_locked(const LockOwner &waiter, LockOwner blocker) const
        REQUIRES(accounts_mutex_);

    std::array<Shard, kShards> shards_;  // by inode
    // Taken inside a shard's mutex, like the next one.
    Mutex accounts_mutex_;
    std::map<LockOwner, Account> owners_ GUARDED_BY(accounts_mutex_);
    std::unordered_map<ClientId, std::size_t> clients_ GUARDED_BY(accounts_mutex_);
    std::map<std::pair<ClientId, std::uint32_t>, std::size_t> users_ GUARDED_BY(accounts_mutex_);
    // Open files with which locks were requested, and their files.
    Mutex handles_mutex_;
    std::unordered_map<HandleId, InodeNo> handles_ GUARDED_BY(handles_mutex_);
    std::atomic<bool> used_{false};  // there ever was a lock
};

}  // namespace pmfs::front
