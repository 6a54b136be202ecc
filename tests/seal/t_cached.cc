// Who caches a file that is sealed full: what the server says to open(2), what it tells the kernel
// of a write that goes past the cache, and guests (tests/seal/t_cached.py asks a real kernel).
#include <doctest/doctest.h>
#include <fcntl.h>

#include "client/pmfs_ioctl.h"
#include "fixture.h"

using namespace pmfs;
using namespace pmfs::test;

namespace {

using Sent = std::vector<std::string>;

// Sealed, of some blocks, and open nowhere.
std::uint64_t sealed_file(Wire &wire, const char *name, unsigned level = PMFS_SEAL_FULL) {
    const OpenFile file = wire.create(name);
    REQUIRE(wire.write(file, 0, pattern(4 * kBlock, 1)) == 0);
    REQUIRE(prepare_ioctl(wire, file) == 0);
    wire.release(file);
    const OpenFile direct = wire.open(file.node, O_RDWR | O_DIRECT);
    REQUIRE(seal_ioctl(wire, direct, level) == 0);
    wire.release(direct);
    return file.node;
}

int take(Wire &wire, const OpenFile &file, unsigned flags, pmfs_io_grant *io) {
    *io = {};
    io->version = PMFS_ABI_VERSION;
    io->kind = PMFS_GRANT_TEMPORARY;
    io->flags = flags;
    return wire.ioctl(file, PMFS_IOC_GRANT, io);
}

}  // namespace

TEST_CASE(
    "cached: handles that only read a file sealed full are cached, those that may write are not") {
    for (const Medium medium : {Medium::memory, Medium::image}) {
        Mounted mounted(medium);
        Wire &wire = mounted.wire();
        for (const unsigned level : {PMFS_SEAL_FULL, PMFS_SEAL_AS_IS}) {
            const std::uint64_t node =
                sealed_file(wire, level == PMFS_SEAL_FULL ? "full" : "as-is", level);
            for (const int flags : {O_RDONLY, O_WRONLY, O_RDWR, O_RDONLY | O_DIRECT}) {
                const OpenFile file = wire.open(node, flags);
                REQUIRE(file.error == 0);
                CHECK(file.direct() == (flags != O_RDONLY));
                wire.release(file);
            }
        }
    }
}

TEST_CASE(
    "cached: a grant that may store and a cached reader of a sealed file exclude each other") {
    Mounted mounted(Medium::memory);
    Wire &wire = mounted.wire();
    const std::uint64_t node = sealed_file(wire, "f");
    const OpenFile holder = wire.open(node, O_RDWR | O_DIRECT);
    const OpenFile reader = wire.open(node, O_RDONLY);
    REQUIRE(!reader.direct());
    pmfs_io_grant io;
    CHECK(take(wire, holder, PMFS_GRANT_STORE, &io) == EBUSY);
    CHECK(info_of(wire, holder).handles_cached == 1);
    REQUIRE(take(wire, holder, 0, &io) == 0);  // one that only reads
    CHECK(!wire.open(node, O_RDONLY).direct());
    wire.release(reader);
}

TEST_CASE("cached: pages are kept, but not over a grant that may store") {
    Mounted mounted(Medium::memory);
    Wire &wire = mounted.wire();
    const std::uint64_t node = sealed_file(wire, "f");
    const auto look_in = [&] {
        const OpenFile file = wire.open(node, O_RDONLY);
        wire.release(file);
        return file;
    };
    CHECK(look_in().keeps_pages());
    const OpenFile holder = wire.open(node, O_RDWR | O_DIRECT);
    pmfs_io_grant io;
    REQUIRE(take(wire, holder, PMFS_GRANT_STORE, &io) == 0);
    CHECK(look_in().direct());
    pmfs_io_release_grant end{.version = PMFS_ABI_VERSION, .flags = 0, .grant = io.grant};
    REQUIRE(wire.ioctl(holder, PMFS_IOC_RELEASE_GRANT, &end) == 0);
    const OpenFile next = look_in();
    CHECK((!next.direct() && !next.keeps_pages()));
    CHECK(look_in().keeps_pages());
    // Nor over a write that happened without cached readers.
    REQUIRE(wire.write(holder, 0, "new") == 0);
    CHECK(!look_in().keeps_pages());
    wire.release(holder);
}

