// The guest's memory: which tables are refused, how addresses are resolved, and what lives how
// long.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "virtio/test_device.h"

namespace pmfs::test {

using namespace std::chrono_literals;
using virtio::GuestMemory;
using virtio::MemoryOwner;
using virtio::MemoryRegion;

namespace {

FileDescriptor memory_of(std::size_t size) {
    FileDescriptor fd(::memfd_create("guest", MFD_CLOEXEC));
    REQUIRE(::ftruncate(fd.get(), static_cast<off_t>(size)) == 0);
    return fd;
}

FileDescriptor copy_of(const FileDescriptor &fd) {
    return FileDescriptor(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 0));
}

constexpr std::uint64_t kMost = ~std::uint64_t{0};

// Puts a region into the table by a message.
std::uint64_t add(FrontEnd &front, const MemoryRegion &region, int fd) {
    const virtio::SingleRegion single = {0, region};
    const int fds[] = {fd};
    return front.ask(virtio::Request::add_mem_reg, bytes_of(single), fds);
}

}  // namespace

TEST_CASE("memory: a region that is empty, wraps, or is longer than its file is refused") {
    MemoryOwner nobody;
    GuestMemory memory(nobody);
    const FileDescriptor fd = memory_of(64 * kKiB);
    CHECK(memory.add({0, 64 * kKiB, 0, 0}, fd).ok());
    const MemoryRegion bad[] = {
        {kMiB, 0, kMiB, 0},                       // empty
        {kMost - 4095, 8192, kMiB, 0},            // guest addresses wrap
        {kMiB, 8192, kMost - 4095, 0},            // user addresses wrap
        {kMiB, 8192, kMiB, kMost - 4095},         // offsets wrap
        {kMiB, 64 * kKiB + 1, kMiB, 0},           // longer than the file
        {kMiB, 4096, kMiB, 64 * kKiB},            // behind its end
        {kMiB, std::uint64_t{1} << 60, kMiB, 0},  // absurd
        {32 * kKiB, 32 * kKiB, kMiB, 0},          // overlaps
        {64 * kKiB - 1, 1, kMiB, 0},              // by a byte
        {0, 64 * kKiB, kMiB, 0},                  // twice
    };
    for (const MemoryRegion &region : bad) CHECK(!memory.add(region, fd).ok());
    CHECK(memory.table()->entries().size() == 1);
    const MemoryRegion two[] = {{kMiB, 8192, kMiB, 0}, {kMiB + 4096, 8192, 2 * kMiB, 0}};
    const FileDescriptor fds[] = {copy_of(fd), copy_of(fd)};
    CHECK(!memory.set(two, fds).ok());
    CHECK(memory.table()->entries().size() == 1);
}

