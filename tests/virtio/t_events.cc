// Eventfds that the other side has made blocking: no thread waits for them.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/eventfd.h>

#include <thread>
#include <vector>

#include "virtio/event.h"
#include "virtio/test_device.h"

namespace pmfs::test {

namespace {

constexpr std::uint64_t kFull = ~std::uint64_t{0} - 1;  // eventfd(2): one more would wait

std::uint64_t count_of(const FileDescriptor &event) {
    std::uint64_t count = 0;
    return ::read(event.get(), &count, sizeof count) == sizeof count ? count : 0;
}

void fill(int event) {
    REQUIRE(::fcntl(event, F_SETFL, 0) == 0);  // not O_NONBLOCK any more
    REQUIRE(::write(event, &kFull, sizeof kFull) == sizeof kFull);
}

}  // namespace

TEST_CASE("event: each count arrives, from any thread") {
    const FileDescriptor event(::eventfd(0, EFD_CLOEXEC));
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i)
        threads.emplace_back([&] {
            for (int j = 0; j < 1000; ++j) virtio::count_up(event.get());
        });
    for (std::thread &thread : threads) thread.join();
    CHECK(count_of(event) == 4000);
}

TEST_CASE("event: a full eventfd that blocks is not written, and an empty one is not waited for") {
    const FileDescriptor event(::eventfd(0, EFD_CLOEXEC));
    CHECK(virtio::take_count(event.get()));
    fill(event.get());
    virtio::count_up(event.get());
    // (The kernel's own counting goes one further than a write may.)
    CHECK(count_of(event) >= kFull);
    int ends[2];
    REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
    const FileDescriptor read_end(ends[0]), write_end(ends[1]);
    virtio::count_up(write_end.get());  // no eventfd: nothing
    CHECK(!virtio::take_count(write_end.get()));
}

TEST_CASE(
    "event: a front end that fills its call event and makes it block is served all the same") {
    World world;
    Ready ready(world);
    DriverQueue &queue = ready.front.add_queue(0);
    fill(queue.call_fd());
    for (int i = 0; i < 5; ++i) {
        queue.submit("x", 1);
        CHECK(eventually([&] { return queue.poll().has_value(); }));
    }
    CHECK(ready.front.stop(0) == 5);
}

}  // namespace pmfs::test
