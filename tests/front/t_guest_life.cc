// Guests whose queues are stopped, and whose devices are reset.
#include <doctest/doctest.h>

#include "guest.h"

using namespace pmfs;
using namespace pmfs::test;

TEST_CASE("guest: one that sends what is no request, again and again, does not fill the log") {
    Host host;
    Guest guest(host);
    REQUIRE(guest.begin() == 0);
    const std::size_t before = host.logged().size();
    for (int i = 0; i < 300; ++i) {
        const std::size_t mark = guest.front.ram().used();
        guest.front.queue(kRequests).submit("short", 4096, 3);
        REQUIRE(guest.front.queue(kRequests).wait());
        guest.front.ram().give_back_to(mark);
    }
    const auto logged = host.logged();
    CHECK(logged.size() == before + MessageLimit::kBurst);
    CHECK(logged.back().ends_with("the guest sent what is no request"));
}

TEST_CASE(
    "guest: a queue that the VMM stops does not wait for a lease: the request is interrupted") {
    Host host;
    Wire &here = host.world.wire();
    const OpenFile file = here.create("f");
    REQUIRE(here.write(file, 0, "words") == 0);
    pmfs_io_grant lease{};
    lease.version = PMFS_ABI_VERSION;
    lease.kind = PMFS_GRANT_BREAKABLE;
    REQUIRE(here.ioctl(file, PMFS_IOC_GRANT, &lease) == 0);
    Guest guest(host);
    REQUIRE(guest.begin() == 0);
    REQUIRE(guest.lookup("f") == file.node);
    fuse_setattr_in empty{};
    empty.valid = FATTR_SIZE;
    DriverQueue &queue = guest.front.queue(kRequests);
    queue.submit(guest.message(FUSE_SETATTR, file.node, bytes_text(empty)), 4096, 3);
    REQUIRE(comes([&] {
        const auto holders = host.world.volume().holders(InodeNo(file.node));
        return holders.ok() && holders.value().size() == 1 && holders.value()[0].breaking;
    }));
    CHECK(!queue.poll());
    guest.front.stop(kRequests);  // (returns when nothing is under way)
    const auto used = queue.poll();
    REQUIRE(used);
    CHECK(guest.reply(used->bytes, used->written).error == EINTR);
    CHECK(here.getattr(file.node).size == 5);
}

TEST_CASE(
    "guest: one that sees only a subdirectory does not see more after a reset of its device") {
    front::GuestOptions options;
    Host host([&options](Wire &here) {
        options.policy.root = InodeNo(here.make_node("sub", S_IFDIR | 0755));
        return options;
    });
    Wire &here = host.world.wire();
    const std::uint64_t sub = here.lookup("sub");
    const OpenFile outside = here.create("outside");
    Guest guest(host);
    for (int boot = 0; boot < 3; ++boot) {
        CAPTURE(boot);
        REQUIRE(guest.begin() == 0);
        CHECK(guest.lookup("outside") == 0);
        CHECK(guest.lookup("..") == kRoot);
        CHECK(guest.call(FUSE_GETATTR, outside.node, bytes_text(fuse_getattr_in{})).error ==
              ESTALE);
        const Reply root = guest.call(FUSE_GETATTR, kRoot, bytes_text(fuse_getattr_in{}));
        CHECK(root.as<fuse_attr_out>().attr.ino == sub);
        CHECK(guest.create("inside" + std::to_string(boot)).error == 0);
        REQUIRE(guest.front.ask(virtio::Request::reset_device) == 0);
        for (const unsigned queue : {kUrgent, kRequests}) {
            guest.front.queue(queue).restart();
            guest.front.start(queue);
        }
    }
    CHECK(here.lookup("inside0") == 0);
}
