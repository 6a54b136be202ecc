// The seal suite: the P column of docs/seal.md through every door that FUSE carries.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>

#include "fixture.h"

int main(int argc, char **argv) {
    doctest::Context context(argc, argv);
    const int result = context.run();
    if (!context.shouldExit()) std::printf("seal: %u cells\n", pmfs::test::cells_seen());
    return result;
}
