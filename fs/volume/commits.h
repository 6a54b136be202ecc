// Group commits of image files: one thread, which syncs when it is asked to, when an operation
// waits for room, and when the interval is over (docs/persistence.md).  On DAX media there is no
// thread, and everything is durable at once.
#pragma once
#include <functional>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "base/result.h"
#include "volume/engine.h"
#include "volume/workers.h"

namespace pmfs {

class Commits {
public:
    Commits(Engine &engine, Workers &workers) : engine_(engine), workers_(workers) {}

    // EAGAIN: there are no more threads.
    Result<> start();
    // Ends the thread; what was asked for before is done.
    void stop() EXCLUDES(queue_mutex_);
    // At the end: drops what waits.
    void drop_parked() EXCLUDES(queue_mutex_);

    // One group commit, by this thread; checkpoint: also makes room in the ring.
    Result<> now(bool checkpoint) EXCLUDES(engine_.lock, run_);
    // Makes durable everything that has returned: for SEAL, UNSEAL, prepare and grants.
    Result<> make_durable() EXCLUDES(engine_.lock, run_);
    // The same for Volume::fsync(); `done` is called at once, or by the thread.
    void sync(Completion done) EXCLUDES(engine_.lock, queue_mutex_);
    // Runs `again` on another thread after a checkpoint, for that user.  May be called with any
    // lock held.
    void park(std::uint32_t user, std::function<void()> again) EXCLUDES(queue_mutex_);
    // The same for an operation on that inode, by a thread that may commit itself.
    void await_room(InodeNo ino, std::uint32_t user, std::function<void()> again)
        EXCLUDES(engine_.lock, queue_mutex_);
    // No checkpoint stores records home while `body` runs.
    Result<> between(const std::function<Result<>()> &body) EXCLUDES(engine_.lock, run_);

private:
    struct Parked {
        std::uint32_t user = 0;
        std::function<void()> again;
    };
    bool threaded() const { return thread_.joinable(); }
    void loop();
    Result<> commit(bool checkpoint) EXCLUDES(engine_.lock) REQUIRES(run_);

    Engine &engine_;
    Workers &workers_;
    Mutex run_;  // one group commit at a time; outside the volume's lock
    Mutex queue_mutex_;
    CondVar queue_changed_;
    bool stopping_ GUARDED_BY(queue_mutex_) = false;
    std::vector<Completion> syncing_ GUARDED_BY(queue_mutex_);
    std::vector<Parked> parked_ GUARDED_BY(queue_mutex_);
    std::thread thread_;
};

// At a mount and at the end, for a step that must park although no other thread is active.
Result<> make_room(Engine &engine) REQUIRES(engine.lock);

}  // namespace pmfs