TEST_CASE("memory: a descriptor that is no memory is refused") {
    MemoryOwner nobody;
    GuestMemory memory(nobody);
    int ends[2];
    REQUIRE(::pipe(ends) == 0);
    const FileDescriptor pipe_end(ends[0]), other_end(ends[1]);
    const FileDescriptor zero(::open("/dev/zero", O_RDWR | O_CLOEXEC));
    const FileDescriptor directory(::open("/", O_RDONLY | O_CLOEXEC));
    const FileDescriptor sealed(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
    for (const FileDescriptor *fd : {&pipe_end, &zero, &directory, &sealed})
        CHECK(!memory.add({0, 4096, 0, 0}, *fd).ok());
}

TEST_CASE("memory: a region that cannot be guarded against its loss is refused") {
    TestDevice device;
    GuestMemory memory(device);
    const FileDescriptor fd = memory_of(64 * kKiB);
    device.cannot_guard = true;
    CHECK(!memory.add({0, 64 * kKiB, 0, 0}, fd).ok());
    CHECK(memory.table()->entries().empty());
    device.cannot_guard = false;
    CHECK(memory.add({0, 64 * kKiB, 0, 0}, fd).ok());
}

TEST_CASE("memory: offsets and sizes need not be whole pages") {
    MemoryOwner nobody;
    GuestMemory memory(nobody);
    const FileDescriptor fd = memory_of(64 * kKiB);
    REQUIRE(::pwrite(fd.get(), "here", 4, 5001) == 4);
    REQUIRE(memory.add({kMiB, 9000, kGiB, 5001}, fd).ok());
    std::vector<iovec> pieces;
    REQUIRE(memory.table()->translate(kMiB, 4, &pieces));
    CHECK(std::memcmp(pieces.at(0).iov_base, "here", 4) == 0);
    CHECK(memory.table()->at_user(kGiB, 9000) == pieces[0].iov_base);
    CHECK(memory.table()->at_user(kGiB, 9001) == nullptr);
    CHECK(memory.table()->at_user(kGiB - 1, 1) == nullptr);
}

TEST_CASE("memory: huge pages are mapped in their units") {
    const FileDescriptor fd(::memfd_create("huge", MFD_CLOEXEC | MFD_HUGETLB));
    if (!fd.ok() || ::ftruncate(fd.get(), 8 * kMiB) != 0) {
        MESSAGE("no huge pages here");
        return;
    }
    MemoryOwner nobody;
    GuestMemory memory(nobody);
    CHECK(memory.add({0, 2 * kMiB, 0, kMiB}, fd).ok());  // (mapped only: there may be no page)
}

TEST_CASE("memory: a range over adjacent regions is several pieces; one over a gap is refused") {
    MemoryOwner nobody;
    GuestMemory memory(nobody);
    const FileDescriptor fd = memory_of(64 * kKiB);
    REQUIRE(memory.add({8192, 4096, 0x20000, 4096}, fd).ok());
    REQUIRE(memory.add({4096, 4096, 0x10000, 0}, fd).ok());
    REQUIRE(memory.add({0x10000, 4096, 0x30000, 0}, fd).ok());
    const auto table = memory.table();
    std::vector<iovec> pieces(1);
    REQUIRE(table->translate(8000, 300, &pieces));
    REQUIRE(pieces.size() == 3);
    CHECK(pieces[1].iov_len == 192);
    CHECK(pieces[2].iov_len == 108);
    CHECK(table->translate(4096, 8192, &pieces));
    const std::size_t before = pieces.size();
    for (const auto &[guest, size] : std::initializer_list<std::pair<std::uint64_t, std::uint64_t>>{
             {4096, 8193}, {4095, 2}, {0, 1}, {12288, 1}, {0xffff, 2}, {kMost, 2}, {4096, kMost}})
        CHECK(!table->translate(guest, size, &pieces));
    CHECK(pieces.size() == before);
}

TEST_CASE("memory: a table stays mapped as long as it is held") {
    TestDevice device;
    GuestMemory memory(device);
    const FileDescriptor fd = memory_of(8192);
    REQUIRE(memory.add({0, 8192, 0, 0}, fd).ok());
    auto held = memory.table();
    CHECK(device.mapped == 1);
    CHECK(!memory.remove({0, 4096, 0, 0}).ok());
    CHECK(!memory.remove({0, 8192, 1, 0}).ok());
    CHECK(memory.remove({0, 8192, 0, 77}).ok());
    CHECK(memory.table()->entries().empty());
    CHECK(device.mapped == 1);
    std::vector<iovec> pieces;
    REQUIRE(held->translate(0, 8192, &pieces));
    static_cast<char *>(pieces[0].iov_base)[8191] = 'x';
    held.reset();
    CHECK(device.mapped == 0);
}

TEST_CASE("memory: regions that a new table shares with the old one are not mapped again") {
    TestDevice device;
    GuestMemory memory(device);
    const FileDescriptor fd = memory_of(8192);
    const MemoryRegion region = {0, 8192, 0, 0};
    const FileDescriptor fds[] = {copy_of(fd)}, others[] = {memory_of(8192)};
    REQUIRE(memory.set({&region, 1}, fds).ok());
    const std::byte *const first = memory.table()->at_user(0, 1);
    const auto held = memory.table();
    REQUIRE(memory.set({&region, 1}, fds).ok());
    CHECK(memory.table()->at_user(0, 1) == first);
    REQUIRE(memory.set({&region, 1}, others).ok());  // another file
    CHECK(memory.table()->at_user(0, 1) != first);
}

TEST_CASE("memory: the owner resolves its window itself, and its own entries are not mapped") {
    World world;
    GuestRam window(64 * kKiB, 0x8'0000'0000, 0x7100'0000'0000);
    static std::byte real[4096];
    std::memset(real, 'w', sizeof real);
    auto hold = std::make_shared<int>(1);
    std::atomic<bool> refuse = false;
    world.device.on_owns = [&](const MemoryRegion &region, int) {
        return region.guest == window.guest(0);
    };
    world.device.on_resolve = [&](std::uint64_t guest, std::uint64_t size, virtio::Access access,
                                  std::vector<iovec> *pieces, std::shared_ptr<const void> *held) {
        if (guest < window.guest(0) || guest >= window.guest(4096))
            return MemoryOwner::Answer::not_mine;
        if (refuse || access == virtio::Access::store) return MemoryOwner::Answer::refused;
        pieces->push_back({real, size});
        *held = hold;
        return MemoryOwner::Answer::mine;
    };
    std::atomic<bool> whole = false;
    std::atomic<long> holders = 0;
    world.device.on_request = [&](unsigned, auto chain) {
        whole = chain->whole();
        holders = hold.use_count();
        TestDevice::echo(*chain);
    };
    Ready ready(world);
    FrontEnd &front = ready.front;
    struct {
        std::uint32_t count = 2, padding = 0;
        MemoryRegion regions[2];
    } table{.regions = {front.ram().region(), window.region()}};
    const int fds[] = {front.ram().fd(), window.fd()};
    REQUIRE(front.ask(virtio::Request::set_mem_table, bytes_of(table), fds) == 0);
    CHECK(world.device.mapped == 1);
    DriverQueue &queue = front.add_queue(0);
    const std::size_t buffer = front.ram().take(64);
    const auto attempt = [&](std::uint64_t from) {
        queue.submit({{from, 16, false}, {front.ram().guest(buffer), 16, true}});
        const auto used = queue.wait();
        REQUIRE(used);
        return used->written;
    };
    CHECK(attempt(window.guest(0)) == 16);
    CHECK(std::memcmp(front.ram().at(buffer), "wwwwwwwwwwwwwwww", 16) == 0);
    CHECK(whole);
    CHECK(holders == 2);
    CHECK(eventually([&] { return hold.use_count() == 1; }));
    refuse = true;
    CHECK(attempt(window.guest(0)) == 0);
    CHECK(!whole);
    refuse = false;
    CHECK(attempt(window.guest(8192)) == 0);  // not the owner's, and the entry does not count
    CHECK(!whole);
    queue.submit({{front.ram().guest(buffer), 16, false}, {window.guest(0), 16, true}});
    CHECK(queue.wait()->written == 0);
}

TEST_CASE("memory: regions come and go one by one under a running queue") {
    World world(virtio::SessionOptions{.memory_slots = true});
    Ready ready(world);
    FrontEnd &front = ready.front;
    DriverQueue &queue = front.add_queue(0);
    const std::size_t buffer = front.ram().take(64);
    for (int i = 0; i < 100; ++i) {
        GuestRam more(64 * kKiB, 0x9'0000'0000, 0x7200'0000'0000);
        REQUIRE(add(front, more.region(), more.fd()) == 0);
        std::memcpy(more.at(0), "there", 5);
        queue.submit({{more.guest(0), 5, false}, {front.ram().guest(buffer), 5, true}});
        const auto used = queue.wait();
        REQUIRE(used);
        CHECK(used->written == 5);
        const virtio::SingleRegion single = {0, more.region()};
        REQUIRE(front.ask(virtio::Request::rem_mem_reg, bytes_of(single)) == 0);
        CHECK(front.ask(virtio::Request::rem_mem_reg, bytes_of(single)) == 1);
        queue.submit({{more.guest(0), 5, false}, {front.ram().guest(buffer), 5, true}});
        CHECK(queue.wait()->written == 0);
    }
    CHECK(eventually([&] { return world.device.mapped == 1; }));
}

TEST_CASE(
    "memory: a table sent again and again disturbs no queue, and one without rings breaks it") {
    World world;
    Ready ready(world);
    FrontEnd &front = ready.front;
    DriverQueue &queue = front.add_queue(0, 64);
    std::atomic<bool> end = false;
    std::thread driver([&] {
        const std::size_t mark = front.ram().used();
        while (!end) {
            front.ram().give_back_to(mark);
            queue.submit("busy", 8);
            if (!queue.wait()) break;
        }
    });
    for (int i = 0; i < 300; ++i) front.share_memory();
    end = true;
    driver.join();
    queue.submit("still", 8);
    CHECK(queue.wait());
    GuestRam other(4096, 0, 0);
    struct {
        std::uint32_t count = 1, padding = 0;
        MemoryRegion region;
    } table{.region = other.region()};
    const int fds[] = {other.fd()};
    CHECK(front.ask(virtio::Request::set_mem_table, bytes_of(table), fds) == 0);
    CHECK(world.device.breaks == 1);
    CHECK(front.stop(0) == queue.next_available());
}

TEST_CASE("memory: a table without the rings may come while the queue looks at them") {
    MemoryOwner nobody;
    GuestMemory memory(nobody);
    const FileDescriptor fd = memory_of(4096);
    REQUIRE(memory.add({0, 4096, 0, 0}, fd).ok());
    const virtio::Virtqueue::Setup setup = {.size = 16, .available = 1024, .used = 2048};
    std::atomic<int> breaks = 0;
    for (int i = 0; i < 300; ++i) {
        const auto queue = virtio::Virtqueue::make(setup, memory.table(), nobody,
                                                   [&](const std::string &) { ++breaks; });
        REQUIRE(queue.ok());
        std::atomic<int> looks = 0;
        const int before = breaks;
        std::vector<std::thread> looking;
        for (int t = 0; t < 4; ++t) {
            looking.emplace_back([&, it = queue.value()] {
                for (; breaks == before; ++looks) {
                    it->stop_kicks();
                    it->want_kicks();
                    it->take();
                }
            });
        }
        while (looks < 10) ::usleep(10);
        queue.value()->set_memory(std::make_shared<virtio::MemoryTable>());
        for (std::thread &thread : looking) thread.join();
    }
    CHECK(breaks == 300);
}

}  // namespace pmfs::test
