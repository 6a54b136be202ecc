// An operation that takes several steps, and what a step may assume.
//
// A step is one transaction, or several that change no content (splits and merges of trees), or a
// part of something that only reads, or a copy of data.  Between two steps the volume is sound, no
// lock is held, and anything may have changed but this: no other operation has changed the block
// map or the size of an inode that this one has claimed (volume/claims.h).  So a step reads the
// inode anew, and asks the seal anew.
//
// A step that has to wait says so with an error (must_park()), and has changed nothing that it
// would change again: it is run again, and no step before it is.  Whoever drops an operation in the
// middle (a request was interrupted, or had nowhere to be kept) leaves what a crash would leave
// there, and what it held in memory goes with it.  Dropped without the volume's lock.
//
// On an image a step may find that a block of metadata is not in memory (pm/no_waiting.h): any read
// of a step that has not committed yet may say so, and the step is run again, too.
#pragma once
#include <cstdint>

#include "base/ids.h"
#include "base/result.h"
#include "pm/no_waiting.h"
#include "volume/claims.h"

namespace pmfs {

// What is looked at under one hold of the volume's lock: extents, or pieces of a plan.  About 50 us,
// which is what others should wait at most (a writer for readers, too).
inline constexpr unsigned kLookedAt = 128;

enum class Hold : std::uint8_t { exclusive, shared, none };  // of the volume's lock, for a step

class Operation {
public:
    Operation(Claims &claims, InodeNo ino) : ino_(ino), claim_(claims, ino) {}
    virtual ~Operation() = default;
    Operation(const Operation &) = delete;
    Operation &operator=(const Operation &) = delete;

    virtual Hold hold() const { return Hold::exclusive; }
    // True: the operation is done.
    virtual Result<bool> step() = 0;

    InodeNo ino() const { return ino_; }
    // Of one that found the volume full: whether it wants blocks of any kind and has done nothing
    // yet, so that it may wait a moment for files that the client is about to forget.
    virtual bool may_wait_for_space() const { return false; }
    pm::Absent absent;  // the scheduler's: what a step has to be done again for
    // A step has to wait for somebody who may wait for the inode: give it free if that may be.
    virtual void waits_for_leases() { claim_.release(); }

protected:
    const InodeNo ino_;  // what it works on
    Claim claim_;        // released with the operation
};

}  // namespace pmfs
