// Values that pmfs uses in place of an errno: an operation cannot continue yet, and why.
#pragma once
#include "base/result.h"

namespace pmfs {

// The operation cannot go on until a group commit has made room, or readers have left freed blocks.
// Nothing is lost: the front end parks the request with Volume::when_ready() and runs it
// again, and an operation that was kept (volume/progress.h) goes on from where it stopped.  It
// never reaches a client.
inline constexpr int kParkErrno = 0x10001;

// The operation waits for the leases of the inode Error::subject() to be given back (docs/seal.md
// "Leases and their events").  Parked in the same way.
inline constexpr int kBreakErrno = 0x10002;

// Another operation has claimed the inode Error::subject() (volume/claims.h).  Parked in the same
// way.
inline constexpr int kClaimErrno = 0x10003;

// The volume is full, but some files have no name any more and are not open: the client is about to
// forget them.  Parked in the same way, for a moment.
inline constexpr int kForgetErrno = 0x10004;

// A holder of the file forbids the operation, and may have closed it already: the kernel tells the
// server of a close(2) later.  Parked in the same way, for Error::subject() nanoseconds.
inline constexpr int kCloseErrno = 0x10006;

// A block of metadata is not in memory, and the thread must not wait for the medium with a lock
// held (pm/no_waiting.h).  The work is repeated when the block has been read in; the error never
// reaches a client.
inline constexpr int kAbsentErrno = 0x10005;

inline bool must_park(const Error &error) {
    const int value = error.errno_value();
    return value == kParkErrno || value == kBreakErrno || value == kClaimErrno ||
           value == kForgetErrno || value == kCloseErrno;
}

// The media contradicts itself, or could not be read.
inline bool is_damage(const Error &error) {
    return error.errno_value() == EUCLEAN || error.errno_value() == EIO;
}

// For work that can be done another time (merging sparse nodes): lack of room is no failure.
inline Result<> best_effort(Result<> result) {
    if (!result.ok() &&
        (result.error().errno_value() == kParkErrno || result.error().errno_value() == ENOSPC))
        return {};
    return result;
}

}  // namespace pmfs
