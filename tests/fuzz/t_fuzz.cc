// A short run of the fuzzers, for compilers without libFuzzer: the seeds, and some thousand
// mutations of them.
//
// Holds docs/security.md "What clients cannot do".
#include <doctest/doctest.h>

#include <random>

#include "fuzz/short_run.h"
#include "fuzz/virtio.h"

namespace pmfs::test {
namespace {

constexpr unsigned kRounds = 4000;

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

}  // namespace

TEST_CASE("fuzz: random messages do not harm the vhost-user back end") {
    for (const std::string &seed : message_seeds())
        CHECK(fuzz_messages(std::as_bytes(std::span(seed))));
    short_run("messages", message_seeds(), kRounds, fuzz_messages, mutate);
}

TEST_CASE("fuzz: random descriptors and rings do not harm a virtqueue") {
    short_run("queue", queue_seeds(), kRounds, fuzz_queue, mutate);
}

}  // namespace pmfs::test
