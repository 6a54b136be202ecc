// Free space in one piece, for what cannot lie in many.
#pragma once
#include "volume/engine.h"
#include "volume/scheduler.h"

namespace pmfs {

// Makes a chunk whole by moving what is in it elsewhere, for whoever comes first.  ENOSPC: none can
// be.  must_park(): as for an operation, which stays in the caller's progress.
Result<> gather_free_space(Engine &engine, Scheduler &scheduler, const Caller &caller)
    EXCLUDES(engine.lock);

}  // namespace pmfs
