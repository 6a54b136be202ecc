// A short run of the fuzzers, for compilers without libFuzzer: the seeds, and some thousand
// mutations of them.
//
// Holds docs/security.md "What clients cannot do".
#include <doctest/doctest.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>

#include "fuzz/virtio.h"

namespace pmfs::test {
namespace {

constexpr unsigned kRounds = 4000;
constexpr std::chrono::seconds kTimeMax(15);  // (a sanitizer is slow)

void mutate(std::string *bytes, std::mt19937 &random) {
    const auto below = [&random](std::size_t end) {
        return random() % std::max<std::size_t>(end, 1);
    };
    for (std::size_t count = 1 + below(4); count > 0 && !bytes->empty(); --count) {
        const std::size_t at = below(bytes->size());
        static constexpr unsigned char kOdd[] = {0, 1, 2, 4, 15, 16, 17, 127, 128, 255};
        switch (below(6)) {
            case 0:
                (*bytes)[at] = static_cast<char>(random());
                break;
            case 1:
                (*bytes)[at] = static_cast<char>(kOdd[below(sizeof kOdd)]);
                break;
            case 2:
                (*bytes)[at] = static_cast<char>((*bytes)[at] ^ 1 << below(8));
                break;
            case 3:
                bytes->erase(at, 1 + below(8));
                break;
            case 4:
                bytes->insert(at, bytes->substr(below(bytes->size()), below(64)));
                break;
            default:
                bytes->replace(at, below(16), std::string(below(16), '\xff'));
                break;
        }
    }
}

template <class Fuzz>
void run(const char *name, const std::vector<std::string> &seeds, Fuzz fuzz) {
    const char *const given = std::getenv("PMFS_FUZZ_SEED");
    const auto first = given != nullptr ? static_cast<unsigned>(std::strtoul(given, nullptr, 10))
                                        : std::random_device{}();
    // (Before, because a crash leaves no message.)
    std::printf("%s: PMFS_FUZZ_SEED=%u\n", name, first);
    std::fflush(stdout);
    std::mt19937 random(first);
    for (const std::string &seed : seeds) fuzz(std::as_bytes(std::span(seed)));
    const auto end = std::chrono::steady_clock::now() + kTimeMax;
    for (unsigned i = 0; i < kRounds && std::chrono::steady_clock::now() < end; ++i) {
        std::string bytes = seeds[random() % seeds.size()];
        mutate(&bytes, random);
        fuzz(std::as_bytes(std::span(bytes)));
    }
}

}  // namespace

TEST_CASE("fuzz: random messages do not harm the vhost-user back end") {
    for (const std::string &seed : message_seeds())
        CHECK(fuzz_messages(std::as_bytes(std::span(seed))));
    run("messages", message_seeds(), fuzz_messages);
}

TEST_CASE("fuzz: random descriptors and rings do not harm a virtqueue") {
    run("queue", queue_seeds(), fuzz_queue);
}

}  // namespace pmfs::test
