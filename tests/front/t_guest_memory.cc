// A guest's memory that its VMM has taken away: truncated, or huge pages that are not there.  For
// us that is a SIGBUS in a copy.  It concerns that guest only, and is no failure of the medium.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <sstream>

#include "fsck/check.h"
#include "guest.h"
#include "pm/fault.h"
#include "pm/mapping.h"

using namespace pmfs;
using namespace pmfs::test;

namespace {

constexpr std::size_t kKept = 8 * kMiB, kFar = 12 * kMiB;  // of the guest's 16 MiB
constexpr std::uint32_t kLarge = 64 << 10;                 // copied only once

// What is logged during its life.
class Logged {
public:
    Logged() : before_(spdlog::default_logger()) {
        auto sink = std::make_shared<spdlog::sinks::ostream_sink_mt>(text_, true);
        spdlog::set_default_logger(std::make_shared<spdlog::logger>("test", sink));
    }
    ~Logged() { spdlog::set_default_logger(before_); }
    std::string text() const { return text_.str(); }

private:
    std::ostringstream text_;
    std::shared_ptr<spdlog::logger> before_;
};

struct Cut {
    Cut() : guest(host) {
        REQUIRE(guest.begin() == 0);
        file = guest.create("f");
        REQUIRE(guest.write(file, 0, std::string(2 * kLarge, 'x')) == 0);
    }
    void truncate() { REQUIRE(::ftruncate(guest.front.ram().fd(), kKept) == 0); }
    // The error of a request whose fixed part and whose answer's header are in memory that stays;
    // `address`: of the bytes.
    int call(std::uint32_t opcode, std::string_view body, std::uint64_t address,
             std::uint32_t size) {
        const bool writes = opcode == FUSE_WRITE;
        std::string message = guest.message(opcode, file.node, body);
        if (writes) {
            auto header = load<fuse_in_header>(std::as_bytes(std::span(message)));
            header.len += size;
            std::memcpy(message.data(), &header, sizeof header);
        }
        GuestRam &ram = guest.front.ram();
        const std::size_t mark = ram.used();
        const auto sent = ram.take(message.size()), head = ram.take(64);
        std::memcpy(ram.at(sent), message.data(), message.size());
        std::vector<DriverQueue::Piece> chain = {
            {ram.guest(sent), static_cast<std::uint32_t>(message.size()), false}};
        if (writes) chain.push_back({address, size, false});
        chain.push_back({ram.guest(head), writes ? 64u : 16u, true});
        if (!writes) chain.push_back({address, size, true});
        guest.front.queue(kRequests).submit(chain);
        REQUIRE(guest.front.queue(kRequests).wait());
        ram.give_back_to(mark);
        return -load<fuse_out_header>({ram.at(head), 16}).error;
    }
    int write(std::uint64_t offset, std::uint64_t address, std::uint32_t size = kLarge) {
        fuse_write_in in{};
        in.fh = file.handle;
        in.offset = offset;
        in.size = size;
        return call(FUSE_WRITE, bytes_text(in), address, size);
    }
    int read(std::uint64_t address, std::uint32_t size = kLarge) {
        fuse_read_in in{};
        in.fh = file.handle;
        in.size = size;
        return call(FUSE_READ, bytes_text(in), address, size);
    }
    // The volume is sound, and serves others.
    void check_others() {
        Wire &here = host.world.wire();
        CHECK(here.write(here.create("g"), 0, "words") == 0);
        CHECK_FALSE(host.world.volume().info().damaged);
        CHECK(logged.text().empty());
    }
    Logged logged;
    Host host;
    Guest guest;
    OpenFile file;
};

}  // namespace

TEST_CASE("guest memory: a write of bytes that were taken away is EFAULT, and no bad page") {
    Cut world;
    const std::uint64_t far = world.guest.front.ram().guest(kFar);
    world.truncate();
    SUBCASE("in place") {
        CHECK(world.write(0, far) == EFAULT);
        CHECK(world.write(kLarge, far, 4096) == EFAULT);
    }
    SUBCASE("to new blocks, of which the file gets none") {
        CHECK(world.write(1 << 20, far) == EFAULT);
        CHECK(world.guest.read(world.file, 2 * kLarge, 4096).empty());
    }
    SUBCASE("over the end") {
        CHECK(world.write(2 * kLarge - 4096, far) == EFAULT);
        CHECK(world.guest.read(world.file, 2 * kLarge, 4096).empty());
    }
    SUBCASE("half of them: a piece that is not there at its end") {
        CHECK(world.write(0, world.guest.front.ram().guest(kKept - 4096)) == EFAULT);
    }
    world.check_others();
}

