// vhost-user's messages: what is answered, and what ends the connection.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>

#include "virtio/test_device.h"

namespace pmfs::test {

using virtio::bit;
using virtio::ConfigAccess;
using virtio::Header;
using virtio::Protocol;
using virtio::Request;

namespace {

std::size_t open_descriptors() {
    std::size_t count = 0;
    for ([[maybe_unused]] const auto &entry : std::filesystem::directory_iterator("/proc/self/fd"))
        ++count;
    return count;
}

// A front end that sends this, and is hung up on; the next one is served.
void check_ends(World &world, Header header, ConstBytes payload, std::span<const int> fds = {}) {
    {
        Ready ready(world);
        ready.front.send(header, payload, fds);
        CHECK(ready.front.hung_up());
    }
    Ready next(world);
    CHECK(next.front.get_number(Request::get_queue_num) == 3);
}

Header header_of(Request request, std::size_t size, std::uint32_t flags = Header::kVersion) {
    return {static_cast<std::uint32_t>(request), flags, static_cast<std::uint32_t>(size)};
}

}  // namespace

TEST_CASE("messages: features are those of the device, and the window's only where there is one") {
    for (const std::uint64_t window : {std::uint64_t{0}, kGiB}) {
        World world;
        world.device.window = window;
        Ready ready(world);
        CHECK(ready.front.features() ==
              (std::uint64_t{1} << VIRTIO_F_VERSION_1 |
               std::uint64_t{1} << VIRTIO_RING_F_INDIRECT_DESC |
               std::uint64_t{1} << VIRTIO_RING_F_EVENT_IDX | virtio::kFeatureProtocol));
        CHECK(((ready.front.protocol() & bit(Protocol::shmem)) != 0) == (window != 0));
        CHECK((ready.front.protocol() & bit(Protocol::configure_mem_slots)) == 0);
        if (window == 0) {
            CHECK(ready.front.ask(Request::get_shmem_config) == 1);  // there is no such request
            continue;
        }
        const auto sizes = ready.front.get(Request::get_shmem_config);
        REQUIRE(sizes.size() == sizeof(virtio::WindowSizes));
        CHECK(load<std::uint32_t>(sizes) == 1);
        CHECK(load<std::uint64_t>(sizes, 8) == window);
        CHECK(load<std::uint64_t>(sizes, 16) == 0);
    }
}

TEST_CASE("messages: the configuration is shown in any piece, and cannot be written") {
    World world;
    Ready ready(world);
    const auto read = [&](std::uint32_t offset, std::uint32_t size) {
        std::vector<std::byte> payload(sizeof(ConfigAccess) + size);
        const ConfigAccess access = {offset, size, 0};
        std::memcpy(payload.data(), &access, sizeof access);
        return ready.front.get(Request::get_config, payload);
    };
    const auto whole = read(0, 40);
    REQUIRE(whole.size() == sizeof(ConfigAccess) + 40);
    CHECK(std::memcmp(whole.data() + sizeof(ConfigAccess), "pmfs\0\0\0", 7) == 0);
    const auto piece = read(2, 1);
    CHECK(piece.back() == std::byte{'f'});
    CHECK(read(0, 256).size() == sizeof(ConfigAccess) + 256);
    CHECK(read(1, 256).empty());
    CHECK(read(0xffffffff, 16).empty());
    std::vector<std::byte> payload(sizeof(ConfigAccess) + 1);
    const ConfigAccess access = {0, 1, 0};
    std::memcpy(payload.data(), &access, sizeof access);
    CHECK(ready.front.ask(Request::set_config, payload) == 1);
    ready.front.send(header_of(Request::set_config, payload.size()), payload);
    CHECK(ready.front.get_number(Request::get_queue_num) == 3);  // it goes on
}

TEST_CASE("messages: features that were not offered are refused") {
    World world;
    Ready ready(world);
    CHECK(ready.front.ask_number(Request::set_features, std::uint64_t{1} << 34) == 1);
    CHECK(ready.front.ask_number(Request::set_protocol_features, bit(Protocol::shmem)) == 1);
    CHECK(ready.front.ask_number(Request::set_features, ready.front.features()) == 0);
}

TEST_CASE("messages: status is kept, and 0 stops every queue") {
    World world;
    Ready ready(world);
    DriverQueue &queue = ready.front.add_queue(0);
    CHECK(ready.front.ask_number(Request::set_status, 15) == 0);
    CHECK(ready.front.get_number(Request::get_status) == 15);
    CHECK(ready.front.ask_number(Request::set_status, 256) == 1);
    queue.submit("x", 1);
    REQUIRE(queue.wait());
    CHECK(ready.front.ask_number(Request::set_status, 0) == 0);
    CHECK(ready.front.get_number(Request::get_status) == 0);
    ready.front.start(0, 1);  // it was stopped, or this would be refused
    queue.submit("x", 1);
    CHECK(queue.wait());
}

TEST_CASE("messages: queues that the device does not have are refused") {
    World world;
    Ready ready(world);
    FrontEnd &front = ready.front;
    for (const Request request :
         {Request::set_vring_num, Request::set_vring_base, Request::set_vring_enable}) {
        CHECK(front.ask_state(request, 3, 1) == 1);
        CHECK(front.ask_state(request, 0xffffffff, 1) == 1);
    }
    const vhost_vring_addr address = {3, 0, 0, 0, 0, 0};
    CHECK(front.ask(Request::set_vring_addr, bytes_of(address)) == 1);
    const FileDescriptor event(::eventfd(0, EFD_CLOEXEC));
    const int fds[] = {event.get()};
    for (const Request request :
         {Request::set_vring_kick, Request::set_vring_call, Request::set_vring_err})
        CHECK(front.ask_number(request, 255, fds) == 1);
    CHECK(front.ask_state(Request::set_vring_enable, 0, 2) == 1);
    CHECK(front.ask_state(Request::set_vring_base, 0, 65536) == 1);
    front.hang_up();
    const vhost_vring_state state = {3, 0};
    check_ends(world, header_of(Request::get_vring_base, sizeof state), bytes_of(state));
}

TEST_CASE("messages: an event that is no eventfd is refused, and none means that it polls") {
    World world;
    Ready ready(world);
    FrontEnd &front = ready.front;
    int ends[2];
    REQUIRE(::pipe(ends) == 0);
    const FileDescriptor one(ends[0]), other(ends[1]);
    const FileDescriptor file(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
    for (const int fd : {one.get(), other.get(), file.get(), front.socket()}) {
        const int fds[] = {fd};
        CHECK(front.ask_number(Request::set_vring_call, 0, fds) == 1);
        CHECK(front.ask_number(Request::set_vring_kick, 0, fds) == 1);
    }
    DriverQueue &queue = front.add_queue(0);
    CHECK(front.ask_number(Request::set_vring_call, virtio::kNoDescriptor) == 0);
    CHECK(front.ask_number(Request::set_vring_kick, virtio::kNoDescriptor | 1) == 1);
    queue.submit("x", 1);
    CHECK(eventually([&] { return queue.poll().has_value(); }));
    CHECK(queue.calls() == 0);
}

TEST_CASE("messages: a queue that runs is not set up meanwhile") {
    World world;
    Ready ready(world);
    DriverQueue &queue = ready.front.add_queue(0);
    const vhost_vring_addr address = queue.address(0);
    const int fds[] = {queue.kick_fd()};
    CHECK(ready.front.ask_state(Request::set_vring_num, 0, 8) == 1);
    CHECK(ready.front.ask_state(Request::set_vring_base, 0, 8) == 1);
    CHECK(ready.front.ask(Request::set_vring_addr, bytes_of(address)) == 1);
    CHECK(ready.front.ask_number(Request::set_vring_kick, 0, fds) == 1);
    queue.submit("x", 1);
    CHECK(queue.wait());
}

TEST_CASE("messages: a wrong size, version or number of descriptors ends the connection") {
    World world;
    const FileDescriptor event(::eventfd(0, EFD_CLOEXEC));
    const std::vector<int> one = {event.get()}, many(9, event.get());
    const std::vector<std::byte> bytes(2000);
    const ConstBytes all = bytes;
    const auto size = [&](std::size_t count) { return all.first(count); };
    check_ends(world, header_of(Request::get_features, 1), size(1));
    check_ends(world, header_of(Request::get_features, 0), {}, one);
    check_ends(world, header_of(Request::set_features, 7), size(7));
    check_ends(world, header_of(Request::set_features, 9), size(9));
    check_ends(world, header_of(Request::set_features, 8), size(8), one);
    check_ends(world, header_of(Request::set_vring_addr, 32), size(32));
    check_ends(world, header_of(Request::set_mem_table, 7), size(7));
    check_ends(world, header_of(Request::set_mem_table, 8), size(8), one);
    check_ends(world, header_of(Request::set_mem_table, 40), size(40), one);  // says 0 regions
    check_ends(world, header_of(Request::get_config, 11), size(11));
    check_ends(world, header_of(Request::get_config, 20), size(20));
    check_ends(world, header_of(Request::set_vring_kick, 8), size(8));
    check_ends(world, header_of(Request::set_vring_kick, 8), size(8), many);
    check_ends(world, header_of(Request::set_backend_req_fd, 0), {});
    check_ends(world, header_of(Request::set_owner, 0, 0), {});
    check_ends(world, header_of(Request::set_owner, 0, 2), {});
    check_ends(world, header_of(Request::set_owner, 0, Header::kVersion | Header::kReply), {});
    check_ends(world, header_of(Request::get_config, 2000), all);
    check_ends(world, header_of(Request::get_config, 0xffffffff), all);
    check_ends(world, header_of(static_cast<Request>(0), 0), {});
    check_ends(world, header_of(static_cast<Request>(0xffff), 0), {});
    check_ends(world, header_of(Request::add_mem_reg, 40), size(40), one);  // not offered
    std::uint32_t counts[2] = {0xffffffff, 0};
    check_ends(world, header_of(Request::set_mem_table, 8), bytes_of(counts));
    CHECK(world.log().find("disconnected") != std::string::npos);
}

TEST_CASE("messages: an unknown request is refused if an answer is wanted") {
    World world;
    Ready ready(world);
    CHECK(ready.front.ask(static_cast<Request>(99)) == 1);
    CHECK(ready.front.ask(Request::add_mem_reg) == 1);
    CHECK(ready.front.get_number(Request::get_queue_num) == 3);
}

TEST_CASE("messages: descriptors that were not asked for are closed") {
    World world;
    { Ready ready(world); }
    REQUIRE(eventually([&] { return world.device.disconnections == 1; }));
    const std::size_t before = open_descriptors();
    for (int i = 0; i < 20; ++i) {
        const std::vector<int> many(200, STDIN_FILENO);
        FrontEnd front(world.path());
        front.send(header_of(Request::set_owner, 0), {}, many);
        CHECK(front.hung_up());
    }
    REQUIRE(eventually([&] { return world.device.disconnections == 21; }));
    CHECK(open_descriptors() == before);
}

TEST_CASE("messages: half a message, sent byte by byte, does not keep the back end from ending") {
    World world;
    Ready ready(world);
    const Header header = header_of(Request::get_queue_num, 0);
    for (const std::byte byte : bytes_of(header)) {
        ready.front.send_bytes({&byte, 1});
        ::usleep(1000);
    }
    CHECK(load<std::uint64_t>(ready.front.get(Request::get_queue_num)) == 3);
}

TEST_CASE("messages: a message that never ends does not keep the back end from ending") {
    World world;
    Ready ready(world);
    const Header header = header_of(Request::set_features, 8);
    ready.front.send_bytes(bytes_of(header).first(5));
    ::usleep(20'000);
    world.end();
    CHECK(ready.front.hung_up());
    CHECK(world.device.disconnections == 1);
}

TEST_CASE(
    "messages: a flood of requests with unread answers does not keep the back end from ending") {
    World world;
    Ready ready(world);
    REQUIRE(::fcntl(ready.front.socket(), F_SETFL, O_NONBLOCK) == 0);
    for (int i = 0; i < 20'000; ++i) ready.front.send(header_of(Request::get_features, 0), {});
    world.end();
    CHECK(world.device.disconnections == 1);
}

}  // namespace pmfs::test
