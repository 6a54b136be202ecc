// Temporary grants, as far as they meet the persistent seal and the page cache (docs/seal.md,
// docs/architecture.md "The kernel's caches").
#include <doctest/doctest.h>
#include <fcntl.h>
#include <linux/falloc.h>

#include <thread>

#include "fixture.h"
#include "front/requests/statx.h"

using namespace pmfs;
using namespace pmfs::test;

namespace {

constexpr std::uint64_t kSize = 8 * kBlock;

OpenFile fit_file(Wire &wire, const std::string &name) {
    const OpenFile file = wire.create(name);
    REQUIRE(wire.write(file, 0, pattern(kSize, 1)) == 0);
    REQUIRE(prepare_ioctl(wire, file) == 0);
    const OpenFile direct = wire.open(file.node, O_RDWR | O_DIRECT);
    wire.release(file);
    return direct;
}

pmfs_io_grant ask(bool store, std::uint64_t offset = 0, std::uint64_t length = 0) {
    pmfs_io_grant io{};
    io.version = PMFS_ABI_VERSION;
    io.flags = store ? PMFS_GRANT_STORE : 0;
    io.kind = PMFS_GRANT_TEMPORARY;
    io.offset = offset;
    io.length = length;
    return io;
}

int take(Wire &wire, const OpenFile &file, pmfs_io_grant *io, As as = {}) {
    return wire.ioctl(file, PMFS_IOC_GRANT, io, as);
}

int give_back(Wire &wire, const OpenFile &file, const pmfs_io_grant &grant) {
    pmfs_io_release_grant io{};
    io.version = PMFS_ABI_VERSION;
    io.grant = grant.grant;
    return wire.ioctl(file, PMFS_IOC_RELEASE_GRANT, &io);
}

}  // namespace

TEST_CASE("grants: a sealed file takes any number of them, and stays sealed until all are gone") {
    Mounted mounted(Medium::memory);
    Wire &wire = mounted.wire();
    const OpenFile file = fit_file(wire, "f");
    REQUIRE(seal_ioctl(wire, file, PMFS_SEAL_FULL) == 0);
    pmfs_io_grant first = ask(true), second = ask(false);
    cell("take T under P", take(wire, file, &first) == 0);
    cell("and another", take(wire, file, &second) == 0);
    CHECK(info_of(wire, file).grants == 2);
    for (const Interface interface :
         {Interface::ioctl, Interface::fallocate, Interface::trusted_xattr})
        cell(std::string(name_of(interface)) + ": UNSEAL is EBUSY",
             unseal_by(interface, wire, file) == EBUSY &&
                 info_of(wire, file).seal == PMFS_SEAL_FULL);
    cell("give one back", give_back(wire, file, first) == 0);
    cell("UNSEAL is still EBUSY", unseal_ioctl(wire, file) == EBUSY);
    cell("give the other back", give_back(wire, file, second) == 0);
    cell("a grant that is gone cannot be given back", give_back(wire, file, second) != 0);
    cell("UNSEAL", unseal_ioctl(wire, file) == 0);
    wire.release(file);
}

TEST_CASE("grants: one is given back on its own file, and by no handle of another") {
    Mounted mounted(Medium::memory);
    Wire &wire = mounted.wire();
    const OpenFile file = fit_file(wire, "f"), other = wire.create("other");
    pmfs_io_grant grant = ask(true);
    REQUIRE(take(wire, file, &grant) == 0);
    pmfs_io_release_grant io{};
    io.version = PMFS_ABI_VERSION;
    io.grant = grant.grant;
    CHECK(wire.ioctl_raw(other.node, file.handle, PMFS_IOC_RELEASE_GRANT, &io) == EBADF);
    CHECK(wire.ioctl_raw(FUSE_ROOT_ID, file.handle, PMFS_IOC_RELEASE_GRANT, &io) == EBADF);
    CHECK(info_of(wire, file).grants == 1);
    CHECK(give_back(wire, file, grant) == 0);
    CHECK(info_of(wire, file).grants == 0);
    wire.release(other);
    wire.release(file);
}

