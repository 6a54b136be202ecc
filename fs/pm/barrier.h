// Two things that no library provides: a fence on every processor that runs a thread of this
// process (docs/decisions/0002), and reading past the caches.
#pragma once
#include <cstddef>

#include "base/result.h"

namespace pmfs::pm {

// Must succeed once before fence_all_threads() is called.  ENOSYS: the kernel has no membarrier(2),
// or a sandbox forbids it.
Result<> prepare_fence_all_threads();

// When it returns, whatever any thread of this process stored non-temporally or flushed before the
// call is as durable as if that thread had fenced.
void fence_all_threads();

// Writes the lines of the range back and evicts them from this processor's caches, so that the next
// load reads the medium.  Does nothing on processors without such an instruction.
void evict_lines(const std::byte *start, std::size_t size);

}  // namespace pmfs::pm
