// Which requests each client has sent: PMFS_IOC_CLIENTS.
#include <doctest/doctest.h>
#include <fcntl.h>

#include <algorithm>
#include <functional>

#include "world.h"

using namespace pmfs;
using namespace pmfs::test;
using front::Policy;

namespace {

pmfs_clients question() {
    pmfs_clients io{};
    io.version = PMFS_ABI_VERSION;
    return io;
}

// A file of one block that the wire has open.
OpenFile written(Wire &wire) {
    const OpenFile file = wire.create("f");
    REQUIRE(wire.write(file, 0, std::string(4096, 'x')) == 0);
    return file;
}

}  // namespace

TEST_CASE("clients: root of the host sees what requests each has sent, others see their own only") {
    World world;
    Wire &host = world.wire();
    const OpenFile file = written(host);
    auto guest = std::make_unique<Wire>(host, Policy::guest());
    REQUIRE(guest->lookup("f") == file.node);
    const OpenFile own = guest->open(file.node, O_RDONLY);
    for (int i = 0; i < 3; ++i) REQUIRE(guest->read(own, 0, 1).text() == "x");
    const auto asked = [](Wire &wire, const OpenFile &by, As as = {}) {
        auto io = std::make_unique<pmfs_clients>(question());
        REQUIRE(wire.ioctl(by, PMFS_IOC_CLIENTS, io.get(), as) == 0);
        CHECK(io->next == 0);
        return io;
    };
    auto seen = asked(host, file);
    REQUIRE(seen->count == 2);
    CHECK(seen->client[0].id == 0);
    CHECK(seen->client[0].flags == 0);
    CHECK(seen->client[0].requests[FUSE_WRITE] == 1);
    CHECK(seen->client[0].requests[FUSE_READ] == 0);
    CHECK(seen->client[1].flags == PMFS_CLIENT_GUEST);
    CHECK(seen->client[1].requests[FUSE_READ] == 3);
    CHECK(seen->client[1].requests[FUSE_WRITE] == 0);
    auto of_guest = asked(*guest, own);
    REQUIRE(of_guest->count == 1);
    CHECK(of_guest->client[0].id == seen->client[1].id);
    auto of_user = asked(host, file, {.uid = 1000});
    REQUIRE(of_user->count == 1);
    CHECK(of_user->client[0].id == 0);
    guest.reset();
    CHECK(asked(host, file)->count == 1);
}

TEST_CASE("clients: more of them than fit into one answer are listed in pages") {
    World world;
    Wire &host = world.wire();
    const OpenFile file = written(host);
    std::vector<std::unique_ptr<Wire>> guests;
    for (std::size_t i = 0; i < PMFS_CLIENTS_MAX + 4; ++i)
        guests.push_back(std::make_unique<Wire>(host, Policy::guest()));
    auto page = std::make_unique<pmfs_clients>(question());
    std::vector<std::uint64_t> ids;
    do {
        page->from = page->next;
        REQUIRE(host.ioctl(file, PMFS_IOC_CLIENTS, page.get()) == 0);
        for (std::uint32_t i = 0; i < page->count; ++i) ids.push_back(page->client[i].id);
    } while (page->next != 0);
    CHECK(ids.size() == guests.size() + 1);
    CHECK(std::ranges::is_sorted(ids, std::less_equal<>()));
}
