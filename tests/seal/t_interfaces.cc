// The interfaces themselves: what each requires of its arguments, its handle and its caller.
//
// Holds docs/seal.md "Who may seal", "The interfaces" and docs/man/pmfs_seal.3.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>

#include "fixture.h"

using namespace pmfs;
using namespace pmfs::test;

namespace {

constexpr std::uint64_t kSize = 8 * kBlock;
constexpr As kOwner{.uid = 1000, .gid = 1000};
constexpr As kStranger{.uid = 1001, .gid = 1001};

// Fit for a full seal, owned by `owner`; the handle goes past the page cache.
OpenFile fit_file(Wire &wire, const std::string &name, As owner = {}) {
    const OpenFile file = wire.create(name, owner);
    REQUIRE(file.error == 0);
    REQUIRE(wire.write(file, 0, pattern(kSize, 1)) == 0);
    REQUIRE(prepare_ioctl(wire, file) == 0);
    const OpenFile direct = wire.open(file.node, O_RDWR | O_DIRECT, owner);
    wire.release(file);
    return direct;
}

bool sealed(Wire &wire, const OpenFile &file) {
    return info_of(wire, file).seal != PMFS_SEAL_NONE;
}

std::string title(Interface interface, const char *what) {
    return std::string(name_of(interface)) + ": " + what;
}

}  // namespace

TEST_CASE("seal: only root seals, and with seal=owner the owner") {
    for (const bool owner_may_seal : {false, true}) {
        MountOptions options;
        options.owner_may_seal = owner_may_seal;
        Mounted mounted(Medium::memory, options);
        Wire &wire = mounted.wire();
        const OpenFile file = fit_file(wire, "f", kOwner);
        for (const Interface interface : kInterfaces) {
            if (interface == Interface::trusted_xattr)
                continue;  // the kernel asks for CAP_SYS_ADMIN
            const int owner = owner_may_seal ? 0 : EPERM;
            cell(title(interface, "SEAL by a stranger"),
                 seal_by(interface, wire, file, PMFS_SEAL_FULL, kStranger) == EPERM &&
                     !sealed(wire, file));
            cell(title(interface, "SEAL by the owner"),
                 seal_by(interface, wire, file, PMFS_SEAL_FULL, kOwner) == owner &&
                     sealed(wire, file) == owner_may_seal);
            REQUIRE(seal_by(Interface::ioctl, wire, file, PMFS_SEAL_FULL) == 0);
            cell(title(interface, "UNSEAL by a stranger"),
                 unseal_by(interface, wire, file, kStranger) == EPERM && sealed(wire, file));
            cell(title(interface, "UNSEAL by the owner"),
                 unseal_by(interface, wire, file, kOwner) == owner &&
                     sealed(wire, file) != owner_may_seal);
            REQUIRE(unseal_by(Interface::ioctl, wire, file) == 0);
        }
        wire.release(file);
    }
}

TEST_CASE("seal: an empty file and what is not a regular file is EINVAL") {
    MountOptions options;
    options.owner_may_seal = true;
    Mounted mounted(Medium::memory, options);
    Wire &wire = mounted.wire();
    const OpenFile empty = wire.create("empty");
    for (const Interface interface : kInterfaces)
        for (const unsigned level : {PMFS_SEAL_AS_IS, PMFS_SEAL_FULL})
            if (has_level(interface, level))
                cell(title(interface, "SEAL of an empty file"),
                     seal_by(interface, wire, empty, level) == EINVAL && !sealed(wire, empty));
    const std::uint64_t directory = wire.make_node("d", S_IFDIR | 0755);
    const std::uint64_t fifo = wire.make_node("p", S_IFIFO | 0644);
    for (const std::uint64_t node : {directory, fifo}) {
        const OpenFile file{.node = node, .handle = 0};
        cell("trusted.pmfs.seal on what is not a regular file",
             wire.setxattr(node, "trusted.pmfs.seal", "full") == EINVAL);
        cell("user.pmfs.seal on what is not a regular file",
             wire.setxattr(node, "user.pmfs.seal", "as-is") == EINVAL);
        cell("SEAL by ioctl on what is not a regular file",
             seal_ioctl(wire, file, PMFS_SEAL_FULL) == EINVAL);
    }
    wire.release(empty);
}

