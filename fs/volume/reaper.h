// Frees inodes that have lost their last name when nobody refers to them any more, and finishes
// what a crash interrupted.  Operations of the volume's own, for which nobody waits.
#pragma once
#include <memory>

#include "volume/commits.h"
#include "volume/engine.h"
#include "volume/scheduler.h"

namespace pmfs {

// The last name of the inode goes, in that transaction.
Result<> orphan(core::Change &change, InodeNo ino, media::Inode *inode);

class Reaper {
public:
    Reaper(Engine &engine, Scheduler &scheduler, Commits &commits)
        : engine_(engine), scheduler_(scheduler), commits_(commits) {}

    // If there is no room in the journal the inode stays on the orphan list, and goes on behind a
    // checkpoint, or at the next mount.
    void reap(InodeNo ino) EXCLUDES(engine_.lock);
    // Frees what lies behind the end of the file, if nobody minds.  In the same way.
    void trim(InodeNo ino) EXCLUDES(engine_.lock);

private:
    void go_on(const std::shared_ptr<Operation> &operation) EXCLUDES(engine_.lock);

    Engine &engine_;
    Scheduler &scheduler_;
    Commits &commits_;
};

// At a mount, where nobody waits for the lock: what a crash interrupted is finished.
Result<> finish_orphans(Engine &engine) REQUIRES(engine.lock);

// Blocks of files without a name that nobody has open: they are free as soon as the client forgets
// them, which is a moment after the last unlink.  A hint: the lists are followed so far and no
// further.
std::uint64_t leaving_blocks(Engine &engine) REQUIRES_SHARED(engine.lock);
// Whether there are any such files: without blocks they still have an inode.
bool files_leave(Engine &engine) REQUIRES_SHARED(engine.lock);

}  // namespace pmfs
