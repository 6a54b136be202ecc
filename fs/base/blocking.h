// Proof that no thread makes a system call that may block while it holds a lock that all others
// need.
//
// A lock made with Blocking::never (mutex.h) is counted for the thread that holds it. Code that may
// block, or asks the system about other processes (/proc, pidfds, file locks, sockets), first calls
// may_block(). Tests make a violation fatal, and a server logs it: see set_blocking_watch().
#pragma once

namespace pmfs {

inline thread_local constinit unsigned brief_locks_held = 0;

// `call`: the call that is about to be made, a string literal.
void may_block(const char *call);

// Called when may_block() finds a brief lock held; null (the default): nothing is called.
void set_blocking_watch(void (*found)(const char *call));
// A watch that prints the call to standard error and aborts.
void abort_on_blocking(const char *call);

}  // namespace pmfs
