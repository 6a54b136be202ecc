// The errno values that are not errnos.
#pragma once
#include "base/result.h"

namespace pmfs {

// The operation cannot go on until a checkpoint has made room (image files only).  Nothing is lost
// and it may be run again from its start: the front end parks the request with
// Volume::when_ready(), on the thread that got it, and runs it again.  It never reaches a client.
inline constexpr int kParkErrno = 0x10001;

// The operation waits for the leases of the inode that the error is about() to be given back
// (docs/seal.md "B"); nothing happened yet.  Parked and run again in the same way.
inline constexpr int kBreakErrno = 0x10002;

inline bool must_park(const Error &error) {
    return error.errno_value() == kParkErrno || error.errno_value() == kBreakErrno;
}

// The media contradicts itself, or could not be read.
inline bool is_damage(const Error &error) {
    return error.errno_value() == EUCLEAN || error.errno_value() == EIO;
}

// For work that may as well be done another time (merging sparse nodes): no room is no failure.
inline Result<> best_effort(Result<> result) {
    if (!result.ok() &&
        (result.error().errno_value() == kParkErrno || result.error().errno_value() == ENOSPC))
        return {};
    return result;
}

}  // namespace pmfs
