// Virtqueues that are used as they are meant to be.
#include <doctest/doctest.h>

#include "virtio/test_device.h"

namespace pmfs::test {

using namespace std::chrono_literals;
using virtio::Request;

namespace {
constexpr std::uint64_t kNoEventIndex = ~(std::uint64_t{1} << VIRTIO_RING_F_EVENT_IDX);
}

TEST_CASE("queue: what is sent comes back, with and without event index and indirect tables") {
    for (const std::uint64_t features : {FrontEnd::kAll, kNoEventIndex}) {
        for (const bool indirect : {false, true}) {
            World world;
            Ready ready(world, features);
            DriverQueue &queue = ready.front.add_queue(0, 16, indirect);
            for (int i = 0; i < 200; ++i) {  // the ring goes round many times
                const std::string sent = "request " + std::to_string(i);
                const unsigned id = queue.submit(sent, 64, 1 + i % 4);
                const auto used = queue.wait();
                REQUIRE(used);
                CHECK(used->id == id);
                CHECK(used->written == sent.size());
                CHECK(used->bytes == sent);
            }
        }
    }
}

TEST_CASE("queue: an index that passes 65535 begins again at 0") {
    World world;
    Ready ready(world);
    DriverQueue &queue = ready.front.add_queue(0, 4);
    const std::size_t mark = ready.front.ram().used();
    for (int i = 0; i < 70'000; ++i) {
        ready.front.ram().give_back_to(mark);
        queue.submit("x", 1);
        REQUIRE(queue.wait());
    }
}

TEST_CASE("queue: many chains are under way at once, and each completion is notified") {
    World world;
    Ready ready(world);
    DriverQueue &queue = ready.front.add_queue(0, 256);
    for (int round = 0; round < 20; ++round) {
        for (int i = 0; i < 128; ++i) queue.submit(std::to_string(i), 8);
        for (int i = 0; i < 128; ++i) {
            const auto used = queue.wait();
            REQUIRE(used);
            CHECK(used->bytes == std::to_string(i));
        }
    }
}

TEST_CASE("queue: each queue has its own thread, and a slow one delays no other") {
    World world;
    Mutex hold;
    hold.lock();
    world.device.on_request = [&](unsigned queue, auto chain) {
        if (queue == 1) {
            Lock wait(hold);
        }
        TestDevice::echo(*chain);
    };
    Ready ready(world);
    for (unsigned i = 0; i < 3; ++i) ready.front.add_queue(i);
    ready.front.queue(1).submit("slow", 8);
    for (const unsigned i : {0u, 2u}) {
        ready.front.queue(i).submit("fast", 8);
        CHECK(ready.front.queue(i).wait());
    }
    CHECK(!ready.front.queue(1).poll());
    hold.unlock();
    CHECK(ready.front.queue(1).wait());
}

TEST_CASE("queue: chains are completed by other threads, in another order") {
    World world;
    Mutex mutex;
    std::vector<std::unique_ptr<virtio::Chain>> kept;
    std::atomic<std::size_t> count = 0;
    world.device.on_request = [&](unsigned, auto chain) {
        Lock lock(mutex);
        kept.push_back(std::move(chain));
        count = kept.size();
    };
    Ready ready(world);
    DriverQueue &queue = ready.front.add_queue(0, 64);
    std::vector<unsigned> ids;
    for (int i = 0; i < 30; ++i) ids.push_back(queue.submit(std::to_string(i), 8));
    REQUIRE(eventually([&] { return count == 30; }));
    std::vector<std::thread> threads;
    for (int t = 0; t < 3; ++t) {
        threads.emplace_back([&, t] {
            for (int i = 29 - t; i >= 0; i -= 3)
                TestDevice::echo(*kept[static_cast<std::size_t>(i)]);
        });
    }
    std::vector<bool> seen(30);
    for (int i = 0; i < 30; ++i) {
        const auto used = queue.wait();
        REQUIRE(used);
        const auto number = static_cast<std::size_t>(std::stoi(used->bytes));
        CHECK(ids[number] == used->id);
        seen[number] = true;
    }
    for (auto &thread : threads) thread.join();
    CHECK(std::count(seen.begin(), seen.end(), true) == 30);
}

TEST_CASE("queue: a chain that the device drops is completed with nothing written") {
    World world;
    world.device.on_request = [](unsigned, auto) {};
    Ready ready(world);
    DriverQueue &queue = ready.front.add_queue(0);
    queue.submit("lost", 8);
    const auto used = queue.wait();
    REQUIRE(used);
    CHECK(used->written == 0);
}

TEST_CASE("queue: a driver that wants no calls, or that polls, gets none") {
    World world;
    Ready ready(world, kNoEventIndex);
    DriverQueue &queue = ready.front.add_queue(0);
    queue.submit("first", 8);
    REQUIRE(queue.wait());
    queue.calls();
    queue.available().flags = VRING_AVAIL_F_NO_INTERRUPT;
    queue.submit("second", 8);
    REQUIRE(eventually([&] { return queue.poll().has_value(); }));
    CHECK(queue.calls() == 0);
}

TEST_CASE("queue: with an event index, the device calls at that index only") {
    World world;
    Ready ready(world);
    DriverQueue &queue = ready.front.add_queue(0, 16);
    queue.submit("0", 8);
    REQUIRE(queue.wait());
    queue.calls();
    queue.used_event() = 3;  // when the entry of index 3 is there
    for (int i = 1; i <= 2; ++i) {
        queue.submit("x", 8);
        REQUIRE(eventually([&] { return queue.poll().has_value(); }));
        CHECK(queue.calls() == 0);
    }
    queue.submit("3", 8);
    REQUIRE(eventually([&] { return queue.poll().has_value(); }));
    CHECK(eventually([&] { return queue.calls() == 1; }));
}

TEST_CASE("queue: no kick is lost when the device goes to sleep") {
    for (const std::uint64_t features : {FrontEnd::kAll, kNoEventIndex}) {
        World world;
        Ready ready(world, features);
        DriverQueue &queue = ready.front.add_queue(0, 8);
        const std::size_t mark = ready.front.ram().used();
        for (int i = 0; i < 5000; ++i) {
            ready.front.ram().give_back_to(mark);
            queue.submit("x", 1);  // kicks only if it is wanted
            for (int spin = 0; spin < i % 97 * 10; ++spin) __builtin_ia32_pause();
            REQUIRE(queue.wait());
        }
    }
}

TEST_CASE("queue: a device that polls for a while before it sleeps serves the same") {
    World world(virtio::SessionOptions{.polling = 50us});
    Ready ready(world);
    DriverQueue &queue = ready.front.add_queue(0, 8);
    const std::size_t mark = ready.front.ram().used();
    for (int i = 0; i < 1000; ++i) {
        ready.front.ram().give_back_to(mark);
        queue.submit(std::to_string(i), 8);
        const auto used = queue.wait();
        REQUIRE(used);
        CHECK(used->bytes == std::to_string(i));
    }
}

TEST_CASE(
    "queue: while it is disabled nothing is taken, and waiting chains are served afterwards") {
    World world;
    Ready ready(world);
    DriverQueue &queue = ready.front.add_queue(0);
    CHECK(ready.front.ask_state(Request::set_vring_enable, 0, 0) == 0);
    ::usleep(20'000);
    queue.submit("wait", 8);
    CHECK(!queue.wait(50ms));
    CHECK(ready.front.ask_state(Request::set_vring_enable, 0, 1) == 0);
    CHECK(queue.wait());
}

TEST_CASE(
    "queue: a stopped queue tells its position, and continues when it is started there again") {
    World world;
    Ready ready(world);
    DriverQueue &queue = ready.front.add_queue(0);
    for (int i = 0; i < 5; ++i) {
        queue.submit("before", 8);
        REQUIRE(queue.wait());
    }
    CHECK(ready.front.stop(0) == 5);
    queue.submit("while it is stopped", 32);
    CHECK(!queue.wait(50ms));
    CHECK(ready.front.stop(0) == 5);
    ready.front.start(0, 5);
    const auto used = queue.wait();
    REQUIRE(used);
    CHECK(used->bytes == "while it is stopped");
}

TEST_CASE("queue: GET_VRING_BASE waits until what is under way has been completed") {
    World world;
    Mutex mutex;
    std::unique_ptr<virtio::Chain> kept;
    std::atomic<bool> there = false, stopping = false;
    world.device.on_request = [&](unsigned, auto chain) {
        Lock lock(mutex);
        kept = std::move(chain);
        there = true;
    };
    world.device.on_stopping = [&](unsigned) { stopping = true; };
    Ready ready(world);
    DriverQueue &queue = ready.front.add_queue(0);
    queue.submit("under way", 16);
    REQUIRE(eventually([&] { return there.load(); }));
    std::thread later([&] {
        while (!stopping) ::usleep(1000);
        ::usleep(100'000);
        Lock lock(mutex);
        TestDevice::echo(*kept);
    });
    CHECK(ready.front.stop(0) == 1);
    const auto used = queue.poll();  // it is there already
    later.join();
    REQUIRE(used);
    CHECK(used->bytes == "under way");
}

}  // namespace pmfs::test
