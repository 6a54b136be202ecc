// How many threads of a pool wait for requests.
#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "front/transports/standby.h"

using namespace pmfs;
using front::Standby;

namespace {

// Threads that each wait for work until they are given some, which lasts until they may go on.
class Pool {
public:
    Pool(std::size_t threads, unsigned waiting_max) : standby(waiting_max) {
        for (std::size_t i = 0; i < threads; ++i)
            threads_.emplace_back([this] {
                while (standby.enter()) serve_one();
            });
    }
    ~Pool() {
        over_ = true;
        standby.end();
        requests_.fetch_add(1'000'000);
        requests_.notify_all();
        go_on();
        for (auto &thread : threads_) thread.join();
    }
    void request() {
        requests_.fetch_add(1);
        requests_.notify_all();
    }
    void go_on() {
        busy_may_end_.fetch_add(1);
        busy_may_end_.notify_all();
    }
    bool comes_to(unsigned waiting, std::size_t standing_by) {
        for (int i = 0; i < 5000; ++i) {
            if (standby.waiting() == waiting && standby.standing_by() == standing_by) return true;
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
        return false;
    }
    Standby standby;

private:
    void serve_one() {
        take();
        const unsigned now = busy_may_end_.load();
        standby.leave();
        if (!over_) busy_may_end_.wait(now);
    }
    // Waits for a request and takes it; of all that a notification wakes, the others wait on.
    void take() {
        for (int there = requests_.load();;) {
            if (there == 0) {
                requests_.wait(0);
                there = requests_.load();
            } else if (requests_.compare_exchange_weak(there, there - 1)) {
                return;
            }
        }
    }

    std::atomic<int> requests_{0};
    std::atomic<unsigned> busy_may_end_{0};
    std::atomic<bool> over_{false};
    std::vector<std::thread> threads_;
};

}  // namespace

TEST_CASE("standby: a few threads wait for requests, and another comes when the last is busy") {
    Pool pool(6, 2);
    CHECK(pool.comes_to(2, 4));
    pool.request();
    CHECK(pool.comes_to(1, 4));
    pool.request();
    CHECK(pool.comes_to(1, 3));  // in the place of two that are busy
    pool.request();
    CHECK(pool.comes_to(1, 2));
    pool.go_on();
    CHECK(pool.comes_to(2, 4));
}

TEST_CASE("standby: at the end no thread waits or stands by") {
    Standby standby(1);
    REQUIRE(standby.enter());
    std::atomic<int> ended{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < 3; ++i)
        threads.emplace_back([&] {
            while (standby.enter()) standby.leave();
            ++ended;
        });
    while (standby.standing_by() != 3) std::this_thread::yield();
    CHECK(ended == 0);
    standby.end();
    for (auto &thread : threads) thread.join();
    CHECK(ended == 3);
    CHECK_FALSE(standby.enter());
}
