// The unit suite's main(): the one translation unit that carries doctest's implementation.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include "base/blocking.h"

// A system call that may block, with the volume's lock held, ends the suite.
[[maybe_unused]] static const bool watched =
    (pmfs::set_blocking_watch(pmfs::abort_on_blocking), true);
