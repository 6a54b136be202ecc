// Messages in bursts, and what is said of those that were not logged.
#include <doctest/doctest.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "base/message_limit.h"

using namespace pmfs;

namespace {

constexpr auto kBurst = MessageLimit::kBurst;
constexpr auto kWindow = MessageLimit::kWindow_ns;
constexpr MessageLimit::Place kHere{"here.cc", 1}, kThere{"here.cc", 2};

struct Messages {
    MessageLimit limit;
    std::vector<std::string> logged;
    void log(const MessageLimit::Place &place, std::uint64_t now_ns, unsigned times = 1) {
        for (unsigned i = 0; i < times; ++i)
            limit.log(
                place, "damage", [this](const std::string &s) { logged.push_back(s); }, now_ns);
    }
};

}  // namespace

TEST_CASE("message limit: a burst is logged, then nothing, then how many were suppressed") {
    Messages messages;
    messages.log(kHere, 100, kBurst);
    CHECK(messages.logged == std::vector<std::string>(kBurst, "damage"));
    messages.log(kHere, 100 + kWindow - 1, 7000);
    CHECK(messages.logged.size() == kBurst);
    messages.logged.clear();
    messages.log(kHere, 100 + kWindow);
    CHECK(messages.logged ==
          std::vector<std::string>{"7000 similar messages suppressed", "damage"});
    messages.log(kHere, 100 + kWindow + 1, kBurst - 1);
    CHECK(messages.logged.size() == 1 + kBurst);
    messages.log(kHere, 100 + kWindow + 2);
    CHECK(messages.logged.size() == 1 + kBurst);
}

TEST_CASE("message limit: rare messages are all logged, whatever the clock begins with") {
    for (const std::uint64_t begin : {std::uint64_t{0}, std::uint64_t{1} << 62}) {
        Messages messages;
        for (unsigned i = 0; i < 100; ++i) messages.log(kHere, begin + i * kWindow);
        CHECK(messages.logged == std::vector<std::string>(100, "damage"));
    }
}

TEST_CASE("message limit: a place that is suppressed keeps no other one from being heard") {
    Messages messages;
    messages.log(kHere, 100, 1000);
    messages.logged.clear();
    messages.log(kThere, 100);
    CHECK(messages.logged == std::vector<std::string>{"damage"});
}

TEST_CASE("message limit: of messages of many threads each is logged or counted") {
    MessageLimit limit;
    std::atomic<unsigned> logged{0};
    const auto count = [&](const std::string &) { ++logged; };
    std::vector<std::jthread> threads;
    for (int i = 0; i < 4; ++i)
        threads.emplace_back([&] {
            for (int j = 0; j < 1000; ++j) limit.log(kHere, "damage", count, 100);
        });
    threads.clear();
    CHECK(logged == kBurst);
    std::string first;
    limit.log(
        kHere, "damage", [&](const std::string &s) { first = first.empty() ? s : first; },
        100 + kWindow);
    CHECK(first == std::to_string(4000 - kBurst) + " similar messages suppressed");
}
