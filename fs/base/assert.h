// PMFS_ASSERT: a check on ourselves, in every build.
//
// For conditions that only a bug in pmfs can make false, never for anything that a medium, a
// request or a guest says: that is an Error (result.h).  A failed assertion prints its place to
// standard error and aborts, so that the journal, and not a confused server, decides what the
// volume holds.
#pragma once

namespace pmfs {

[[noreturn, gnu::cold]] void assertion_failed(const char *condition, const char *file, int line);

}  // namespace pmfs

#define PMFS_ASSERT(condition)                                                                     \
    (__builtin_expect(static_cast<bool>(condition), 1)                                             \
         ? static_cast<void>(0)                                                                    \
         : ::pmfs::assertion_failed(#condition, __FILE__, __LINE__))