TEST_CASE("seal: a handle that is not open for writing is EBADF") {
    Mounted mounted(Medium::memory);
    Wire &wire = mounted.wire();
    const OpenFile file = fit_file(wire, "f");
    const OpenFile reader = wire.open(file.node, O_RDONLY | O_DIRECT);
    for (const Interface interface : {Interface::ioctl, Interface::fallocate}) {
        cell(title(interface, "SEAL"), seal_by(interface, wire, reader, PMFS_SEAL_FULL) == EBADF);
        REQUIRE(seal_ioctl(wire, file, PMFS_SEAL_FULL) == 0);
        cell(title(interface, "UNSEAL"), unseal_by(interface, wire, reader) == EBADF);
        REQUIRE(unseal_ioctl(wire, file) == 0);
    }
    cell("PREPARE", prepare_ioctl(wire, reader) == EBADF);
    // A guest's kernel may pair a node with the handle of another file.
    const OpenFile other = fit_file(wire, "other");
    const OpenFile paired{.node = file.node, .handle = other.handle};
    for (const Interface interface : {Interface::ioctl, Interface::fallocate})
        cell(title(interface, "SEAL with another file's handle"),
             seal_by(interface, wire, paired, PMFS_SEAL_FULL) == EBADF && !sealed(wire, file));
    cell("PREPARE with another file's handle", prepare_ioctl(wire, paired) == EBADF);
    wire.release(other);
    wire.release(reader);
    wire.release(file);
}

TEST_CASE("seal: a read-only volume is EROFS") {
    Mounted mounted(Medium::memory);
    OpenFile file = fit_file(mounted.wire(), "f");
    mounted.wire().release(file);
    MountOptions options;
    options.read_only = true;
    mounted.remount(options);
    Wire &wire = mounted.wire();
    const std::uint64_t node = wire.lookup("f");
    REQUIRE(node != 0);
    cell("trusted.pmfs.seal", wire.setxattr(node, "trusted.pmfs.seal", "full") == EROFS);
    cell("open for writing", wire.open(node, O_RDWR).error == EROFS);
}

TEST_CASE("seal: which arguments the fallocate interface accepts") {
    Mounted mounted(Medium::memory);
    Wire &wire = mounted.wire();
    const OpenFile file = fit_file(wire, "f");
    constexpr unsigned kSeal = PMFS_FALLOC_FL_SEAL_BLOCK_MAP;
    constexpr unsigned kUnseal = PMFS_FALLOC_FL_UNSEAL_BLOCK_MAP;
    constexpr unsigned kKeep = FALLOC_FL_KEEP_SIZE;
    const auto bad = [&](const char *what, unsigned mode, std::uint64_t offset,
                         std::uint64_t length) {
        cell(what, wire.fallocate(file, mode, offset, length) == EINVAL && !sealed(wire, file));
    };
    bad("without KEEP_SIZE", kSeal, 0, kSize);
    bad("with another offset", kSeal | kKeep, kBlock, kSize);
    bad("with a length that is too short", kSeal | kKeep, 0, kSize - 1);
    bad("seal and unseal at once", kSeal | kUnseal | kKeep, 0, kSize);
    bad("seal and punch at once", kSeal | FALLOC_FL_PUNCH_HOLE | kKeep, 0, kSize);
    bad("unseal without KEEP_SIZE", kUnseal, 0, kSize);
    cell("with exactly the length", wire.fallocate(file, kSeal | kKeep, 0, kSize) == 0);
    cell("it is a full seal", info_of(wire, file).seal == PMFS_SEAL_FULL);
    cell("unseal with another offset", wire.fallocate(file, kUnseal | kKeep, 1, kSize) == EINVAL);
    cell("unseal with more than the length",
         wire.fallocate(file, kUnseal | kKeep, 0, 2 * kSize) == 0 && !sealed(wire, file));
    wire.release(file);
}

TEST_CASE("seal: which values the xattr interfaces accept") {
    MountOptions options;
    options.owner_may_seal = true;
    Mounted mounted(Medium::memory, options);
    Wire &wire = mounted.wire();
    const OpenFile file = fit_file(wire, "f");
    for (const char *name : {"trusted.pmfs.seal", "user.pmfs.seal"}) {
        for (const char *word : {"", "Full", "full ", "none", "as_is", "fullfull"})
            cell(std::string(name) + " = '" + word + "'",
                 wire.setxattr(file.node, name, word) == EINVAL && !sealed(wire, file));
        cell("a zero byte behind the word",
             wire.setxattr(file.node, name, std::string_view("full\0x", 6)) == EINVAL);
        cell("absent when unsealed", wire.getxattr(file.node, name).error == ENODATA);
        cell("as-is", wire.setxattr(file.node, name, "as-is") == 0 &&
                          info_of(wire, file).seal == PMFS_SEAL_AS_IS);
        cell("as-is upgrades to full", wire.setxattr(file.node, name, "full") == 0 &&
                                           info_of(wire, file).seal == PMFS_SEAL_FULL);
        cell("full stays full", wire.setxattr(file.node, name, "as-is") == 0 &&
                                    info_of(wire, file).seal == PMFS_SEAL_FULL);
        cell("read by both names",
             wire.getxattr(file.node, "user.pmfs.seal").text() == "full" &&
                 wire.getxattr(file.node, "trusted.pmfs.seal").text() == "full");
        cell("and not listed", wire.listxattr(file.node).empty());
        cell("removed", wire.removexattr(file.node, name) == 0 && !sealed(wire, file));
    }
    wire.release(file);
}

