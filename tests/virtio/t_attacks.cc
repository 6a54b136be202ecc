// Drivers that write nonsense into rings and descriptors: the queue breaks, the process lives.
#include <doctest/doctest.h>
#include <sys/uio.h>

#include "virtio/test_device.h"

namespace pmfs::test {

using namespace std::chrono_literals;
using virtio::Request;

namespace {

// A queue, and a second one that must go on.
struct Attack {
    explicit Attack(std::uint64_t features = FrontEnd::kAll)
        : ready(world, features), front(ready.front), queue(front.add_queue(0, 16)) {
        front.add_queue(1);
        buffer = front.ram().guest(front.ram().take(8192));
    }
    // After the attack.
    void check_broken(const std::string &why) {
        queue.kick();
        REQUIRE(eventually([&] { return world.device.breaks == 1; }));
        CHECK(world.device.why_broken().find(why) != std::string::npos);
        std::uint64_t count = 0;
        CHECK(::read(queue.error_fd(), &count, sizeof count) == sizeof count);
        CHECK(!queue.poll());
        front.queue(1).submit("the other", 16);
        CHECK(front.queue(1).wait());
        // Nothing of it is left when it is set up again.
        front.stop(0);
        queue.restart();
        front.start(0);
        queue.submit("again", 16);
        CHECK(queue.wait());
        CHECK(world.device.breaks == 1);
    }

