// Frees inodes that have lost their last name when they are not referenced any more, and finishes
// what a crash interrupted.  These are operations of the volume itself; no request waits for them.
#pragma once
#include <memory>

#include "volume/commits.h"
#include "volume/engine.h"
#include "volume/scheduler.h"

namespace pmfs {

// The last name of the inode is removed, in that transaction.
Result<> orphan(core::Change &change, InodeNo ino, media::Inode *inode);

class Reaper {
public:
    Reaper(Engine &engine, Scheduler &scheduler, Commits &commits)
        : engine_(engine), scheduler_(scheduler), commits_(commits) {}

    // If there is no room in the journal the inode stays on the orphan list, and is freed after a
    // checkpoint, or at the next mount.
    void reap(InodeNo ino) EXCLUDES(engine_.lock);
    // Frees the blocks behind the end of the file, unless a claim or a grant is in the way.  In the
    // same way.
    void trim(InodeNo ino) EXCLUDES(engine_.lock);

private:
    void go_on(const std::shared_ptr<Operation> &operation) EXCLUDES(engine_.lock);

    Engine &engine_;
    Scheduler &scheduler_;
    Commits &commits_;
};

// At a mount, when no other thread needs the lock: finishes what a crash interrupted.
Result<> finish_orphans(Engine &engine) REQUIRES(engine.lock);

// Blocks of files that have no name and are not open: they become free when the client forgets the
// files, a moment after the last unlink.  Only a hint: the lists are read up to a limit.
std::uint64_t leaving_blocks(Engine &engine) REQUIRES_SHARED(engine.lock);
// Whether there are any such files: without blocks they still have an inode.
bool files_leave(Engine &engine) REQUIRES_SHARED(engine.lock);

}  // namespace pmfs
