// An operation that takes several steps, and what a step may assume.
//
// A step is one transaction, or several that change no content (splits and merges of trees), or a
// part of something that only reads, or a copy of data.  Between two steps the volume is sound, no
// lock is held, and anything may have changed but this: no other operation has changed the block
// map or the size of an inode that this one has claimed (volume/claims.h).  So each step reads the
// inode again, and asks for a permit again.
//
// A step that has to wait returns an error (must_park()), and has changed nothing that it would
// change again: the step is run again, and earlier steps are not.  When an operation is dropped in
// the middle (its request was interrupted, or could not be kept), the volume is as after a crash at
// this point, and what the operation held in memory is released.  It is dropped without the
// volume's lock.
//
// On an image a step may find that a block of metadata is not in memory (pm/no_waiting.h): any read
// of a step that has not committed yet may return that error, and then the step is run again, too.
#pragma once
#include <cstdint>

#include "base/ids.h"
#include "base/result.h"
#include "pm/no_waiting.h"
#include "volume/claims.h"

namespace pmfs {

// How much is read under one hold of the volume's lock: extents, or pieces of a plan.  That takes
// about 50 us, which is the most that other operations should wait (also a writer for readers).
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
    // When it found the volume full: whether it needs blocks of any kind and has done nothing yet,
    // so that it may wait a moment for files that the client is about to forget.
    virtual bool may_wait_for_space() const { return false; }
    pm::Absent absent;  // for the scheduler: why a step has to be run again
    // A step has to wait for an operation that may wait for this inode: release the claim if
    // possible.
    virtual void waits_for_leases() { claim_.release(); }

protected:
    const InodeNo ino_;  // what it works on
    Claim claim_;        // released with the operation
};

}  // namespace pmfs
