// A fuzzer's loop without libFuzzer: it runs the seeds, and then mutations of them.
#pragma once
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <span>
#include <string>
#include <vector>

namespace pmfs::test {

inline constexpr std::chrono::seconds kShortRunMax(15);  // (a sanitizer is slow)

template <class Fuzz, class Mutate>
void short_run(const char *name, const std::vector<std::string> &seeds, unsigned rounds, Fuzz fuzz,
               Mutate mutate, std::chrono::seconds time_max = kShortRunMax) {
    const char *const given = std::getenv("PMFS_FUZZ_SEED");
    const auto first = given != nullptr ? static_cast<unsigned>(std::strtoul(given, nullptr, 10))
                                        : std::random_device{}();
    // (Before, because a crash leaves no message.)
    std::printf("%s: PMFS_FUZZ_SEED=%u\n", name, first);
    std::fflush(stdout);
    std::mt19937 random(first);
    for (const std::string &seed : seeds) fuzz(std::as_bytes(std::span(seed)));
    const auto end = std::chrono::steady_clock::now() + time_max;
    for (unsigned i = 0; i < rounds && std::chrono::steady_clock::now() < end; ++i) {
        std::string bytes = seeds[random() % seeds.size()];
        mutate(&bytes, random);
        fuzz(std::as_bytes(std::span(bytes)));
    }
}

}  // namespace pmfs::test
