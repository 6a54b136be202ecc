// Messages that no kernel sends: truncated, with wrong lengths, about what the client was not
// given. Each lies right before a page that cannot be read.
//
// Holds docs/security.md "What a request may name".
#include <doctest/doctest.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <map>
#include <numeric>
#include <random>
#include <vector>

#include "fsck/check.h"
#include "media/format.h"
#include "samples.h"
#include "world.h"

using namespace pmfs;
using namespace pmfs::test;

namespace {

constexpr std::uint64_t kRoot = FUSE_ROOT_ID;

bool sound(World &world) {
    world.wire().dispatcher().finish_notifications();
    REQUIRE(world.volume().close().ok());
    const auto report = fsck::check(world.region());
    REQUIRE(report.ok());
    for (const auto &problem : report.value().problems)
        MESSAGE(fsck::id_of(problem.code), ": ", fsck::info_of(problem.code).sentence, " ",
                problem.detail);
    return report.value().clean();
}

std::uint64_t number_from(const char *variable, std::uint64_t otherwise) {
    const char *text = std::getenv(variable);
    return text == nullptr ? otherwise : std::strtoull(text, nullptr, 0);
}

}  // namespace

TEST_CASE("messages: a truncated one is refused, wherever it ends, and is not read past its end") {
    World world;
    Raw raw(world.wire().dispatcher());
    const OpenFile file = world.wire().create("f");
    const std::uint64_t dir = world.wire().make_node("d", S_IFDIR | 0755);
    for (const Sample &one : samples(file, dir)) {
        CAPTURE(one.opcode);
        for (std::size_t cut = one.body.size(); cut > 0; --cut) {
            CAPTURE(cut);
            CHECK(raw.send_message(one.opcode, one.node, one.body, cut) ==
                  (one.reply ? EINVAL : -1));
        }
        const int got = raw.send_message(one.opcode, one.node, one.body);
        // (On this medium fsync of a directory has nothing to do, and says that nobody need ask
        // again.)
        CHECK(got == (one.opcode == FUSE_FSYNCDIR ? ENOSYS : one.reply ? 0 : -1));
    }
    for (std::size_t size = 0; size < sizeof(fuse_in_header); ++size)
        CHECK(raw.send_raw(std::string(size, 'x'), 0) == -1);
    CHECK(sound(world));
}

TEST_CASE("messages: a count or a size that is not the message's own is refused") {
    World world;
    Raw raw(world.wire().dispatcher());
    const OpenFile file = world.wire().create("f");
    const std::uint64_t node = file.node, fh = file.handle;
    REQUIRE(world.wire().write(file, 0, "words") == 0);
    const std::string one = bytes_text(fuse_forget_one{.nodeid = node, .nlookup = 1});
    for (const std::uint32_t count : {2u, 0x10000000u, 0x10000001u, 0xffffffffu})
        CHECK(raw.send_message(FUSE_BATCH_FORGET, 0,
                               bytes_text(fuse_batch_forget_in{.count = count}) + one) == -1);
    CHECK(world.wire().getattr(node).ino == node);  // nothing was forgotten
    const std::uint32_t huge = 0xfffffff0u;
    CHECK(raw.send_message(FUSE_WRITE, node, bytes_text(fuse_write_in{.fh = fh, .size = huge})) ==
          EINVAL);
    CHECK(raw.send_message(FUSE_READ, node, bytes_text(fuse_read_in{.fh = fh, .size = huge})) ==
          EINVAL);
    for (const std::uint32_t opcode : {FUSE_READDIR, FUSE_READDIRPLUS})
        CHECK(raw.send_message(opcode, kRoot, bytes_text(fuse_read_in{.size = huge})) == EINVAL);
    const std::string setxattr = bytes_text(fuse_setxattr_in{.size = huge}).substr(0, 8);
    CHECK(raw.send_message(FUSE_SETXATTR, node, names(setxattr, {"user.a"})) == EINVAL);
    fuse_ioctl_in ioctl{};
    ioctl.fh = fh;
    ioctl.cmd = static_cast<std::uint32_t>(PMFS_IOC_INFO);
    ioctl.in_size = ioctl.out_size = huge;
    CHECK(raw.send_message(FUSE_IOCTL, node, bytes_text(ioctl)) == EINVAL);
    fuse_in_header header{.len = 4096, .opcode = FUSE_STATFS, .unique = 7, .nodeid = kRoot};
    CHECK(raw.send_raw(bytes_text(header), 7) == EINVAL);  // says that it is longer
    header = {.len = sizeof header, .opcode = FUSE_STATFS, .unique = 0, .nodeid = kRoot};
    CHECK(raw.send_raw(bytes_text(header), 0) == -1);  // cannot be answered
    fuse_init_in init{.major = 7, .minor = 31};
    CHECK(raw.send_message(FUSE_INIT, 0, bytes_text(init)) == EIO);  // a second one
    CHECK(sound(world));
}

