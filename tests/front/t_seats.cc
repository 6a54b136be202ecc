// How many requests may wait: further ones get an error.
//
// Holds docs/security.md "Nobody can have others wait for ever".
#include <fcntl.h>

#include "clients.h"
#include "front/clients/seats.h"

using namespace pmfs;
using namespace pmfs::test;

TEST_CASE("seats: users share them, by number and by bytes, and root has a part of its own") {
    front::Seats seats(/*bytes=*/1600, /*requests=*/16);
    std::vector<front::Seats::Seat> taken;
    const auto sits = [&](std::uint32_t user, std::size_t bytes) {
        auto seat = seats.take(user, bytes);
        if (seat) taken.push_back(seat);
        return seat != nullptr;
    };
    for (int i = 0; i < 8; ++i) CHECK(sits(1000, 1));
    CHECK_FALSE(sits(1000, 1));
    CHECK_FALSE(sits(1001, 801));
    CHECK(sits(1001, 800));
    CHECK_FALSE(sits(1001, 1));
    for (int i = 0; i < 5; ++i) CHECK(sits(1002, 1));
    CHECK_FALSE(sits(1003, 1));
    CHECK(sits(0, 100));
    CHECK(sits(0, 100));
    CHECK_FALSE(sits(0, 1));
    taken.clear();
    CHECK(sits(1000, 800));
    CHECK_FALSE(sits(1000, 1));
}

TEST_CASE("seats: a change that cannot wait for a lease, or for another change, is EAGAIN") {
    Leased leased;
    Wire &wire = leased.host;
    const OpenFile file = leased.file;
    const As other{.uid = 1000, .gid = 1000, .pid = 1};
    wire.lets_wait = false;
    CHECK(wire.truncate(file.node, 0, other) == EAGAIN);
    CHECK(wire.getattr(file.node).size == 4096);
    wire.lets_wait = true;
    wire.release(file);
    CHECK(wire.truncate(file.node, 0, other) == 0);
}

TEST_CASE(
    "seats: requests that cannot wait for write-back may read current data, but change nothing") {
    World world;
    Wire &wire = world.wire();
    const OpenFile cached = wire.create("cached");
    REQUIRE_FALSE(cached.direct());
    REQUIRE(wire.write(cached, 8192, "behind a hole") == 0);
    wire.sent();
    wire.lets_wait = false;
    CHECK(wire.getattr(cached.node).size == 8192 + 13);
    CHECK(wire.sent() == std::vector<std::string>{"reply 0"});
    fuse_lseek_in seek{.fh = cached.handle, .offset = 0, .whence = SEEK_DATA};
    CHECK(wire.call(FUSE_LSEEK, cached.node, bytes_text(seek)).error == EAGAIN);
    auto seal = versioned<pmfs_io_seal>();
    seal.level = PMFS_SEAL_AS_IS;
    CHECK(wire.ioctl(cached, PMFS_IOC_SEAL, &seal) == EAGAIN);
    wire.lets_wait = true;
    CHECK(wire.call(FUSE_LSEEK, cached.node, bytes_text(seek)).error == 0);
}
