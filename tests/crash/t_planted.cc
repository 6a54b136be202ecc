// Tests of the sweeps: each kind of mistake that they exist for is planted, and must be found.
#include <doctest/doctest.h>
#include <sys/stat.h>

#include "sweep.h"

using namespace pmfs;
using namespace pmfs::test;

namespace {

Sweep overwrite_and_grow() {
    return {
        "planted",
        [](User &u) {
            u.make("old", S_IFREG | 0644);
            u.write("old", 0, 100000, 0xdd);
            u.make("f", S_IFREG | 0644);
            u.write("f", 0, 10000, 1);
        },
        {[](User &u) { u.unlink("old"); }, [](User &u) { u.write("f", 10000, 60000, 2); },
         [](User &u) { u.make("g", S_IFREG | 0644); }, [](User &u) { u.write("g", 0, 100000, 3); }},
        true};
}

bool caught(SimMedia::Flavour flavour, Plant plant, std::size_t nth = SimMedia::kEvery) {
    Sweep sweep = overwrite_and_grow();
    sweep.plant = plant;
    sweep.plant_nth = nth;
    sweep.seeds = 12;
    return !run(sweep, flavour).violations.empty();
}

}  // namespace

TEST_CASE("crash: the same acts without a planted mistake are clean") {
    CHECK(run(overwrite_and_grow(), SimMedia::Flavour::dax).violations.empty());
    CHECK(run(overwrite_and_grow(), SimMedia::Flavour::image).violations.empty());
}
TEST_CASE("crash: missing flushes are caught") {
    // What was not flushed is in the journal until its tail has passed.
    Sweep sweep{"unflushed", nullptr, {}};
    for (unsigned i = 0; i < 250; ++i)
        sweep.acts.push_back([i](User &u) { u.make("f" + std::to_string(i), S_IFREG | 0644); });
    sweep.plant = Plant::drop_flushes;
    sweep.seeds = 3;
    sweep.step = 401;
    CHECK(!run(sweep, SimMedia::Flavour::dax).violations.empty());
}
TEST_CASE("crash: missing fences are caught") {
    CHECK(caught(SimMedia::Flavour::dax, Plant::drop_fences));
}
TEST_CASE("crash: one missing fence between data and its record is caught") {
    // Some nth fence stands between data and record; dropping that one alone must be noticed.
    bool any = false;
    for (std::size_t nth = 0; nth < 12 && !any; ++nth)
        any = caught(SimMedia::Flavour::dax, Plant::drop_fences, nth);
    CHECK(any);
}
TEST_CASE("crash: a freed block that is used again before its record is safe is caught") {
    // A sync that does nothing makes the allocator believe that the record which freed the blocks
    // is on the disk.
    CHECK(caught(SimMedia::Flavour::image, Plant::drop_syncs));
}