TEST_CASE("seal: a full seal reports the offset that does not meet its requirements") {
    Mounted mounted(Medium::memory);
    Wire &wire = mounted.wire();
    const OpenFile file = wire.create("f");
    REQUIRE(wire.write(file, 0, pattern(2 * kBlock, 1)) == 0);
    REQUIRE(wire.write(file, 5 * kBlock, pattern(10, 1)) == 0);
    std::uint64_t bad = 0;
    cell("at a hole", seal_ioctl(wire, file, PMFS_SEAL_FULL, &bad) == EINVAL && bad == 2 * kBlock);
    for (const Interface interface : {Interface::fallocate, Interface::trusted_xattr})
        cell(title(interface, "of what has a hole"),
             seal_by(interface, wire, file, PMFS_SEAL_FULL) == EINVAL && !sealed(wire, file));
    REQUIRE(wire.write(file, 2 * kBlock, pattern(kBlock, 1)) == 0);
    REQUIRE(wire.fallocate(file, 0, 3 * kBlock, 2 * kBlock) == 0);
    cell("at an unwritten block",
         seal_ioctl(wire, file, PMFS_SEAL_FULL, &bad) == EINVAL && bad == 3 * kBlock);
    cell("prepare sees to it", prepare_ioctl(wire, file) == 0);
    cell("and then it is sealed", seal_ioctl(wire, file, PMFS_SEAL_FULL, &bad) == 0);
    wire.release(file);
}

TEST_CASE(
    "seal: as-is of what has holes waits for cached writers, and then all writers are direct") {
    Mounted mounted(Medium::memory);
    Wire &wire = mounted.wire();
    const OpenFile cached = wire.create("f");
    REQUIRE(wire.write(cached, 5 * kBlock, "x") == 0);
    const OpenFile direct = wire.open(cached.node, O_RDWR | O_DIRECT);
    const OpenFile reader = wire.open(cached.node, O_RDONLY);
    cell("a new file is cached", !cached.direct() && !reader.direct());
    cell("O_DIRECT is direct", direct.direct());
    cell("EBUSY while a cached writer is open",
         seal_ioctl(wire, direct, PMFS_SEAL_AS_IS) == EBUSY && !sealed(wire, direct));
    cell("EBUSY for that writer's own call", seal_ioctl(wire, cached, PMFS_SEAL_AS_IS) == EBUSY);
    wire.release(cached);
    cell("a cached reader is no reason", seal_ioctl(wire, direct, PMFS_SEAL_AS_IS) == 0);
    const OpenFile writer = wire.open(direct.node, O_RDWR);
    cell("from then on writers are direct", writer.direct());
    for (const OpenFile &file : {direct, reader, writer}) wire.release(file);

    const OpenFile whole = wire.create("whole");
    REQUIRE(wire.write(whole, 0, pattern(kSize, 1)) == 0);
    cell("without holes a cached writer is no reason",
         seal_ioctl(wire, whole, PMFS_SEAL_AS_IS) == 0);
    wire.release(whole);
}

TEST_CASE("seal: dirty pages are written back before the seal, by every interface") {
    MountOptions options;
    options.owner_may_seal = true;
    for (const Interface interface : kInterfaces) {
        Mounted mounted(Medium::memory, options);
        Wire &wire = mounted.wire();
        const OpenFile file = fit_file(wire, "f");
        const std::string page = pattern(kBlock, 99);
        std::atomic<int> written{-1};
        std::atomic<bool> sealed_before{true};
        wire.on_invalidate = [&](std::uint64_t node) {
            sealed_before = sealed(wire, file);
            written = wire.write_back(node, file.handle, 3 * kBlock, page);
        };
        cell(title(interface, "asks the kernel for its pages"),
             seal_by(interface, wire, file, PMFS_SEAL_FULL) == 0 && written == 0);
        cell(title(interface, "before it seals"), !sealed_before);
        wire.on_invalidate = nullptr;
        cell(title(interface, "the page is there"),
             look(wire, file).data.substr(3 * kBlock, kBlock) == page);
        wire.release(file);
    }
}

