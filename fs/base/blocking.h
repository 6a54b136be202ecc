// Proof that nobody makes a system call that may block while it holds a lock that everybody needs.
//
// A lock that is made with Blocking::never (mutex.h) counts itself for the thread that holds it.
// What may block, or asks the system about others (/proc, pidfds, locks of files, sockets), says so
// with may_block() first.  Tests make a violation fatal, and a server logs it: see
// set_blocking_watch().
#pragma once

namespace pmfs {

inline thread_local constinit unsigned brief_locks_held = 0;

// `call`: what is about to be done, a string literal.
void may_block(const char *call);

// Called when may_block() finds a brief lock held; null (as at first): nobody.
void set_blocking_watch(void (*found)(const char *call));
// A watch that names the call on standard error, and aborts.
void abort_on_blocking(const char *call);

}  // namespace pmfs