TEST_CASE("cached: pages that a write past the cache makes stale are dropped before its answer") {
    Mounted mounted(Medium::memory);
    Wire &wire = mounted.wire();
    const std::uint64_t node = sealed_file(wire, "f");
    const OpenFile writer = wire.open(node, O_WRONLY), reader = wire.open(node, O_RDONLY);
    wire.sent();
    REQUIRE(wire.write(writer, kBlock, "words") == 0);
    CHECK(wire.sent() == Sent{"pages " + std::to_string(node) + " 4096 5", "reply 0"});
    wire.release(reader);
    wire.release(writer);
}

TEST_CASE(
    "cached: a write past the cache stays when pages that a mapping made dirty are written back") {
    Mounted mounted(Medium::memory);
    Wire &wire = mounted.wire();
    const OpenFile mapped = wire.create("f");  // since before the seal
    const std::string old(kBlock, 'o');
    REQUIRE(wire.write(mapped, 0, old) == 0);
    REQUIRE(prepare_ioctl(wire, mapped) == 0);
    REQUIRE(seal_ioctl(wire, mapped, PMFS_SEAL_FULL) == 0);
    const OpenFile writer = wire.open(mapped.node, O_RDWR);
    REQUIRE(writer.direct());
    for (const unsigned times : {0u, 1u, 3u}) {
        CAPTURE(times);
        unsigned asked = 0;
        wire.on_invalidate = [&](std::uint64_t node) {
            if (asked++ < times) CHECK(wire.write_back(node, mapped.handle, 0, old) == 0);
        };
        const std::string word = "word" + std::to_string(times);
        fuse_write_in in{};
        in.fh = writer.handle;
        in.offset = 100;
        in.size = static_cast<std::uint32_t>(word.size());
        in.write_flags = FUSE_WRITE_LOCKOWNER;
        REQUIRE(wire.call(FUSE_WRITE, writer.node, bytes_text(in) + word).error == 0);
        wire.on_invalidate = nullptr;
        CHECK(asked == times + 1);
        CHECK(wire.read(writer, 100, 5).text() == word);
        CHECK(wire.read(writer, 0, 5).text() == "ooooo");
    }
}

TEST_CASE("cached: with -o sealed_reads=direct a file that is sealed full is in no page cache") {
    MountOptions options;
    options.sealed_direct = true;
    Mounted mounted(Medium::memory, options);
    Wire &wire = mounted.wire();
    const std::uint64_t node = sealed_file(wire, "f");
    const OpenFile reader = wire.open(node, O_RDONLY);
    CHECK(reader.direct());
    const OpenFile holder = wire.open(node, O_RDWR | O_DIRECT);
    pmfs_io_grant io;
    CHECK(take(wire, holder, PMFS_GRANT_STORE, &io) == 0);
}

TEST_CASE(
    "cached: a guest caches a sealed file while it is open and counts, but not with a window") {
    Mounted mounted(Medium::memory);
    Wire &wire = mounted.wire();
    const std::uint64_t node = sealed_file(wire, "f");
    const OpenFile holder = wire.open(node, O_RDWR | O_DIRECT);
    pmfs_io_grant io;
    {
        Wire guest(wire, front::Policy::guest());
        REQUIRE(guest.lookup("f") == node);
        const OpenFile reader = guest.open(node, O_RDONLY);
        CHECK((!reader.direct() && !reader.keeps_pages()));
        CHECK(guest.open(node, O_RDWR).direct());
        CHECK(take(wire, holder, PMFS_GRANT_STORE, &io) == EBUSY);
    }  // it goes, without a word
    {
        Wire guest(wire, front::Policy::guest(), {.dax = true});
        REQUIRE(guest.lookup("f") == node);
        CHECK(guest.open(node, O_RDONLY).direct());
        CHECK(take(wire, holder, PMFS_GRANT_STORE, &io) == 0);
    }
    wire.release(holder);
}
