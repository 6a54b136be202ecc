// The one errno value that is not an errno.
#pragma once
#include "base/result.h"

namespace pmfs {

// The operation cannot go on until a checkpoint has made room (image files only).  Nothing is lost
// and it may be run again from its start: the front end parks the request with
// Volume::when_ready() and runs it again.  It never reaches a client.
inline constexpr int kParkErrno = 0x10001;
inline bool must_park(const Error &error) {
    return error.errno_value() == kParkErrno;
}

// For work that may as well be done another time (merging sparse nodes): no room is no failure.
inline Result<> best_effort(Result<> result) {
    if (!result.ok() && (must_park(result.error()) || result.error().errno_value() == ENOSPC))
        return {};
    return result;
}

}  // namespace pmfs
