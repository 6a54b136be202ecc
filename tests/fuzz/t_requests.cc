// A short run of the fuzzer of the whole server.
#include <doctest/doctest.h>

#include <cstdlib>

#include "fuzz/requests.h"
#include "fuzz/short_run.h"

namespace pmfs::test {
namespace {

constexpr unsigned kRounds = 300;

void mutate_well(std::string *input, std::mt19937 &random) {
    for (unsigned count = 1 + random() % 8; count > 0; --count) mutate_steps(input, random);
}

}  // namespace

TEST_CASE(
    "fuzz: random requests of a host and two guests are answered, and leave a sound volume of "
    "which nobody holds anything") {
    ::setenv("PMFS_FUZZ_SEED", "1", 0);  // the same each time
    // PMFS_FUZZ_ROUNDS=100000 for a long run without libFuzzer.
    const char *const given = std::getenv("PMFS_FUZZ_ROUNDS");
    if (given == nullptr)
        short_run("requests", request_seeds(), kRounds, fuzz_requests, mutate_well);
    else
        short_run("requests", request_seeds(), static_cast<unsigned>(std::atoi(given)),
                  fuzz_requests, mutate_well, std::chrono::hours(24));
}

}  // namespace pmfs::test