TEST_CASE("grants: a temporary grant freezes the map while it lives, for its holder too") {
    Mounted mounted(Medium::memory);
    Wire &wire = mounted.wire();
    const OpenFile file = fit_file(wire, "f");
    pmfs_io_grant grant = ask(true);
    REQUIRE(take(wire, file, &grant) == 0);
    const Snapshot before = look(wire, file);
    const auto refused = [&](const char *what, int error) {
        cell(what, error == ETXTBSY && look(wire, file) == before);
    };
    refused("T: append", wire.write(file, kSize, "x"));
    refused("T: truncate", wire.truncate(file.node, 1));
    refused("T: punch",
            wire.fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, kBlock));
    refused("T: allocate", wire.fallocate(file, 0, kSize, kBlock));
    cell("T: write in place", wire.write(file, 0, "y") == 0);
    cell("T: SEAL becomes P", seal_ioctl(wire, file, PMFS_SEAL_FULL) == 0);
    cell("T: and its holder stays", info_of(wire, file).grants == 1);
    wire.release(file);
    const OpenFile again = wire.open(file.node, O_RDWR | O_DIRECT);
    cell("its handle closed: the grant is gone", info_of(wire, again).grants == 0);
    cell("its handle closed: P stays", info_of(wire, again).seal == PMFS_SEAL_FULL);
    cell("and can be unsealed", unseal_ioctl(wire, again) == 0);
    wire.release(again);
}

TEST_CASE(
    "grants: a truncation to the same size respects them if it would free blocks behind the end") {
    Mounted mounted(Medium::memory);
    Wire &wire = mounted.wire();
    const OpenFile file = fit_file(wire, "f");
    const auto blocks = [&] { return wire.getattr(file.node).blocks / 8; };
    const auto allocate_behind = [&] {
        REQUIRE(wire.fallocate(file, FALLOC_FL_KEEP_SIZE, kSize, 4 * kBlock) == 0);
    };
    allocate_behind();
    REQUIRE(seal_ioctl(wire, file, PMFS_SEAL_AS_IS) == 0);
    cell("sealed: ETXTBSY, and they stay",
         wire.truncate(file.node, kSize) == ETXTBSY && blocks() == 12);
    REQUIRE(unseal_ioctl(wire, file) == 0);
    pmfs_io_grant grant = ask(true);
    REQUIRE(take(wire, file, &grant) == 0);
    cell("held: ETXTBSY, and they stay",
         wire.truncate(file.node, kSize) == ETXTBSY && blocks() == 12);
    REQUIRE(give_back(wire, file, grant) == 0);
    cell("free: they go", wire.truncate(file.node, kSize) == 0 && blocks() == 8);
    REQUIRE(seal_ioctl(wire, file, PMFS_SEAL_FULL) == 0);
    cell("sealed, and nothing behind: 0", wire.truncate(file.node, kSize) == 0 && blocks() == 8);
    wire.release(file);
}

TEST_CASE(
    "front: STATX gives what GETATTR does and the birth time, and an error for what is no file") {
    Mounted mounted(Medium::memory);
    Wire &wire = mounted.wire();
    const OpenFile file = wire.create("f");
    REQUIRE(wire.write(file, 0, pattern(kSize, 1)) == 0);
    const std::string_view question("\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\xff\x0f\0\0", 24);
    const Reply reply = wire.call(front::kFuseStatx, file.node, question);
    REQUIRE(reply.error == 0);
    const auto out = reply.as<front::StatxOut>().stat;
    const fuse_attr attr = wire.getattr(file.node);
    CHECK(out.mask == 0xfff);
    CHECK(out.ino == attr.ino);
    CHECK(out.size == attr.size);
    CHECK(out.mode == attr.mode);
    CHECK(static_cast<std::uint64_t>(out.mtime.seconds) == attr.mtime);
    CHECK(out.btime.seconds != 0);
    CHECK(out.btime.seconds <= out.mtime.seconds);
    for (const std::uint64_t node : {std::uint64_t{999999}, ~std::uint64_t{0}})
        CHECK(wire.call(front::kFuseStatx, node, question).error == ESTALE);
    wire.release(file);
}

TEST_CASE("front: a FALLOCATE of a user clears set-id bits, whatever kernel sent it") {
    Mounted mounted(Medium::memory);
    Wire &wire = mounted.wire();
    const OpenFile file = wire.create("f");
    fuse_setattr_in mode{};
    mode.valid = FATTR_MODE;
    mode.mode = 06777;
    REQUIRE(wire.setattr(file.node, mode) == 0);
    CHECK(wire.fallocate(file, 0, 0, kSize) == 0);
    CHECK((wire.getattr(file.node).mode & 07777) == 06777);
    CHECK(wire.fallocate(file, 0, 0, kSize, As{1000, 1000, 1}) == 0);
    CHECK((wire.getattr(file.node).mode & 07777) == 0777);
    wire.release(file);
}

