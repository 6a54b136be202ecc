// Front ends that come, go and wait: what is left of them, and who hangs.
#include <doctest/doctest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <fstream>

#include "virtio/test_device.h"

namespace pmfs::test {

using namespace std::chrono_literals;
using virtio::BackEnd;
using virtio::BackEndRequest;
using virtio::Request;
using virtio::WindowMap;

TEST_CASE("life: the socket is only for its user, and is removed with the back end") {
    World world;
    struct stat status {};
    REQUIRE(::stat(world.path().c_str(), &status) == 0);
    CHECK((status.st_mode & 07777) == 0600);
    const std::string path = world.path();
    world.end();
    CHECK(::stat(path.c_str(), &status) != 0);
}

TEST_CASE(
    "life: a socket without a listener is replaced, one with a listener or another file never") {
    World world;
    TestDevice another;
    const auto second = BackEnd::listen(another, world.path(), {});
    REQUIRE(!second.ok());
    CHECK(second.error().errno_value() == EADDRINUSE);
    SocketPlace place;
    {
        const FileDescriptor dead(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        std::strncpy(address.sun_path, place.path().c_str(), sizeof address.sun_path - 1);
        REQUIRE(::bind(dead.get(), reinterpret_cast<sockaddr *>(&address), sizeof address) == 0);
    }
    CHECK(BackEnd::listen(another, place.path(), {}).ok());
    std::ofstream(place.path()) << "precious";
    const auto onto_file = BackEnd::listen(another, place.path(), {});
    REQUIRE(!onto_file.ok());
    CHECK(onto_file.error().errno_value() == EEXIST);
    CHECK(std::ifstream(place.path()).good());
    CHECK(!BackEnd::listen(another, std::string(200, 'x'), {}).ok());
    CHECK(!BackEnd::listen(another, "", {}).ok());
}

TEST_CASE("life: one front end after the other, each from the beginning") {
    World world;
    for (int i = 1; i <= 5; ++i) {
        Ready ready(world);
        CHECK(world.device.connections == i);
        CHECK(world.device.peer().pid == ::getpid());
        DriverQueue &queue = ready.front.add_queue(0);
        queue.submit("x", 1);
        CHECK(queue.wait());
        ready.front.hang_up();
        CHECK(eventually([&] { return world.device.disconnections == i; }));
        CHECK(world.device.mapped == 0);
    }
    FrontEnd bare(world.path());  // what the others had negotiated does not count
    const virtio::Header kick = {static_cast<std::uint32_t>(Request::set_vring_base), 9, 8};
    const vhost_vring_state state = {9, 0};
    bare.send(kick, bytes_of(state));
    CHECK(bare.hung_up());
}

TEST_CASE("life: a second front end is turned away while there is one") {
    World world;
    Ready ready(world);
    FrontEnd second(world.path());
    CHECK(second.hung_up());
    ready.front.add_queue(0).submit("x", 1);
    CHECK(ready.front.queue(0).wait());
}

TEST_CASE("life: several back ends in a process are independent") {
    World one, two;
    Ready first(one), second(two);
    first.front.add_queue(0).submit("1", 1);
    second.front.add_queue(0).submit("2", 1);
    CHECK(first.front.queue(0).wait()->bytes == "1");
    one.end();
    second.front.queue(0).submit("2", 1);
    CHECK(second.front.queue(0).wait()->bytes == "2");
    CHECK(second.front.queue(0).wait()->bytes == "2");
}

TEST_CASE("life: a reset waits for chains that are under way, and leaves none") {
    World world;
    Mutex mutex;
    std::vector<std::unique_ptr<virtio::Chain>> kept;
    std::atomic<int> count = 0;
    world.device.on_request = [&](unsigned, auto chain) {
        Lock lock(mutex);
        kept.push_back(std::move(chain));
        ++count;
    };
    world.device.on_stopping = [&](unsigned) {
        Lock lock(mutex);
        for (auto &chain : kept) TestDevice::echo(*chain);
        kept.clear();
    };
    Ready ready(world);
    for (unsigned i = 0; i < 3; ++i) {
        ready.front.add_queue(i);
        for (int j = 0; j < 4; ++j) ready.front.queue(i).submit("x", 1);
    }
    REQUIRE(eventually([&] { return count == 12; }));
    CHECK(ready.front.ask(Request::reset_device) == 0);
    CHECK(world.device.resets == 1);
    for (unsigned i = 0; i < 3; ++i) {
        for (int j = 0; j < 4; ++j) CHECK(ready.front.queue(i).poll());
        CHECK(ready.front.stop(i) == 0);
        ready.front.queue(i).restart();
        ready.front.start(i);
        ready.front.queue(i).submit("again", 8);
    }
    CHECK(eventually([&] { return count == 15; }));
    Lock lock(mutex);
    kept.clear();
}

TEST_CASE("life: a front end that disconnects leaves chains that do no harm") {
    World world;
    Mutex mutex;
    std::vector<std::unique_ptr<virtio::Chain>> kept;
    std::atomic<int> count = 0;
    world.device.on_request = [&](unsigned, auto chain) {
        Lock lock(mutex);
        kept.push_back(std::move(chain));
        ++count;
    };
    Ready ready(world);
    DriverQueue &queue = ready.front.add_queue(0);
    for (int i = 0; i < 8; ++i) queue.submit("left behind", 16);
    REQUIRE(eventually([&] { return count == 8; }));
    ready.front.hang_up();
    REQUIRE(eventually([&] { return world.device.disconnections == 1; }));
    CHECK(world.device.mapped == 1);  // the chains' own
    Ready next(world);
    {
        Lock lock(mutex);
        for (auto &chain : kept) TestDevice::echo(*chain);
        kept.clear();
    }
    CHECK(!queue.poll());  // its memory is still there, and no completion is notified
    CHECK(queue.calls() == 0);
    CHECK(world.device.mapped == 1);  // the next one's
    CHECK(next.front.get_number(Request::get_queue_num) == 3);
}

TEST_CASE("life: a request that begins to wait after its queue was told to stop is told again") {
    World world;
    Mutex mutex;
    std::unique_ptr<virtio::Chain> kept;
    std::atomic<unsigned> told = 0;
    world.device.on_request = [&](unsigned, auto chain) {
        while (told == 0) ::usleep(1000);  // it is on its way
        Lock lock(mutex);
        kept = std::move(chain);
    };
    world.device.on_stopping = [&](unsigned) {
        Lock lock(mutex);
        ++told;
        if (kept) TestDevice::echo(*kept);
        kept.reset();
    };
    Ready ready(world);
    DriverQueue &queue = ready.front.add_queue(0);
    queue.submit("x", 1);
    ::usleep(20'000);
    ready.front.stop(0);
    CHECK(told > 1);
    const auto used = queue.poll();
    REQUIRE(used);
    CHECK(used->bytes == "x");
}

TEST_CASE("life: a front end may disconnect while it waits for a queue to stop") {
    World world;
    Mutex mutex;
    std::unique_ptr<virtio::Chain> kept;
    std::atomic<bool> there = false;
    world.device.on_request = [&](unsigned, auto chain) {
        Lock lock(mutex);
        kept = std::move(chain);
        there = true;
    };
    {
        Ready ready(world);
        ready.front.add_queue(0).submit("x", 1);
        REQUIRE(eventually([&] { return there.load(); }));
        const vhost_vring_state state = {0, 0};
        ready.front.send({static_cast<std::uint32_t>(Request::get_vring_base), 1, sizeof state},
                         bytes_of(state));
        ::usleep(50'000);
    }
    CHECK(eventually([&] { return world.device.disconnections == 1; }));
    Lock lock(mutex);
    kept.reset();
}

TEST_CASE("window: a map reaches the front end with its descriptor, and returns its result") {
    World world;
    world.device.window = kGiB;
    std::atomic<int> result = -1;
    world.device.on_request = [&](unsigned, auto chain) {
        const auto channel = world.device.channel();
        CHECK(channel->has_window());
        const auto mapped = channel->map(STDIN_FILENO, 4096, 8192, 2 * kMiB, true);
        result = mapped.ok() ? 0 : mapped.error().errno_value();
        if (mapped.ok()) CHECK(channel->barrier().ok());
        if (mapped.ok()) CHECK(channel->unmap(8192, 2 * kMiB).ok());
        chain->complete(0);
    };
    Mutex mutex;
    std::vector<std::pair<BackEndRequest, WindowMap>> seen;
    std::atomic<std::uint64_t> answer = 0;
    Ready ready(world);
    ready.front.answer_back_end([&](BackEndRequest request, const WindowMap &map, int fd) {
        Lock lock(mutex);
        seen.emplace_back(request, map);
        if ((fd >= 0) != (request == BackEndRequest::shmem_map)) return std::uint64_t{1};
        ready.front.share_memory();  // as QEMU does, before it answers
        return answer.load();
    });
    DriverQueue &queue = ready.front.add_queue(0);
    queue.submit("map", 1);
    REQUIRE(queue.wait());
    CHECK(result == 0);
    {
        Lock lock(mutex);
        REQUIRE(seen.size() == 3);
        CHECK(seen[0].first == BackEndRequest::shmem_map);
        CHECK(seen[0].second.fd_offset == 4096);
        CHECK(seen[0].second.window_offset == 8192);
        CHECK(seen[0].second.size == 2 * kMiB);
        CHECK(seen[0].second.flags == WindowMap::kWritable);
        CHECK(seen[1].first == BackEndRequest::config_change);
        CHECK(seen[2].first == BackEndRequest::shmem_unmap);
    }
    answer = 1;
    queue.submit("map", 1);
    REQUIRE(queue.wait());
    CHECK(result == EIO);
}

TEST_CASE(
    "window: without a channel or a window nothing can be mapped, which is an error at once") {
    for (const std::uint64_t window : {std::uint64_t{0}, kGiB}) {
        World world;
        world.device.window = window;
        Ready ready(world);
        const auto channel = world.device.channel();
        CHECK(!channel->has_window());
        const auto mapped = channel->map(STDIN_FILENO, 0, 0, 4096, true);
        REQUIRE(!mapped.ok());
        CHECK(mapped.error().errno_value() == ENOTCONN);
        if (window == 0) ready.front.answer_back_end([](auto...) { return 0; });
        CHECK(!channel->unmap(0, 4096).ok());
    }
}

TEST_CASE("window: a map ends when the front end disconnects") {
    World world;
    world.device.window = kGiB;
    std::atomic<int> result = -1;
    world.device.on_request = [&](unsigned, auto chain) {
        const auto mapped = world.device.channel()->map(STDIN_FILENO, 0, 0, 4096, true);
        result = mapped.ok() ? 0 : mapped.error().errno_value();
        chain->complete(0);
    };
    std::atomic<bool> asked = false, go = false;
    Ready ready(world);
    ready.front.answer_back_end([&](auto...) {
        asked = true;
        while (!go) ::usleep(1000);
        return 0;
    });
    ready.front.add_queue(0).submit("map", 1);
    REQUIRE(eventually([&] { return asked.load(); }));
    ::shutdown(ready.front.socket(), SHUT_RDWR);  // the channel itself stays open
    CHECK(eventually([&] { return world.device.disconnections == 1; }));
    CHECK(result == ENOTCONN);
    go = true;
}

TEST_CASE("window: GET_VRING_BASE gives up a map that the front end cannot answer meanwhile") {
    World world;
    world.device.window = kGiB;
    std::atomic<int> result = -1;
    world.device.on_request = [&](unsigned, auto chain) {
        const auto mapped = world.device.channel()->map(STDIN_FILENO, 0, 0, 4096, true);
        result = mapped.ok() ? 0 : mapped.error().errno_value();
        chain->complete(0);
    };
    std::atomic<bool> asked = false, go = false;
    std::atomic<int> answered = 0;
    Ready ready(world);
    ready.front.answer_back_end([&](auto...) {
        asked = true;
        while (!go) ::usleep(1000);
        return answered++ == 0 ? 1 : 0;  // the late answer is another one's
    });
    DriverQueue &queue = ready.front.add_queue(0);
    queue.submit("map", 1);
    REQUIRE(eventually([&] { return asked.load(); }));
    CHECK(ready.front.stop(0) == 1);
    CHECK(result == ECANCELED);
    go = true;
    ready.front.start(0, 1);
    queue.submit("map", 1);
    CHECK(queue.wait());
    REQUIRE(queue.wait());
    CHECK(result == 0);
}

TEST_CASE("window: an invalid answer ends the channel, not the back end") {
    World world;
    world.device.window = kGiB;
    Ready ready(world);
    int pair[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    const FileDescriptor ours(pair[0]), theirs(pair[1]);
    const int fds[] = {theirs.get()};
    REQUIRE(ready.front.ask(Request::set_backend_req_fd, {}, fds) == 0);
    const std::vector<char> nonsense(64, 'n');
    REQUIRE(::write(ours.get(), nonsense.data(), nonsense.size()) == 64);
    const auto channel = world.device.channel();
    CHECK(!channel->map(STDIN_FILENO, 0, 0, 4096, true).ok());
    CHECK(channel->map(STDIN_FILENO, 0, 0, 4096, true).error().errno_value() == ENOTCONN);
    CHECK(ready.front.get_number(Request::get_queue_num) == 3);
}

}  // namespace pmfs::test
