// For measurements: the longest time that a thread worked while it held a brief lock (blocking.h).
//
// CPU time of the thread, so that what the kernel does meanwhile does not count.  Nothing is
// measured, and only a flag is read, unless watch_holds(true) was called.
#pragma once
#include <atomic>
#include <cstdint>

namespace pmfs {

inline std::atomic<bool> holds_watched{false};

void watch_holds(bool on);  // starts from zero
std::uint64_t longest_hold_ns();

void hold_begins();
void hold_ends();

}  // namespace pmfs