TEST_CASE(
    "grants: they need every block of their range, and report the first one that is missing") {
    Mounted mounted(Medium::memory);
    Wire &wire = mounted.wire();
    const OpenFile made = wire.create("f");
    REQUIRE(wire.write(made, 0, pattern(2 * kBlock, 1)) == 0);
    REQUIRE(wire.write(made, 5 * kBlock, pattern(kBlock, 1)) == 0);
    const OpenFile file = wire.open(made.node, O_RDWR | O_DIRECT);
    wire.release(made);
    pmfs_io_grant io = ask(false);
    cell("a hole in the range", take(wire, file, &io) == EINVAL && io.bad_offset == 2 * kBlock);
    io = ask(false, 0, 2 * kBlock);
    cell("no hole in the range", take(wire, file, &io) == 0);
    CHECK(io.length == 2 * kBlock);
    cell("given back", give_back(wire, file, io) == 0);
    io = ask(false, 64 * kBlock, kBlock);
    cell("past the end", take(wire, file, &io) == EINVAL);
    io = ask(false, ~std::uint64_t{0}, 2);
    cell("a range that wraps", take(wire, file, &io) == EINVAL);
    wire.release(file);
}

TEST_CASE("grants: one that may store and a cached handle exclude each other") {
    Mounted mounted(Medium::memory);
    Wire &wire = mounted.wire();
    const OpenFile file = fit_file(wire, "f");
    const OpenFile cached = wire.open(file.node, O_RDONLY);
    CHECK(!cached.direct());
    pmfs_io_grant store = ask(true), read = ask(false);
    cell("EBUSY while anybody has it cached", take(wire, file, &store) == EBUSY);
    cell("a grant that only reads does not mind", take(wire, file, &read) == 0);
    cell("given back", give_back(wire, file, read) == 0);
    wire.release(cached);
    cell("free again", take(wire, file, &store) == 0);
    for (const int flags : {O_RDONLY, O_RDWR}) {
        const OpenFile opened = wire.open(file.node, flags);
        cell("while it lives every open is direct", opened.error == 0 && opened.direct());
        wire.release(opened);
    }
    cell("given back", give_back(wire, file, store) == 0);
    const OpenFile first = wire.open(file.node, O_RDONLY);
    cell("the first cached open afterwards drops old pages",
         !first.direct() && !first.keeps_pages());
    const OpenFile second = wire.open(file.node, O_RDONLY);
    cell("the next one keeps them", second.keeps_pages());
    wire.release(first);
    wire.release(second);
    wire.release(file);
}

TEST_CASE("grants: an open for writing and a grant that freezes holes never both win their race") {
    Mounted mounted(Medium::memory);
    Wire &wire = mounted.wire();
    const OpenFile made = wire.create("f");
    REQUIRE(wire.write(made, 0, pattern(kBlock, 1)) == 0);
    REQUIRE(wire.write(made, 5 * kBlock, pattern(kBlock, 1)) == 0);
    const OpenFile file = wire.open(made.node, O_RDONLY | O_DIRECT);
    wire.release(made);
    unsigned both = 0, granted = 0, cached = 0;
    for (int round = 0; round < 2000; ++round) {
        OpenFile writer;
        std::thread opener([&] { writer = wire.open(file.node, O_RDWR); });
        pmfs_io_grant io = ask(false, 0, kBlock);
        const bool taken = take(wire, file, &io) == 0;
        opener.join();
        both += taken && !writer.direct();
        granted += taken;
        cached += !writer.direct();
        if (taken) REQUIRE(give_back(wire, file, io) == 0);
        wire.release(writer);
    }
    CHECK(both == 0);
    CHECK(granted + cached == 2000);
    wire.release(file);
}

TEST_CASE("grants: storing needs a handle for writing; reading needs the owner or such a handle") {
    Mounted mounted(Medium::memory);
    Wire &wire = mounted.wire();
    const OpenFile file = fit_file(wire, "f");
    const As stranger{.uid = 1001, .gid = 1001};
    const OpenFile reader = wire.open(file.node, O_RDONLY | O_DIRECT, stranger);
    pmfs_io_grant io = ask(true);
    cell("storing through a reading handle", take(wire, reader, &io, stranger) == EBADF);
    io = ask(false);
    cell("a stranger with a reading handle", take(wire, reader, &io, stranger) == EPERM);
    cell("a stranger with a writing handle that was handed over",
         take(wire, file, &io, stranger) == 0);
    wire.release(reader);
    wire.release(file);
}

TEST_CASE("grants: a crash ends them, and P stays") {
    Mounted mounted(Medium::memory);
    OpenFile file = fit_file(mounted.wire(), "f");
    pmfs_io_grant grant = ask(true);
    REQUIRE(take(mounted.wire(), file, &grant) == 0);
    REQUIRE(seal_ioctl(mounted.wire(), file, PMFS_SEAL_FULL) == 0);
    mounted.crash();
    Wire &wire = mounted.wire();
    file = wire.open(wire.lookup("f"), O_RDWR | O_DIRECT);
    cell("no grant", info_of(wire, file).grants == 0);
    cell("still sealed", info_of(wire, file).seal == PMFS_SEAL_FULL);
    wire.release(file);
}
