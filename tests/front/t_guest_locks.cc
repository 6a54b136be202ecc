// File locks of a guest, by virtqueues: waiting requests may occupy only a part of a queue.
//
// Holds docs/guests.md "File locks".
#include <doctest/doctest.h>
#include <fcntl.h>

#include <chrono>

#include "guest.h"

using namespace pmfs;
using namespace pmfs::test;

TEST_CASE(
    "guest: waits for locks take half of a queue, however it counts, and others get through") {
    for (const bool indirect : {false, true}) {
        CAPTURE(indirect);
        Host host;
        Wire &here = host.world.wire();
        Guest guest(host, indirect);
        REQUIRE(guest.begin() == 0);
        const OpenFile file = guest.create("f");
        const auto lock = [&](std::uint64_t handle, std::uint64_t owner, std::uint32_t type) {
            return bytes_text(fuse_lk_in{
                .fh = handle, .owner = owner, .lk = {.start = 0, .end = INT64_MAX, .type = type}});
        };
        const OpenFile held = here.open(here.lookup("f"), O_RDWR);
        REQUIRE(here.call(FUSE_SETLK, held.node, lock(held.handle, 1, F_WRLCK)).error == 0);
        DriverQueue &queue = guest.front.queue(kRequests);
        // In two descriptors each, or one.
        const unsigned fit = queue.size() / 2 / (indirect ? 1 : 2);
        for (unsigned i = 0; i < fit; ++i)
            queue.submit(guest.message(FUSE_SETLKW, file.node, lock(file.handle, 10 + i, F_RDLCK)),
                         64);
        CHECK(!queue.wait(std::chrono::milliseconds(50)));
        CHECK(guest.call(FUSE_SETLKW, file.node, lock(file.handle, 9, F_RDLCK)).error == ENOLCK);
        CHECK(guest.call(FUSE_SETLK, file.node, lock(file.handle, 9, F_RDLCK)).error == EAGAIN);
        CHECK(guest.write(file, 0, "others") == 0);
        REQUIRE(here.call(FUSE_SETLK, held.node, lock(held.handle, 1, F_UNLCK)).error == 0);
        for (unsigned i = 0; i < fit; ++i) {
            const auto used = queue.wait();
            REQUIRE(used);
            CHECK(load<fuse_out_header>(std::as_bytes(std::span(used->bytes))).error == 0);
        }
        CHECK(guest.call(FUSE_SETLKW, file.node, lock(file.handle, 9, F_RDLCK)).error == 0);
        CHECK(here.call(FUSE_SETLK, held.node, lock(held.handle, 1, F_WRLCK)).error == EAGAIN);
        guest.front.hang_up();
        CHECK(comes([&] {
            return here.call(FUSE_SETLK, held.node, lock(held.handle, 1, F_WRLCK)).error == 0;
        }));
    }
}

TEST_CASE("guest: stopping a queue ends its waiting requests for locks") {
    Host host;
    Wire &here = host.world.wire();
    Guest guest(host);
    REQUIRE(guest.begin() == 0);
    const OpenFile file = guest.create("f");
    const OpenFile held = here.open(here.lookup("f"), O_RDWR);
    fuse_lk_in in{.fh = held.handle, .owner = 1, .lk = {.end = INT64_MAX, .type = F_WRLCK}};
    REQUIRE(here.call(FUSE_SETLK, held.node, bytes_text(in)).error == 0);
    in.fh = file.handle;
    guest.front.queue(kRequests).submit(guest.message(FUSE_SETLKW, file.node, bytes_text(in)), 64);
    CHECK(!guest.front.queue(kRequests).wait(std::chrono::milliseconds(50)));
    guest.front.stop(kRequests);
    const auto used = guest.front.queue(kRequests).poll();
    REQUIRE(used);
    CHECK(-load<fuse_out_header>(std::as_bytes(std::span(used->bytes))).error == ENOLCK);
}
