// Bad pages: the request that met one fails, whatever else came of it, and no other does.
//
// Holds docs/persistence.md "SIGBUS".
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <functional>
#include <set>

#include "pm/fault.h"
#include "pm/region.h"
#include "world.h"

using namespace pmfs;
using namespace pmfs::test;

namespace {

constexpr std::uint64_t kRoot = FUSE_ROOT_ID;

std::string name(const char *text) {
    return std::string(text) + '\0';
}

// One of every request that can succeed, on a file with content.
struct Innocent {
    std::string what;
    std::function<int(Wire &, const OpenFile &)> ask;
};

template <class In>
std::function<int(Wire &, const OpenFile &)> plain(std::uint32_t opcode, In in) {
    return [=](Wire &wire, const OpenFile &file) {
        return wire.call(opcode, file.node, bytes_text(in)).error;
    };
}

fuse_getxattr_in xattr_sized() {
    return {.size = 4096, .padding = 0};
}

const Innocent kInnocents[] = {
    {"getattr", plain(FUSE_GETATTR, fuse_getattr_in{})},
    {"lookup", [](Wire &wire, auto &) { return wire.call(FUSE_LOOKUP, kRoot, name("f")).error; }},
    {"lookup of nothing",
     [](Wire &wire, auto &) { return wire.call(FUSE_LOOKUP, kRoot, name("none")).error; }},
    {"setattr", [](Wire &wire, auto &file) { return wire.truncate(file.node, 8192); }},
    {"read", [](Wire &wire, auto &file) { return wire.read(file, 0, 4096).error; }},
    {"read at the end", [](Wire &wire, auto &file) { return wire.read(file, 1 << 20, 9).error; }},
    {"write", [](Wire &wire, auto &file) { return wire.write(file, 0, "some words"); }},
    {"append", [](Wire &wire, auto &file) { return wire.write(file, 9000, "some words"); }},
    {"fallocate", [](Wire &wire, auto &file) { return wire.fallocate(file, 0, 0, 1 << 16); }},
    {"setxattr", [](Wire &wire, auto &file) { return wire.setxattr(file.node, "user.a", "b"); }},
    {"getxattr", [](Wire &wire, auto &file) { return wire.getxattr(file.node, "user.a").error; }},
    {"listxattr", plain(FUSE_LISTXATTR, xattr_sized())},
    {"statfs", [](Wire &wire, auto &) { return wire.call(FUSE_STATFS, kRoot, "").error; }},
    {"readdir",
     [](Wire &wire, auto &) {
         return wire.call(FUSE_READDIR, kRoot, bytes_text(fuse_read_in{.size = 4096})).error;
     }},
    {"readdirplus",
     [](Wire &wire, auto &) {
         return wire.call(FUSE_READDIRPLUS, kRoot, bytes_text(fuse_read_in{.size = 4096})).error;
     }},
    {"fsync",
     [](Wire &wire, auto &file) {
         return wire.call(FUSE_FSYNC, file.node, bytes_text(fuse_fsync_in{.fh = file.handle}))
             .error;
     }},
    {"ioctl",
     [](Wire &wire, auto &file) {
         pmfs_info io{};
         io.version = PMFS_ABI_VERSION;
         return wire.ioctl(file, PMFS_IOC_INFO, &io);
     }},
    {"prepare, which another thread does",
     [](Wire &wire, auto &file) {
         pmfs_io_prepare io{};
         io.version = PMFS_ABI_VERSION;
         return wire.ioctl(file, PMFS_IOC_PREPARE, &io);
     }},
    {"mkdir", [](Wire &wire, auto &) { return wire.make_node("d", S_IFDIR | 0755) ? 0 : EIO; }},
    {"link", [](Wire &wire, auto &file) { return wire.link(file.node, "l"); }},
    {"rename", [](Wire &wire, auto &) { return wire.rename("l", "m"); }},
    {"unlink", [](Wire &wire, auto &) { return wire.unlink("m"); }},
    {"create", [](Wire &wire, auto &) { return wire.create("g").error; }},
    {"open", [](Wire &wire, auto &file) { return wire.open(file.node, O_RDONLY).error; }},
};

void check_innocents(Wire &wire, const OpenFile &file) {
    for (const Innocent &one : kInnocents) {
        CAPTURE(one.what);
        CHECK(one.ask(wire, file) == 0);
    }
}

}  // namespace

