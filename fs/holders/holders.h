// Holders of block maps: temporary grants, breakable leases and pins (docs/seal.md), and processes
// that lost one and may still map.
//
// The volume calls it: operations ask permit() with the lock held, and if that returns kBreakErrno,
// they call begin_break() without it. The other functions are requests of holders and of the
// administrator, and take the lock themselves. ground.h lists what this code calls in turn.
#pragma once
#include <atomic>
#include <functional>
#include <vector>

#include "holders/caretaker.h"
#include "holders/quarantines.h"

namespace pmfs {

class Holders {
public:
    explicit Holders(const Ground &ground);
    // Starts the caretaker.  EAGAIN: there are no more threads.
    Result<> start();
    // Operations that wait for leases are dropped, and none can wait any more.
    void stop() { caretaker_.stop(); }
    // Reads the records; before anything is freed, on a volume that may be written to.
    void load(std::optional<pm::Lender> lender);
    // The records of processes that map are damaged: nothing may be freed, so nothing may be
    // written.
    bool damaged() const { return damaged_; }

    // --- for operations, with the volume's lock held
    // Whether the seal and the grants allow a change of the map.  kBreakErrno: call begin_break()
    // to ask for leases.
    Result<core::MapPermit> permit(InodeNo ino, const media::Inode &inode, core::Move move,
                                   FileBlock first, FileBlock end);
    // ... for an operation that leaves bound blocks (Grant) in place.
    Result<core::MapPermit> permit_around(InodeNo ino, const media::Inode &inode, core::Move move,
                                          FileBlock first, FileBlock end);
    // The file's state, for an UNSEAL.
    core::Standing standing(InodeNo ino);

    // --- for operations, without it
    // Asks the holders of the leases of the file in `why` (a kBreakErrno) to give them back.  The
    // result is the operation's answer.  EDEADLK: the caller holds one itself; EAGAIN: the caller
    // does not wait; kBreakErrno: wait().
    Error begin_break(const Error &why, const Caller &caller);
    // Runs `again`, for this user, when the leases of the file in `why` are gone.
    void wait(const Error &why, std::uint32_t user, std::function<void()> again);
    // The handle is being closed.  kParkErrno: nothing has changed, run it again.
    Result<> close_handle(HandleId handle);
    // Before an operation is refused for the file's holders: ends what belongs to processes that
    // the kernel says have ended, and that nobody has told us about yet.
    void end_with_processes(InodeNo ino);
    // The last lease of the file went with a handle.
    void leases_gone(InodeNo ino) { caretaker_.leases_gone(ino); }

    // --- for holders
    Result<GrantId> take(HandleId handle, const GrantRequest &request, const Caller &caller,
                         std::uint64_t *bad_offset);
    Result<> drop(HandleId handle, GrantId id);
    // Ends a grant that its holder did not give back.
    void lose_or_park(HandleId handle, GrantId id, GrantReason reason);
    Result<> adopt(HandleId handle, GrantId id, const Caller &holder);
    // Called before the first store of a grant that announces its stores.  kParkErrno: run it
    // again.
    Result<> begin_stores(HandleId handle, GrantId id);
    Result<FileDescriptor> lend_device(HandleId handle, GrantId id);
    std::uint32_t lease_time_left(HandleId handle, GrantId id);
    void set_watcher(GrantWatcher *watcher) EXCLUDES(watcher_lock_);

    // --- for the administrator
    Result<std::vector<Holder>> list(InodeNo ino);
    Result<std::uint64_t> revoke(InodeNo ino, GrantId id, std::uint32_t pid, const Caller &caller);
    Result<std::vector<Quarantined>> quarantine(InodeNo from, std::size_t count, InodeNo *next) {
        return quarantines_.list(from, count, next);
    }
    Result<QuarantineTotal> quarantine_total() { return quarantines_.total(); }
    Result<> release_quarantine(std::uint64_t id, const Caller &caller);

    // Runs `again` when its turn comes: for volumes without a thread that waits for checkpoints.
    void run(std::function<void()> again) { caretaker_.run(std::move(again)); }
    // Runs `again` for the user at time `at_ns`.
    void run_at(std::uint64_t at_ns, std::uint32_t user, std::function<void()> again) {
        caretaker_.run_at(at_ns, user, std::move(again));
    }
    // Does what is due at `now_ns`: for tests without threads.
    void tend(std::uint64_t now_ns) { caretaker_.tend(now_ns); }

private:
    Result<core::MapPermit> permit(InodeNo ino, const media::Inode &inode, core::Move move,
                                   const core::Standing &standing);
    // What the system knows of the caller, asked before the lock was taken.
    struct Identity {
        Process process;
        std::uint64_t pin_limit = 0;  // bytes that the caller may pin
    };
    Identity identify(const GrantRequest &request, const Caller &caller) const;
    Result<GrantId> take_held(const HandleInfo &opened, const GrantRequest &request,
                              const Caller &caller, const Identity &identity,
                              std::uint64_t *bad_offset) REQUIRES(ground_.lock);
    Result<Grant> design(const HandleInfo &opened, const GrantRequest &request,
                         const Caller &caller, std::uint64_t *bad_offset) REQUIRES(ground_.lock);
    void survey(InodeNo ino) EXCLUDES(ground_.lock);
    Result<> write_grant(const Grant &grant) REQUIRES(ground_.lock);
    Result<> lose(HandleId handle, GrantId id, GrantReason reason) EXCLUDES(ground_.lock);
    // Ends the record of a grant that its holder did not give back.
    Result<> end_record(const Grant &grant, GrantReason reason, Result<System::Finding> &found)
        REQUIRES(ground_.lock);
    Result<> drop_held(const Grant &grant, System::Finding &found) REQUIRES(ground_.lock);
    Result<System::Finding> look(const Grant &grant) EXCLUDES(ground_.lock);
    void after_drop(const LiveTable::Dropped &dropped) EXCLUDES(ground_.lock);
    void revoke_leases(InodeNo ino) EXCLUDES(ground_.lock);
    void tell_holders(const std::function<void(GrantWatcher &)> &what) EXCLUDES(watcher_lock_);

    const Ground ground_;
    System system_;
    Records records_;
    SharedMutex watcher_lock_;  // shared while the watcher is called; never inside the volume's
    GrantWatcher *watcher_ GUARDED_BY(watcher_lock_) = nullptr;
    std::atomic<bool> damaged_{false};
    Caretaker caretaker_;
    Quarantines quarantines_;
};

}  // namespace pmfs
