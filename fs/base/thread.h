// Starting a thread may fail: a limit on processes or memory is an error like any other.
#pragma once
#include <functional>
#include <thread>

#include "base/result.h"

namespace pmfs {

// Starts a thread of that name (at most 15 bytes), in which all signals are blocked but those of
// its own faults (SIGBUS of a bad page).  EAGAIN: the system allows no more threads.
Result<std::thread> start_thread(const char *name, std::function<void()> body);

}  // namespace pmfs
