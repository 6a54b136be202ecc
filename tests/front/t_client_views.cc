// What a client sees of others, and how its grants are counted.
#include <doctest/doctest.h>
#include <fcntl.h>

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "clients.h"

using namespace pmfs;
using namespace pmfs::test;
using front::IdMap;
using front::Policy;

TEST_CASE("clients: a grant that ended by itself does not count against its client any more") {
    MountOptions options;
    options.lease_break_ms = 20;
    World world({}, options);
    Policy policy = Policy::guest();
    policy.grants_max = 2;
    Wire guest(world.wire(), policy);
    const OpenFile a = written(guest, "a"), b = written(guest, "b"), c = written(guest, "c");
    REQUIRE((lease(guest, a) == 0 && lease(guest, b) == 0));
    CHECK(lease(guest, c) == ENOLCK);
    // It is asked for, and not given back in time.
    REQUIRE(world.wire().lookup("a") == a.node);
    fuse_setattr_in empty{};
    empty.valid = FATTR_SIZE;
    world.wire().post(FUSE_SETATTR, a.node, bytes_text(empty));
    REQUIRE(eventually([&] { return holders(world, a.node) == 0; }));
    CHECK(lease(guest, c) == 0);
    CHECK(lease(guest, b) == ENOLCK);
    guest.release(c);
    CHECK(lease(guest, b) == 0);
}

TEST_CASE("clients: a guest gets no process id, user id or path of the host") {
    World world;
    Wire &host = world.wire();
    const OpenFile file = host.create("f", {.uid = 7, .pid = 4711});
    REQUIRE(file.error == 0);
    REQUIRE(host.write(file, 0, std::string(4096, 'x')) == 0);
    REQUIRE(lease(host, file) == 0);
    Policy policy = Policy::guest();
    policy.users = IdMap({{0, 100'000, 1000}});
    Wire guest(host, policy);
    REQUIRE(guest.lookup("f") == file.node);
    const OpenFile own = guest.open(file.node, O_RDONLY, {.uid = 5});
    REQUIRE(own.error == 0);
    const auto rows = [&](Wire &wire, const OpenFile &by) {
        auto io = std::make_unique<pmfs_holders>();
        io->version = PMFS_ABI_VERSION;
        REQUIRE(wire.ioctl(by, PMFS_IOC_HOLDERS, io.get()) == 0);
        std::vector<std::pair<std::uint32_t, std::uint32_t>> all;
        for (unsigned i = 0; i < io->count; ++i)
            all.emplace_back(io->holder[i].pid, io->holder[i].uid);
        return all;
    };
    const auto count = [](const auto &seen, std::uint32_t pid, std::uint32_t uid) {
        return std::ranges::count(seen, std::pair{pid, uid});
    };
    const auto seen = rows(guest, own);
    CHECK(seen.size() == 3);
    CHECK(count(seen, 0, IdMap::kOverflow) == 2);  // the host's lease, and its open file
    CHECK(count(seen, 0, 5) == 1);
    const auto here = rows(host, file);
    CHECK(here.size() == 3);
    CHECK(count(here, 4711, 7) >= 1);
    CHECK(count(here, 0, 100'005) == 1);  // a guest's number is none of this machine's
    auto volume = versioned<pmfs_volume>();
    REQUIRE(guest.ioctl(own, PMFS_IOC_VOLUME, &volume) == 0);
    CHECK((volume.server_pid == 0 && volume.source[0] == 0));
    volume = versioned<pmfs_volume>();
    REQUIRE(host.ioctl(file, PMFS_IOC_VOLUME, &volume) == 0);
    CHECK(volume.server_pid == static_cast<std::uint32_t>(::getpid()));
}

TEST_CASE(
    "clients: a guest's kernel keeps nothing, and its opens do not hide stores from the host's") {
    World world;
    Wire &host = world.wire();
    const OpenFile file = written(host, "f");
    host.release(file);
    Wire guest(host, Policy::guest());
    const Reply found = guest.call(FUSE_LOOKUP, kRoot, name("f"));
    const auto entry = found.as<fuse_entry_out>();
    CHECK(entry.entry_valid + entry.entry_valid_nsec + entry.attr_valid + entry.attr_valid_nsec ==
          0);
    CHECK(guest.call(FUSE_LOOKUP, kRoot, name("none")).as<fuse_entry_out>().entry_valid == 0);
    const auto attr =
        guest.call(FUSE_GETATTR, file.node, bytes_text(fuse_getattr_in{})).as<fuse_attr_out>();
    CHECK(attr.attr_valid + attr.attr_valid_nsec == 0);
    const Reply opened = guest.call(FUSE_OPENDIR, kRoot, bytes_text(fuse_open_in{}));
    CHECK(opened.as<fuse_open_out>().open_flags == 0);
    const OpenFile own = guest.open(file.node, O_RDWR);
    CHECK((own.open_flags & FOPEN_KEEP_CACHE) == 0);
    const OpenFile cached = host.open(file.node, O_RDONLY);
    CHECK(cached.keeps_pages());
    host.release(cached);
    guest.release(own);
    const OpenFile direct = host.open(file.node, O_RDWR | O_DIRECT);
    CHECK(host.write(direct, 0, "y") == 0);  // past pages that the host's kernel has kept
    CHECK(guest.open(file.node, O_RDONLY).error == 0);
    CHECK(!host.open(file.node, O_RDONLY).keeps_pages());
}

TEST_CASE("clients: the host's kernel hears of a guest's write that is given up while it waits") {
    enum End { early, late, leaves };  // (an interruption may come before it waits)
    for (const End end : {early, late, leaves}) {
        CAPTURE(end);
        Leased leased;
        World &world = leased.world;
        Wire &host = leased.host;
        const OpenFile file = leased.file;
        Wire guest(host, Policy::guest());
        REQUIRE(guest.lookup("f") == file.node);
        const OpenFile own = guest.open(file.node, O_RDWR);
        guest.sent();
        fuse_write_in in{.fh = own.handle, .offset = 4096, .size = 1};
        const std::uint64_t waiting =
            guest.post(FUSE_WRITE, file.node, bytes_text(in) + "y");  // needs another block
        const auto breaks = [&] {
            const auto all = world.volume().holders(InodeNo(file.node));
            return all.ok() && all.value().size() == 1 && all.value()[0].breaking;
        };
        if (end != early) REQUIRE(eventually(breaks));
        host.sent();
        if (end == leaves) {
            guest.leave();
        } else {
            guest.post(FUSE_INTERRUPT, 0, bytes_text(fuse_interrupt_in{.unique = waiting}));
            CHECK(eventually(
                [&] { return guest.sent() == std::vector{"reply " + std::to_string(EINTR)}; }));
        }
        host.dispatcher().finish_notifications();
        const auto heard = host.sent();
        CHECK(std::ranges::count(heard, "pages " + std::to_string(file.node) + " 0 0") == 1);
        CHECK(guest.sent().empty());
    }
}
