// A fence on every processor that runs a thread of this process: docs/decisions/0002.
#pragma once
#include "base/result.h"

namespace pmfs::pm {

// Must have succeeded once before fence_all_threads().  ENOSYS: the kernel has no membarrier(2),
// or a sandbox forbids it.
Result<> prepare_fence_all_threads();

// When it returns, whatever any thread of this process stored non-temporally or flushed before the
// call is as durable as if that thread had fenced.
void fence_all_threads();

}  // namespace pmfs::pm