TEST_CASE("guest memory: the host hears of a write of which a part was stored before it failed") {
    Cut world;
    Wire &here = world.host.world.wire();
    REQUIRE(here.lookup("f") == world.file.node);
    world.truncate();
    here.sent();
    CHECK(world.write(0, world.guest.front.ram().guest(kKept - 4096)) == EFAULT);
    const std::string node = std::to_string(world.file.node);
    CHECK(here.count_sent("pages " + node + " 0 65536") == 1);
    CHECK(here.read(here.open(world.file.node, O_RDONLY), 0, 4096).text() !=
          std::string(4096, 'x'));
    world.check_others();
}

TEST_CASE("guest memory: what was taken away does not come back as zeroes") {
    Cut world;
    const std::uint64_t far = world.guest.front.ram().guest(kFar);
    world.truncate();
    for (int i = 0; i < 3; ++i) {
        CHECK(world.write(1 << 20, far) == EFAULT);
        CHECK(world.write(1 << 20, far, 4096) == EFAULT);
        CHECK(world.read(far) == EFAULT);
    }
    CHECK(world.guest.read(world.file, 0, kLarge) == std::string(kLarge, 'x'));
    world.check_others();
}

TEST_CASE("guest memory: an answer for which there is no memory any more is EFAULT") {
    Cut world;
    const std::uint64_t far = world.guest.front.ram().guest(kFar);
    world.truncate();
    CHECK(world.read(far) == EFAULT);
    CHECK(world.read(far, 4096) == EFAULT);
    CHECK(world.guest.read(world.file, 0, kLarge) == std::string(kLarge, 'x'));
    world.check_others();
}

namespace {

std::size_t mappings() {
    std::ifstream maps("/proc/self/maps");
    return static_cast<std::size_t>(std::count(std::istreambuf_iterator<char>(maps), {}, '\n'));
}

}  // namespace

TEST_CASE("guest memory: what a VMM takes away costs the server little, however much it is") {
    Cut world;
    const GuestRam &ram = world.guest.front.ram();
    world.truncate();
    const std::size_t before = mappings();
    for (std::size_t at = kKept; at + 8192 <= ram.size(); at += 8192)
        CHECK(world.read(ram.guest(at), 4096) == EFAULT);
    CHECK(mappings() < before + 100);
    world.check_others();
}

TEST_CASE("guest memory: requests that were taken before lose all of it, and end no server") {
    constexpr std::size_t kPages = 8192, kPage = 4096;
    const FileDescriptor file(::memfd_create("guest", MFD_CLOEXEC));
    REQUIRE(::ftruncate(file.get(), kPages * kPage) == 0);
    const auto mapping =
        pm::Mapping::make(file.get(), kPages * kPage, PROT_READ | PROT_WRITE, MAP_SHARED).take();
    pm::UnitSet lost = pm::UnitSet::make(kPages * kPage, kPage).take();
    const pm::FaultGuard guard(mapping.start(), kPages * kPage, lost,
                               pm::FaultGuard::Whose::client);
    REQUIRE(::ftruncate(file.get(), 0) == 0);
    const std::size_t before = mappings();
    for (std::size_t i = 0; i < kPages; i += 2) mapping.start()[i * kPage] = std::byte{1};
    CHECK(pm::take_client_fault());
    CHECK(mappings() < before + 2500);
}

TEST_CASE("guest memory: huge pages that are not there end no server") {
    Cut world;
    // None is reserved, and none is free; and if one is, the file is cut.
    constexpr std::uint64_t kSize = 4 * kMiB, kPlace = 0x80'0000'0000;
    const FileDescriptor huge(::memfd_create("huge", MFD_CLOEXEC | MFD_HUGETLB));
    if (!huge.ok() || ::ftruncate(huge.get(), kSize) != 0) {
        MESSAGE("not tried: this kernel has no huge pages");
        return;
    }
    GuestRam &ram = world.guest.front.ram();
    const virtio::MemoryRegion regions[] = {ram.region(), {kPlace, kSize, 0x1000'0000'0000, 0}};
    std::string table(8, '\0');
    table[0] = 2;
    for (const auto &region : regions) table += bytes_text(region);
    const int fds[] = {ram.fd(), huge.get()};
    REQUIRE(world.guest.front.ask(virtio::Request::set_mem_table, std::as_bytes(std::span(table)),
                                  fds) == 0);
    REQUIRE(::ftruncate(huge.get(), 0) == 0);
    CHECK(world.write(0, kPlace + kMiB) == EFAULT);
    CHECK(world.read(kPlace + 3 * kMiB) == EFAULT);
    world.check_others();
}

TEST_CASE("guest memory: rings that were taken away stop this guest and nothing else") {
    Cut world;
    // (Without touching the rings here, too: their place is no memory any more.)
    const int kick = world.guest.front.queue(kRequests).kick_fd();
    REQUIRE(::ftruncate(world.guest.front.ram().fd(), 0) == 0);
    const std::uint64_t one = 1;
    REQUIRE(::write(kick, &one, sizeof one) == sizeof one);
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    world.check_others();
    world.guest.front.hang_up();
    Guest next(world.host);
    CHECK(next.begin() == 0);
    CHECK(next.lookup("f") != 0);
}