TEST_CASE(
    "seal: with -o writeback seals and grants are EBUSY while the file is open for writing through "
    "the cache") {
    MountOptions options;
    options.owner_may_seal = true;
    front::DispatchOptions dispatch;
    options.writeback = dispatch.writeback = true;
    Mounted mounted(Medium::memory, options, dispatch);
    Wire &wire = mounted.wire();
    const OpenFile direct = fit_file(wire, "f");
    const auto grant = [&](std::uint32_t kind, pmfs_io_grant *io) {
        *io = {};
        io->version = PMFS_ABI_VERSION;
        io->kind = kind;
        return wire.ioctl(direct, PMFS_IOC_GRANT, io);
    };
    pmfs_io_grant io;
    constexpr std::uint32_t kKinds[] = {PMFS_GRANT_TEMPORARY, PMFS_GRANT_BREAKABLE, PMFS_GRANT_PIN};
    const OpenFile cached = wire.open(direct.node, O_RDWR);
    REQUIRE(!cached.direct());
    for (const Interface interface : kInterfaces)
        cell(title(interface, "EBUSY beside a cached writer"),
             seal_by(interface, wire, direct, PMFS_SEAL_FULL) == EBUSY && !sealed(wire, direct));
    for (const std::uint32_t kind : kKinds)
        cell("grant beside a cached writer", grant(kind, &io) == EBUSY);
    wire.release(cached);

    const OpenFile reader = wire.open(direct.node, O_RDONLY);  // excludes no grant
    for (const std::uint32_t kind : kKinds) {
        cell("grant", grant(kind, &io) == 0);
        const OpenFile writer = wire.open(direct.node, O_RDWR);
        cell("a later open for writing is direct", writer.direct());
        cell("and one for reading is cached", !wire.open(direct.node, O_RDONLY).direct());
        wire.release(writer);
        pmfs_io_release_grant end{.version = PMFS_ABI_VERSION, .flags = 0, .grant = io.grant};
        REQUIRE(wire.ioctl(direct, PMFS_IOC_RELEASE_GRANT, &end) == 0);
    }
    for (const Interface interface : kInterfaces) {
        cell(title(interface, "seals"), seal_by(interface, wire, direct, PMFS_SEAL_FULL) == 0);
        const OpenFile writer = wire.open(direct.node, O_RDWR);
        cell(title(interface, "a later open for writing is direct"), writer.direct());
        wire.release(writer);
        cell(title(interface, "unseals"), unseal_by(interface, wire, direct) == 0);
    }
    const OpenFile again = wire.open(direct.node, O_RDWR);
    cell("and then it is cached again", !again.direct());
    wire.release(again);
    wire.release(reader);
    wire.release(direct);
}

TEST_CASE(
    "seal: with -o writeback attributes of a file that is written to are kept, and never say no "
    "blocks") {
    MountOptions options;
    front::DispatchOptions dispatch;
    options.writeback = dispatch.writeback = true;
    Mounted mounted(Medium::memory, options, dispatch);
    Wire &wire = mounted.wire();
    const auto attributes = [&](const OpenFile &file) {
        return wire.call(FUSE_GETATTR, file.node, bytes_text(fuse_getattr_in{}))
            .as<fuse_attr_out>();
    };
    const OpenFile file = wire.create("f");
    CHECK((attributes(file).attr_valid == 1 && attributes(file).attr.blocks == 8));
    const auto attr = "attr " + std::to_string(file.node);
    const auto told = [&] {
        const auto sent = wire.sent();
        return std::find(sent.begin(), sent.end(), attr) != sent.end();
    };
    wire.sent();
    wire.release(file);
    bool heard = told();  // for the kernel was told of a block
    for (unsigned n = 0; !heard && n < 1000; ++n) {
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
        heard = told();
    }
    CHECK(heard);
    CHECK(attributes(file).attr.blocks == 0);
    const OpenFile again = wire.open(file.node, O_RDWR);
    CHECK(told());  // before the answer
    REQUIRE(wire.write_back(file.node, again.handle, 0, pattern(3 * kBlock, 1)) == 0);
    CHECK(attributes(file).attr.blocks == 24);
    wire.release(again);
    wire.sent();
    const OpenFile third = wire.open(file.node, O_RDWR);
    CHECK(wire.sent() == std::vector<std::string>{"reply 0"});  // it has blocks: nothing to tell
    wire.release(third);
}
