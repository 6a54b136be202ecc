// The seal suite: the P column of docs/seal.md through every interface that FUSE carries.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>

#include "base/blocking.h"
#include "fixture.h"

int main(int argc, char **argv) {
    // A system call that may block, with the volume's lock held, ends the suite.
    pmfs::set_blocking_watch(pmfs::abort_on_blocking);
    doctest::Context context(argc, argv);
    const int result = context.run();
    if (!context.shouldExit()) std::printf("seal: %u cells\n", pmfs::test::cells_seen());
    return result;
}