TEST_CASE("messages: a time with a billion nanoseconds or more is refused, where it is to be set") {
    World world;
    Raw raw(world.wire().dispatcher());
    const OpenFile file = world.wire().create("f");
    for (const std::uint32_t nanoseconds : {999'999'999u, 1'000'000'000u, 0xffffffffu})
        for (const std::uint32_t given : {FATTR_ATIME, FATTR_MTIME, FATTR_CTIME, FATTR_MODE}) {
            CAPTURE(nanoseconds);
            CAPTURE(given);
            fuse_setattr_in set{};
            set.valid = given;
            set.mode = S_IFREG | 0600;
            set.atimensec = set.mtimensec = set.ctimensec = nanoseconds;
            const bool wrong = nanoseconds > 999'999'999 && given != FATTR_MODE;
            CHECK(raw.send_message(FUSE_SETATTR, file.node, bytes_text(set)) ==
                  (wrong ? EINVAL : 0));
        }
    CHECK(sound(world));
}

TEST_CASE("messages: an unknown request is ENOSYS") {
    World world;
    Raw raw(world.wire().dispatcher());
    const std::uint32_t opcodes[] = {
        0, 7, 63, 64, 4096, 0xffffffff, FUSE_ACCESS, FUSE_BMAP, FUSE_POLL, FUSE_SETUPMAPPING};
    for (const std::uint32_t opcode : opcodes)
        for (const std::size_t size : {0, 8, 64}) {
            CAPTURE(opcode);
            CHECK(raw.send_message(opcode, kRoot, std::string(size, '\xff')) == ENOSYS);
        }
    CHECK(raw.send_message(FUSE_NOTIFY_REPLY, kRoot, std::string(64, 'x')) == -1);
}

TEST_CASE(
    "messages: inode numbers that were not given out are refused: table, grant records, orphans") {
    World world;
    Raw raw(world.wire().dispatcher());
    Wire &wire = world.wire();
    const OpenFile held = wire.create("held");
    // Of others: a file without a name, and one with a grant record.
    Volume &volume = world.volume();
    OpenReply orphan, granted;
    const OpenRequest open{.write = true, .direct = true};
    const auto gone = volume.create(InodeNo(kRoot), "gone", S_IFREG | 0600, open, &orphan);
    const auto mapped = volume.create(InodeNo(kRoot), "mapped", S_IFREG | 0600, open, &granted);
    REQUIRE((gone.ok() && mapped.ok()));
    REQUIRE(volume.write(mapped.value().ino, 0, std::vector<std::byte>(4096), false, {}).ok());
    REQUIRE(volume.unlink(InodeNo(kRoot), "gone").ok());
    for (const InodeNo ino : {gone.value().ino, mapped.value().ino}) volume.forget(ino, 1);
    std::uint64_t bad = 0;
    const GrantRequest request{.length = 4096, .maps = true};
    const Caller root{.handle = granted.handle};
    REQUIRE(volume.take_grant(granted.handle, request, root, &bad).ok());

    unsigned in_use = 0;
    // The first ones, and those of the blocks of inodes around.
    std::vector<std::uint64_t> nodes(50);
    std::iota(nodes.begin(), nodes.end(), 0);
    for (std::uint64_t node = held.node - 20; node < held.node + 20; ++node) nodes.push_back(node);
    for (const std::uint64_t node : nodes) {
        if (node == kRoot || node == held.node) continue;
        CAPTURE(node);
        in_use += volume.getattr(InodeNo(node)).ok() ? 1 : 0;
        for (Sample one : samples(held, kRoot)) {
            CAPTURE(one.opcode);
            if (one.opcode == FUSE_FORGET || !one.reply) continue;
            // There is nothing to release; it concerns the volume.
            const bool nowhere = one.opcode == FUSE_RELEASEDIR || one.opcode == FUSE_SYNCFS;
            const int wanted = one.node == held.node && one.opcode != FUSE_OPEN ? 0 : ESTALE;
            const int got = raw.send_message(one.opcode, node, one.body);
            if (!nowhere) CHECK((wanted == ESTALE ? got == ESTALE : got == ESTALE || got == EBADF));
        }
        for (const std::uint32_t opcode : {FUSE_RENAME, FUSE_LINK})
            CHECK(raw.send_message(opcode, kRoot, names(bytes_text(node), {"held", "x"})) ==
                  ESTALE);
        // By number only files that have a name are found.
        const int found = raw.send_message(FUSE_LOOKUP, node, names("", {"."}));
        if (node != mapped.value().ino.value()) CHECK(found == ESTALE);
    }
    CHECK(in_use >= 3);  // the orphan, the file and its record
    CHECK(wire.getattr(held.node).ino == held.node);
}

TEST_CASE("messages: a handle that is closed, another file's or not for writing is EBADF") {
    World world;
    Raw raw(world.wire().dispatcher());
    Wire &wire = world.wire();
    const OpenFile mine = wire.create("mine"), other = wire.create("other"),
                   closed = wire.create("closed");
    wire.release(closed);
    for (const std::uint64_t handle :
         {std::uint64_t{0}, other.handle, closed.handle, ~std::uint64_t{0}}) {
        OpenFile wrong = mine;
        wrong.handle = handle;
        for (const Sample &one : samples(wrong, kRoot)) {
            CAPTURE(one.opcode);
            const bool by_handle = one.node == mine.node && one.opcode != FUSE_OPEN &&
                                   one.body.find(bytes_text(handle)) != std::string::npos &&
                                   one.opcode != FUSE_GETXATTR && one.opcode != FUSE_LISTXATTR &&
                                   one.opcode != FUSE_SETXATTR;
            if (by_handle) CHECK(raw.send_message(one.opcode, one.node, one.body) == EBADF);
        }
    }
    const OpenFile reader = wire.open(mine.node, O_RDONLY);
    CHECK(wire.write(reader, 0, "x") == EBADF);
    CHECK(wire.fallocate(reader, 0, 0, 4096) == EBADF);
    CHECK(wire.write(mine, 0, "x") == 0);
    CHECK(wire.write(other, 0, "x") == 0);
}

TEST_CASE(
    "messages: to forget more than one was given takes nothing from those who hold the file") {
    World world;
    Raw raw(world.wire().dispatcher());
    Wire &wire = world.wire();
    const OpenFile file = wire.create("f");
    REQUIRE(wire.write(file, 0, "words") == 0);
    REQUIRE(wire.unlink("f") == 0);
    for (const std::uint64_t count : {std::uint64_t{5}, ~std::uint64_t{0}})
        CHECK(raw.send_message(FUSE_FORGET, file.node,
                               bytes_text(fuse_forget_in{.nlookup = count})) == -1);
    CHECK(wire.read(file, 0, 5).text() == "words");
    CHECK(wire.call(FUSE_GETATTR, file.node, bytes_text(fuse_getattr_in{})).error == ESTALE);
    wire.release(file);
    CHECK(raw.send_message(FUSE_FORGET, kRoot, bytes_text(fuse_forget_in{.nlookup = 9})) == -1);
    CHECK(wire.getattr(kRoot).ino == kRoot);
    CHECK(sound(world));
}

TEST_CASE("messages: random ones never crash the server, and leave a sound volume") {
    const std::uint64_t seed = number_from("PMFS_FUZZ_SEED", 1);
    const std::uint64_t rounds = number_from("PMFS_FUZZ_ROUNDS", 30'000);
    CAPTURE(seed);
    MESSAGE("PMFS_FUZZ_SEED=", seed);
    std::mt19937_64 random(seed);
    MountOptions options;
    options.lease_break_ms = 1;
    World world({}, options);
    Raw raw(world.wire().dispatcher());
    const OpenFile file = world.wire().create("f");
    const std::uint64_t dir = world.wire().make_node("d", S_IFDIR | 0755);
    const auto all = samples(file, dir);
    for (std::uint64_t round = 0; round < rounds; ++round) {
        Sample one = all[random() % (all.size() - 1)];  // the last one would close the file
        if (random() % 8 == 0) one.opcode = static_cast<std::uint32_t>(random() % kOpcodeMax);
        if (one.opcode == FUSE_RELEASE) continue;
        if (random() % 4 == 0) one.node = random() % 40;
        if (random() % 8 == 0) one.body += std::string(random() % 200, '\0');
        if (random() % 8 == 0) one.body.resize(random() % (one.body.size() + 1));
        for (std::uint64_t i = random() % 4; i > 0 && !one.body.empty(); --i)
            one.body[random() % one.body.size()] = static_cast<char>(random() % 4 ? random() : 0);
        (void)raw.send_message(one.opcode, one.node, one.body);
    }
    CHECK(sound(world));
}
