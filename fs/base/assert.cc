// What a failed PMFS_ASSERT does: one line without allocating, then abort.
#include "base/assert.h"

#include <cstdio>
#include <cstdlib>

namespace pmfs {

void assertion_failed(const char *condition, const char *file, int line) {
    std::fprintf(stderr, "pmfs: a bug in pmfs: %s:%d: not true: %s\n", file, line, condition);
    std::abort();
}

}  // namespace pmfs
