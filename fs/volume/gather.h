// Free space in one piece, for data that cannot be scattered.
#pragma once
#include "volume/engine.h"
#include "volume/scheduler.h"

namespace pmfs {

// Empties a chunk by moving its blocks elsewhere; the next allocation may take it.  ENOSPC: none
// can be emptied.  must_park(): as for an operation, which stays in the caller's progress.
Result<> gather_free_space(Engine &engine, Scheduler &scheduler, const Caller &caller)
    EXCLUDES(engine.lock);

}  // namespace pmfs
