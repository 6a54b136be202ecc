// For operations that may have to wait for leases.
#pragma once
#include <type_traits>

#include "base/errors.h"
#include "volume/engine.h"

namespace pmfs {

// Runs a body that takes the volume's lock.  If it met leases, asks their holders afterwards to
// give them back.
template <class Body>
std::invoke_result_t<Body> asking(Engine &engine, const Caller &caller, const Body &body)
    EXCLUDES(engine.lock) {
    auto done = body();
    if (done.ok() || done.error().errno_value() != kBreakErrno) return done;
    const Error answer = engine.holders->begin_break(done.error(), caller);
    if (!must_park(answer) && caller.progress != nullptr) caller.progress->drop();
    return answer;
}

}  // namespace pmfs