TEST_CASE("no request fails because earlier work on the same thread met a bad page") {
    World world;
    Wire &wire = world.wire();
    const OpenFile file = wire.create("f");
    REQUIRE(wire.write(file, 0, std::string(8192, 'x')) == 0);
    for (const Innocent &one : kInnocents) {
        CAPTURE(one.what);
        pm::raise_fault();
        CHECK(one.ask(wire, file) == 0);
    }
    CHECK(pm::take_fault());  // what is around a request keeps its own
    CHECK(wire.unlink("none") == ENOENT);
}

TEST_CASE("an inode on a bad page is EIO, even if zeroes are valid there, and only once") {
    for (const bool lookup : {false, true}) {
        World world;
        Wire &wire = world.wire();
        const OpenFile file = wire.create("f");
        REQUIRE(wire.write(file, 0, "x") == 0);
        std::uint64_t far = 0;  // an inode on another page
        for (int i = 0; i < 20; ++i) far = wire.make_node("n" + std::to_string(i), S_IFREG | 0644);
        REQUIRE(world.place_of_inode(far) / 4096 != world.place_of_inode(file.node) / 4096);
        world.make_bad(world.place_of_inode(far));
        if (lookup) {
            CHECK(wire.call(FUSE_LOOKUP, kRoot, name("n19")).error == EIO);
        } else {
            CHECK(wire.call(FUSE_GETATTR, far, bytes_text(fuse_getattr_in{})).error == EIO);
        }
        check_innocents(wire, file);
    }
}

TEST_CASE("a bad page does not end the server when another thread than a server's meets it") {
    World world;
    Wire &wire = world.wire();
    const OpenFile file = wire.create("f");
    REQUIRE(wire.write(file, 0, std::string(8192, 'x')) == 0);
    world.make_bad(world.place_of_inode(file.node));
    pmfs_io_prepare io{};
    io.version = PMFS_ABI_VERSION;
    CHECK(wire.ioctl(file, PMFS_IOC_PREPARE, &io) == EIO);
    CHECK(wire.call(FUSE_STATFS, kRoot, "").error == 0);
}

TEST_CASE("data on a bad page is EIO by read, and the next requests are answered") {
    World world;
    Wire &wire = world.wire();
    const OpenFile bad = wire.create("bad"), file = wire.create("f");
    REQUIRE(wire.write(bad, 0, std::string(4096, 'x')) == 0);
    REQUIRE(wire.write(file, 0, std::string(8192, 'x')) == 0);
    world.make_bad(world.place_of_data(bad.node));
    CHECK(wire.write(bad, 0, "y") == EIO);
    CHECK(wire.write(file, 0, "y") == 0);
    CHECK(wire.read(bad, 0, 4096).error == EIO);
    check_innocents(wire, file);
}

TEST_CASE("every request has the same result when no block of metadata is in memory") {
    std::set<std::uint64_t> there;
    std::size_t absent = 0;
    MountOptions options;
    options.absent_hook = [&](BlockNo block) {
        const bool first = there.insert(block.value()).second;
        absent += first;
        return first;
    };
    options.no_background = true;
    World world({}, options);
    Wire &wire = world.wire();
    const OpenFile file = wire.create("f");
    REQUIRE(wire.write(file, 0, std::string(8192, 'x')) == 0);
    for (const Innocent &one : kInnocents) {
        CAPTURE(one.what);
        there.clear();
        const std::size_t before = absent;
        CHECK(one.ask(wire, file) == 0);
        if (one.what == "lookup" || one.what == "create" || one.what == "append")
            CHECK(absent > before);
    }
    there.clear();
    CHECK(wire.unlink("none") == ENOENT);
    there.clear();
    CHECK(wire.call(FUSE_LOOKUP, kRoot, name("none")).as<fuse_entry_out>().nodeid == 0);
    there.clear();
    CHECK(wire.read(file, 0, 4).text() == "some");
    there.clear();
    const Reply list = wire.call(FUSE_READDIRPLUS, kRoot, bytes_text(fuse_read_in{.size = 4096}));
    CHECK(list.text().find('d') != std::string::npos);
}