    World world;
    Ready ready;
    FrontEnd &front;
    DriverQueue &queue;
    std::uint64_t buffer;
};

constexpr std::uint16_t kNext = VRING_DESC_F_NEXT, kWrite = VRING_DESC_F_WRITE,
                        kIndirect = VRING_DESC_F_INDIRECT;

}  // namespace

TEST_CASE("attack: a chain that is a loop breaks its queue only") {
    Attack attack;
    attack.queue.descriptor(0) = {attack.buffer, 8, kNext, 1};
    attack.queue.descriptor(1) = {attack.buffer, 8, kNext, 0};
    attack.queue.offer(0);
    attack.check_broken("loop");
}

TEST_CASE("attack: a descriptor whose next is outside the table breaks its queue") {
    Attack attack;
    attack.queue.descriptor(0) = {attack.buffer, 8, kNext, 16};
    attack.queue.offer(0);
    attack.check_broken("outside its table");
}

TEST_CASE("attack: a head outside the table breaks its queue") {
    for (const std::uint16_t head : {16, 65535}) {
        Attack attack;
        attack.queue.offer(head);
        attack.check_broken("outside the descriptor table");
    }
}

TEST_CASE("attack: an indirect table of a wrong size breaks its queue") {
    for (const std::uint32_t size : {0u, 8u, 17u, 1025 * 16u, 0xfffffff0u}) {
        Attack attack;
        attack.queue.descriptor(0) = {attack.buffer, size, kIndirect, 0};
        attack.queue.offer(0);
        attack.check_broken("indirect table's size");
    }
}

TEST_CASE("attack: an indirect table in an indirect table breaks its queue") {
    Attack attack;
    auto *const table =
        attack.front.ram().at<vring_desc>(attack.buffer - attack.front.ram().guest(0));
    table[0] = {attack.buffer, 16, kIndirect, 0};
    attack.queue.descriptor(0) = {attack.buffer, 16, kIndirect, 0};
    attack.queue.offer(0);
    attack.check_broken("has an indirect descriptor");
}

TEST_CASE("attack: an indirect table that is a loop, or leaves itself, breaks its queue") {
    for (const std::uint16_t next : {0, 1, 2, 0xffff}) {
        Attack attack;
        auto *const table =
            attack.front.ram().at<vring_desc>(attack.buffer - attack.front.ram().guest(0));
        table[0] = {attack.buffer, 16, kNext, 1};
        table[1] = {attack.buffer, 16, kNext, next};
        attack.queue.descriptor(0) = {attack.buffer, 32, kIndirect, 0};
        attack.queue.offer(0);
        attack.check_broken(next < 2 ? "loop" : "outside its table");
    }
}

TEST_CASE("attack: an indirect table outside memory, or with a next one, breaks its queue") {
    {
        Attack attack;
        attack.queue.descriptor(0) = {0x10, 16, kIndirect, 0};
        attack.queue.offer(0);
        attack.check_broken("outside the guest's memory");
    }
    Attack attack;
    attack.queue.descriptor(0) = {attack.buffer, 16, kIndirect | kNext, 1};
    attack.queue.offer(0);
    attack.check_broken("has a next one");
}

TEST_CASE("attack: an indirect table that was not negotiated breaks its queue") {
    Attack attack(~(std::uint64_t{1} << VIRTIO_RING_F_INDIRECT_DESC));
    attack.queue.descriptor(0) = {attack.buffer, 16, kIndirect, 0};
    attack.queue.offer(0);
    attack.check_broken("not been negotiated");
}

TEST_CASE("attack: a readable descriptor behind a writable one breaks its queue") {
    Attack attack;
    attack.queue.descriptor(0) = {attack.buffer, 8, kWrite | kNext, 1};
    attack.queue.descriptor(1) = {attack.buffer, 8, 0, 0};
    attack.queue.offer(0);
    attack.check_broken("behind one to be written");
}

TEST_CASE("attack: an empty descriptor, or one that wraps around, breaks its queue") {
    {
        Attack attack;
        attack.queue.descriptor(0) = {attack.buffer, 0, 0, 0};
        attack.queue.offer(0);
        attack.check_broken("empty");
    }
    Attack attack;
    attack.queue.descriptor(0) = {~std::uint64_t{0} - 7, 16, 0, 0};
    attack.queue.offer(0);
    attack.check_broken("wraps around");
}

TEST_CASE("attack: a chain of more bytes than the limit breaks its queue") {
    Attack attack;
    for (std::uint16_t i = 0; i < 16; ++i)
        attack.queue.descriptor(i) = {attack.buffer, 0xffffffff, kNext,
                                      static_cast<std::uint16_t>(i + 1)};
    attack.queue.offer(0);
    attack.check_broken("too many bytes");
}

TEST_CASE("attack: an available index that jumps by more than the queue has breaks it") {
    for (const std::uint16_t jump : {17, 1000, 0xffff}) {
        Attack attack;
        __atomic_store_n(&attack.queue.available().idx, jump, __ATOMIC_RELEASE);
        attack.check_broken("ahead by more");
    }
}

TEST_CASE(
    "attack: the same chain offered over and over is held at most as often as the queue has") {
    World world;
    Mutex mutex;
    std::vector<std::unique_ptr<virtio::Chain>> kept;
    world.device.on_request = [&](unsigned, auto chain) {
        Lock lock(mutex);
        kept.push_back(std::move(chain));
    };
    Ready ready(world);
    DriverQueue &queue = ready.front.add_queue(0, 16);
    queue.descriptor(0) = {ready.front.ram().guest(4096), 8, 0, 0};
    for (int i = 0; i < 40 && world.device.breaks == 0; ++i) {
        queue.offer(0);
        queue.kick();
        ::usleep(2000);
    }
    REQUIRE(eventually([&] { return world.device.breaks == 1; }));
    CHECK(world.device.why_broken().find("more chains are under way") != std::string::npos);
    Lock lock(mutex);
    CHECK(kept.size() == 16);
    kept.clear();
}

TEST_CASE(
    "attack: an address outside of memory makes a piece out of reach, and the queue goes on") {
    World world;
    std::atomic<bool> whole = true;
    std::atomic<std::size_t> read = 0, size = 0;
    world.device.on_request = [&](unsigned, auto chain) {
        std::byte bytes[64];
        whole = chain->whole();
        size = chain->readable_size();
        read = chain->read(0, bytes);
        chain->complete(chain->write(0, bytes_of(std::uint32_t{7})));
    };
    Ready ready(world);
    FrontEnd &front = ready.front;
    DriverQueue &queue = front.add_queue(0);
    const std::uint64_t good = front.ram().guest(front.ram().take(64));
    const std::uint64_t end = front.ram().guest(front.ram().size());
    for (const std::uint64_t bad : {std::uint64_t{0}, end, end - 4, ~std::uint64_t{0} - 100}) {
        queue.submit({{good, 8, false}, {bad, 8, false}, {good, 8, false}, {good, 8, true}});
        const auto used = queue.wait();
        REQUIRE(used);
        CHECK(used->written == 4);
        CHECK(!whole);
        CHECK(size == 24);
        CHECK(read == 8);
        queue.submit({{good, 8, false}, {bad, 8, true}});
        const auto unwritten = queue.wait();
        REQUIRE(unwritten);
        CHECK(unwritten->written == 0);
    }
    CHECK(world.device.breaks == 0);
}

TEST_CASE("attack: a queue with an invalid size is refused") {
    World world;
    Ready ready(world);
    for (const unsigned size : {0u, 3u, 65535u, 65536u, 2048u, 0x80000000u})
        CHECK(ready.front.ask_state(Request::set_vring_num, 0, size) == 1);
    ready.front.add_queue(0).submit("x", 1);
    CHECK(ready.front.queue(0).wait());
}

TEST_CASE("attack: rings outside memory or misaligned are refused when the queue is started") {
    World world;
    Ready ready(world);
    FrontEnd &front = ready.front;
    DriverQueue queue(front.ram(), {});
    const vhost_vring_addr good = queue.address(0);
    const int kick[] = {queue.kick_fd()};
    CHECK(front.ask_number(Request::set_vring_kick, 0, kick) == 1);  // nothing is set up
    CHECK(front.ask_state(Request::set_vring_num, 0, queue.size()) == 0);
    const auto end = front.ram().user(front.ram().size());
    const auto attempt = [&](auto change) {
        vhost_vring_addr bad = good;
        change(bad);
        CHECK(front.ask(Request::set_vring_addr, bytes_of(bad)) == 0);
        CHECK(front.ask_number(Request::set_vring_kick, 0, kick) == 1);
    };
    attempt([](auto &a) { a.desc_user_addr = 0; });
    attempt([](auto &a) { a.avail_user_addr = ~0ull - 1; });
    attempt([&](auto &a) { a.used_user_addr = end; });
    attempt([&](auto &a) { a.used_user_addr = end - 8; });
    attempt([&](auto &a) { a.desc_user_addr = end - 16; });
    attempt([](auto &a) { a.desc_user_addr += 8; });
    attempt([](auto &a) { a.avail_user_addr += 1; });
    attempt([](auto &a) { a.used_user_addr += 2; });
    CHECK(front.ask(Request::set_vring_addr, bytes_of(good)) == 0);
    CHECK(front.ask_number(Request::set_vring_kick, 0, kick) == 0);
}

TEST_CASE("attack: writing random bytes to a ring while it is served does no harm") {
    World world;
    Ready ready(world);
    FrontEnd &front = ready.front;
    front.add_queue(1);
    std::uint64_t seed = 88172645463325252u;
    const auto random = [&seed] {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        return seed ^= seed << 17;
    };
    for (int round = 0; round < 200; ++round) {
        if (round == 0)
            front.add_queue(0);
        else
            front.start(0);
        DriverQueue &queue = front.queue(0);
        for (int i = 0; i < 50; ++i) {
            const auto at = static_cast<unsigned>(random() % queue.size());
            queue.descriptor(at) = {front.ram().guest(random() % (front.ram().size() + 4096)),
                                    static_cast<std::uint32_t>(random() % 300),
                                    static_cast<std::uint16_t>(random() % 8),
                                    static_cast<std::uint16_t>(random() % 17)};
            queue.offer(static_cast<std::uint16_t>(random() % 16));
            if (i % 8 == 0) queue.kick();
        }
        queue.kick();
        front.stop(0);
        queue.restart();
    }
    front.queue(1).submit("alive", 16);
    CHECK(front.queue(1).wait());
}

}  // namespace pmfs::test
