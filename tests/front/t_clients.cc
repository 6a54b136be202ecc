// Several clients of one volume: what one was given the others cannot name, what one changes the
// other's kernel hears, what a policy forbids, and that nothing is left of a client that has gone.
//
// Holds docs/security.md "What a request may name", docs/coherence.md "Another client changes
// something" and docs/guests.md "Caches", "Access control lists".
#include <doctest/doctest.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <thread>

#include "clients.h"
#include "front/requests/message_check.h"
#include "samples.h"

using namespace pmfs;
using namespace pmfs::test;
using front::Effect;
using front::IdMap;
using front::Policy;

namespace {

std::uint64_t lookup_in(Wire &wire, std::uint64_t dir, const char *text) {
    const Reply reply = wire.call(FUSE_LOOKUP, dir, name(text));
    return reply.error != 0 ? 0 : reply.as<fuse_entry_out>().nodeid;
}

void forget(Wire &wire, std::uint64_t node, std::uint64_t count) {
    wire.post(FUSE_FORGET, node, bytes_text(fuse_forget_in{.nlookup = count}));
}

}  // namespace

TEST_CASE("clients: a node id that only another client was given is ESTALE in every request") {
    World world;
    const OpenFile file = written(world.wire(), "f");
    const std::uint64_t dir = world.wire().make_node("d", S_IFDIR | 0755);
    Wire guest(world.wire(), Policy::guest());
    Raw raw(guest.dispatcher());
    for (const Sample &one : samples(file, dir)) {
        CAPTURE(one.opcode);
        if (!one.reply || one.opcode == FUSE_RELEASEDIR || one.node == kRoot) continue;
        const int got = raw.send_message(one.opcode, one.node, one.body);
        CHECK((got == ESTALE || got == EBADF));  // EBADF: it names a handle, too
    }
    for (const std::uint32_t opcode : {FUSE_RENAME, FUSE_LINK})
        CHECK(raw.send_message(opcode, kRoot, names(bytes_text(dir), {"f", "x"})) == ESTALE);
    CHECK(guest.lookup("f") == file.node);  // then it was given
    CHECK(raw.send_message(FUSE_GETATTR, file.node, bytes_text(fuse_getattr_in{})) == 0);
}

TEST_CASE("clients: a handle of another client is EBADF, though both hold the file") {
    World world;
    const OpenFile file = written(world.wire(), "f");
    Wire guest(world.wire(), Policy::guest());
    REQUIRE(guest.lookup("f") == file.node);
    CHECK(guest.write(file, 0, "y") == EBADF);
    CHECK(guest.read(file, 0, 9).error == EBADF);
    CHECK(guest.fallocate(file, 0, 0, 4096) == EBADF);
    auto seal = versioned<pmfs_io_seal>();
    seal.level = PMFS_SEAL_AS_IS;
    CHECK(guest.ioctl(file, PMFS_IOC_SEAL, &seal) == EBADF);
    fuse_release_in in{};
    in.fh = file.handle;
    CHECK(guest.call(FUSE_RELEASE, file.node, bytes_text(in)).error == EBADF);
    CHECK(world.wire().write(file, 0, "y") == 0);
    const OpenFile own = guest.open(file.node, O_RDWR);
    CHECK(guest.write(own, 0, "z") == 0);
    CHECK(world.wire().write(own, 0, "z") == EBADF);
}

TEST_CASE("clients: forgetting more than it was given takes nothing from another client") {
    World world;
    Wire &host = world.wire();
    const OpenFile file = written(host, "f");
    host.release(file);
    Wire guest(host, Policy::guest());
    REQUIRE(guest.lookup("f") == file.node);
    REQUIRE(host.unlink("f") == 0);
    forget(guest, file.node, 1'000);
    CHECK(guest.call(FUSE_GETATTR, file.node, bytes_text(fuse_getattr_in{})).error == ESTALE);
    CHECK(host.getattr(file.node).size == 4096);
    forget(host, file.node, 1);
    CHECK(host.call(FUSE_GETATTR, file.node, bytes_text(fuse_getattr_in{})).error == ESTALE);
    CHECK(!world.volume().getattr(InodeNo(file.node)).ok());  // its blocks are free
}

TEST_CASE("clients: when one leaves, its nameless files, handles and grants are released, once") {
    World world;
    Wire &host = world.wire();
    const std::uint64_t inodes = world.volume().info().inodes_used;
    const OpenFile shared = written(host, "shared");
    OpenFile lost;
    {
        Wire guest(host, Policy::guest());
        lost = written(guest, "lost");
        for (int i = 0; i < 5; ++i) CHECK(guest.lookup("lost") == lost.node);
        REQUIRE(guest.lookup("shared") == shared.node);
        const OpenFile held = guest.open(shared.node, O_RDWR);
        REQUIRE(held.error == 0);
        REQUIRE(lease(guest, held) == 0);
        REQUIRE(guest.unlink("lost") == 0);
        CHECK(handles(world, shared.node) == 2);
        CHECK(holders(world, shared.node) == 1);
        CHECK(world.volume().info().inodes_used == inodes + 2);
    }
    CHECK(handles(world, shared.node) == 1);
    CHECK(holders(world, shared.node) == 0);
    CHECK(world.volume().info().inodes_used == inodes + 1);
    CHECK(!world.volume().getattr(InodeNo(lost.node)).ok());
    CHECK(host.truncate(shared.node, 0) == 0);  // no lease is in the way
    // Once: what the host holds of a file that both held stays.
    CHECK(host.getattr(shared.node).ino == shared.node);
    CHECK(host.write(shared, 0, "x") == 0);
}

TEST_CASE("clients: FUSE_DESTROY releases everything, and a new dispatcher can start") {
    World world;
    const OpenFile file = written(world.wire(), "f");
    Wire guest(world.wire(), Policy::guest());
    REQUIRE(guest.lookup("f") == file.node);
    const OpenFile own = guest.open(file.node, O_RDWR);
    CHECK(guest.call(FUSE_DESTROY, 0, "").error == 0);
    CHECK(handles(world, file.node) == 1);
    CHECK(guest.dispatcher().ended());
    guest.leave();
    Wire again(world.wire(), Policy::guest());
    CHECK(again.write(own, 0, "y") == EBADF);
    CHECK(again.call(FUSE_GETATTR, file.node, bytes_text(fuse_getattr_in{})).error == ESTALE);
    CHECK(again.lookup("f") == file.node);
    guest.post(FUSE_UNLINK, kRoot, name("f"));  // too late: nothing is done, and there is no answer
    CHECK(world.wire().lookup("f") == file.node);
    CHECK(guest.sent().back() == "reply 0");
}

TEST_CASE("clients: waiting requests are dropped with their client, without an answer") {
    Leased leased;
    Wire &host = leased.host;
    const OpenFile file = leased.file;
    auto guest = std::make_unique<Wire>(host, Policy::guest());
    REQUIRE(guest->lookup("f") == file.node);
    REQUIRE(guest->open(file.node, O_RDWR).error == 0);
    guest->sent();
    fuse_setattr_in empty{};
    empty.valid = FATTR_SIZE;
    guest->post(FUSE_SETATTR, file.node, bytes_text(empty));  // waits for the lease
    CHECK(guest->sent().empty());
    guest->leave();
    CHECK(guest->sent().empty());
    guest.reset();  // the port is gone, too
    host.release(file);
    CHECK(host.truncate(file.node, 8192) == 0);  // it is not claimed
    CHECK(host.getattr(file.node).size == 8192);
}

TEST_CASE("clients: one may leave while the other's kernel is being notified for its request") {
    for (const bool asked_first : {true, false}) {
        CAPTURE(asked_first);
        World world;
        Wire &host = world.wire();
        const OpenFile file = written(host, "f");
        if (!asked_first) host.release(file);  // there is nothing to ask for
        std::atomic<bool> reached = false, go_on = false;
        host.on_invalidate = [&](std::uint64_t) {
            reached = true;
            CHECK(eventually([&] { return go_on.load(); }));
        };
        Wire guest(host, Policy::guest());
        REQUIRE(guest.lookup("f") == file.node);
        const OpenFile own = guest.open(file.node, O_RDWR);
        const fuse_write_in in{.fh = own.handle, .size = 1};
        guest.sent();
        guest.post(FUSE_WRITE, file.node, bytes_text(in) + "y");
        REQUIRE(eventually([&] { return reached.load(); }));
        guest.leave();  // does not wait for that
        go_on = true;
        host.dispatcher().finish_notifications();
        CHECK(guest.sent().empty());
        CHECK(handles(world, file.node) == (asked_first ? 1 : 0));
        const OpenFile again = host.open(file.node, O_RDONLY);
        CHECK(host.read(again, 0, 1).text() == (asked_first ? "x" : "y"));
    }
}

TEST_CASE("clients: a read-only one changes nothing, whatever request it sends") {
    World world;
    const OpenFile file = written(world.wire(), "f");
    const std::uint64_t dir = world.wire().make_node("d", S_IFDIR | 0755);
    Policy policy = Policy::guest();
    policy.read_only = true;
    Wire guest(world.wire(), policy);
    Raw raw(guest.dispatcher());
    REQUIRE(guest.lookup("f") == file.node);
    REQUIRE(guest.lookup("d") == dir);
    const OpenFile own = guest.open(file.node, O_RDONLY);
    REQUIRE(own.error == 0);
    const std::uint64_t before = world.volume().info().tx_last;
    const auto all = samples(own, dir);
    for (std::uint32_t opcode = 0; opcode < kOpcodeMax; ++opcode) {
        CAPTURE(opcode);
        const auto one = std::ranges::find(all, opcode, &Sample::opcode);
        const Effect effect = front::effect_of(opcode);
        if (effect == Effect::changes) REQUIRE(one != all.end());
        if (one == all.end() || opcode == FUSE_RELEASE) continue;
        const int got = raw.send_message(opcode, one->node, one->body);
        CHECK((effect == Effect::changes) == (got == EROFS));
    }
    for (const int flags : {O_WRONLY, O_RDWR, O_RDONLY | O_TRUNC})
        CHECK(guest.open(file.node, flags).error == EROFS);
    CHECK(world.volume().info().tx_last == before);
    CHECK(guest.read(own, 0, 1).text() == "x");
}

TEST_CASE(
    "clients: of all ioctls a read-only client has those that ask, and only the host others") {
    World world;
    const OpenFile file = written(world.wire(), "f");
    Policy read_only = Policy::guest(), no_seals = Policy::guest();
    read_only.read_only = true;
    no_seals.may_seal = false;
    const auto errors = [&](const Policy &policy) {
        Wire guest(world.wire(), policy);
        REQUIRE(guest.lookup("f") == file.node);
        const OpenFile own = guest.open(file.node, policy.read_only ? O_RDONLY : O_RDWR);
        std::string text;
        for (unsigned number = 0; number < 64; ++number)
            for (const unsigned long command :
                 {PMFS_IOC_INFO, PMFS_IOC_EXTENTS, PMFS_IOC_HOLDERS, PMFS_IOC_SEAL, PMFS_IOC_UNSEAL,
                  PMFS_IOC_PREPARE, PMFS_IOC_GRANT, PMFS_IOC_RELEASE_GRANT, PMFS_IOC_REVOKE,
                  PMFS_IOC_QUARANTINE, PMFS_IOC_QUARANTINE_RELEASE, PMFS_IOC_VOLUME,
                  PMFS_IOC_CHUNKS, PMFS_IOC_CLIENTS, PMFS_IOC_GROW, PMFS_IOC_TUNE,
                  PMFS_IOC_COMPACT}) {
                if (_IOC_NR(command) != number) continue;
                std::vector<std::byte> io(_IOC_SIZE(command));  // version 0: EINVAL if it may ask
                const int error = guest.ioctl_raw(own.node, own.handle,
                                                  static_cast<unsigned>(command), io.data());
                text += error == EINVAL ? 'a' : error == EROFS ? 'r' : error == EPERM ? 'p' : '?';
            }
        return text;
    };
    const std::string host_only = errors(Policy::guest());
    CHECK(std::ranges::count(host_only, 'p') == 6);  // revoke, quarantines, grow, tune, compact
    CHECK(std::ranges::count(host_only, 'a') == 11);
    const std::string looks = errors(read_only);
    CHECK(std::ranges::count(looks, 'r') == 4);  // seal, unseal, prepare, grant
    CHECK(std::ranges::count(looks, 'a') == 7);
    const std::string unsealed = errors(no_seals);
    CHECK(std::ranges::count(unsealed, 'p') == 9);
    CHECK(std::ranges::count(unsealed, '?') == 0);
}

TEST_CASE("clients: one that may not seal is refused by every interface to a seal") {
    World world;
    const OpenFile file = written(world.wire(), "f");
    Policy policy = Policy::guest();
    policy.may_seal = false;
    Wire guest(world.wire(), policy);
    REQUIRE(guest.lookup("f") == file.node);
    const OpenFile own = guest.open(file.node, O_RDWR);
    CHECK(guest.setxattr(file.node, "trusted.pmfs.seal", "full") == EPERM);
    CHECK(guest.setxattr(file.node, "user.pmfs.seal", "full") == EPERM);
    CHECK(guest.removexattr(file.node, "trusted.pmfs.seal") == EPERM);
    for (const unsigned mode : {PMFS_FALLOC_FL_SEAL_BLOCK_MAP, PMFS_FALLOC_FL_UNSEAL_BLOCK_MAP})
        CHECK(guest.fallocate(own, mode, 0, 0) == EPERM);
    CHECK(lease(guest, own) == EPERM);
    CHECK(guest.setxattr(file.node, "user.a", "b") == 0);
}

TEST_CASE("clients: nothing above a subdirectory that is a client's root can be named") {
    World world;
    Wire &host = world.wire();
    const OpenFile outside = written(host, "outside");
    const std::uint64_t sub = host.make_node("sub", S_IFDIR | 0755);
    Policy policy = Policy::guest();
    policy.root = InodeNo(sub);
    Wire guest(host, policy);
    Raw raw(guest.dispatcher());
    CHECK(guest.getattr(kRoot).ino == sub);
    CHECK(guest.lookup("outside") == 0);
    CHECK(lookup_in(guest, kRoot, "..") == kRoot);
    CHECK(lookup_in(guest, kRoot, ".") == kRoot);
    const OpenFile inside = written(guest, "inside");
    CHECK(lookup_in(host, sub, "inside") == inside.node);
    // By number: its own root's, the volume's files, and what was there before.
    for (const std::uint64_t node : {sub, outside.node})
        for (const char *text : {".", "..", "outside"})
            CHECK(guest.call(FUSE_LOOKUP, node, name(text)).error == ESTALE);
    for (const std::uint32_t opcode : {FUSE_RENAME, FUSE_LINK})
        for (const std::uint64_t node : {sub, outside.node})
            CHECK(raw.send_message(opcode, kRoot, names(bytes_text(node), {"inside", "x"})) ==
                  ESTALE);
    CHECK(guest.rename("inside", "renamed") == 0);
    CHECK(guest.link(inside.node, "linked") == 0);
    CHECK(lookup_in(host, sub, "linked") == inside.node);
    // The listing of its root says that it is its own parent.
    const std::string listing =
        guest.call(FUSE_READDIR, kRoot, bytes_text(fuse_read_in{.size = 4096})).text();
    CHECK(listing.find(bytes_text(sub)) != listing.rfind(bytes_text(sub)));
    CHECK(host.call(FUSE_RMDIR, kRoot, name("sub")).error == ENOTEMPTY);
}

TEST_CASE("clients: a directory that was moved out of a client's root does not lead further out") {
    World world;
    Wire &host = world.wire();
    const std::uint64_t sub = host.make_node("sub", S_IFDIR | 0755),
                        other = host.make_node("other", S_IFDIR | 0755);
    Policy policy = Policy::guest();
    policy.root = InodeNo(sub);
    Wire guest(host, policy);
    const std::uint64_t moved = guest.make_node("moved", S_IFDIR | 0755);
    REQUIRE(moved != 0);
    CHECK(lookup_in(guest, moved, "..") == kRoot);
    const fuse_rename_in in{.newdir = other};
    REQUIRE(host.call(FUSE_RENAME, sub, names(bytes_text(in), {"moved", "moved"})).error == 0);
    CHECK(guest.call(FUSE_LOOKUP, moved, name("..")).error == ESTALE);
    CHECK(guest.call(FUSE_GETATTR, other, bytes_text(fuse_getattr_in{})).error == ESTALE);
    // The root itself stays as long as the client does.
    REQUIRE(host.call(FUSE_RMDIR, kRoot, name("sub")).error == 0);
    forget(host, sub, 9);
    CHECK(guest.getattr(kRoot).nlink == 0);
    CHECK(guest.create("x").error == ENOENT);
}

TEST_CASE("clients: ids are mapped on the way in and out, and unmapped ones refused or hidden") {
    World world;
    Wire &host = world.wire();
    const OpenFile roots = written(host, "roots");  // of user 0, whom the guest has not
    Policy policy = Policy::guest();
    policy.users = IdMap({{0, 100'000, 1000}, {5000, 7, 1}});
    policy.groups = IdMap({{0, 200'000, 1000}});
    Wire guest(host, policy);
    const OpenFile file = guest.create("f", {.uid = 5, .gid = 6});
    REQUIRE(file.error == 0);
    REQUIRE(host.lookup("f") == file.node);
    const fuse_attr inside = guest.getattr(file.node), outside = host.getattr(file.node);
    CHECK((inside.uid == 5 && inside.gid == 6));
    CHECK((outside.uid == 100'005 && outside.gid == 200'006));
    REQUIRE(guest.lookup("roots") == roots.node);
    const fuse_attr hidden = guest.getattr(roots.node);
    CHECK((hidden.uid == IdMap::kOverflow && hidden.gid == IdMap::kOverflow));
    const std::string listing =
        guest.call(FUSE_READDIRPLUS, kRoot, bytes_text(fuse_read_in{.size = 4096})).text();
    CHECK(listing.find(bytes_text(std::uint32_t{100'005})) == std::string::npos);

    CHECK(guest.create("g", {.uid = 1000}).error == EOVERFLOW);
    CHECK(guest.create("g", {.gid = 1000}).error == EOVERFLOW);
    CHECK(guest.create("g", {.uid = ~0u}).error == EOVERFLOW);
    fuse_setattr_in owner{};
    owner.valid = FATTR_UID;
    owner.uid = 5000;
    CHECK(guest.setattr(file.node, owner) == 0);
    CHECK(host.getattr(file.node).uid == 7);
    owner.uid = 5001;
    CHECK(guest.setattr(file.node, owner) == EOVERFLOW);
    // Requests that release something, and write-back, have no user.
    fuse_write_in back{.fh = file.handle, .size = 1, .write_flags = FUSE_WRITE_CACHE};
    CHECK(guest.call(FUSE_WRITE, file.node, bytes_text(back) + "x", {.uid = 4000}).error == 0);
    fuse_release_in in{};
    in.fh = file.handle;
    CHECK(guest.call(FUSE_RELEASE, file.node, bytes_text(in), {.uid = 4000}).error == 0);
    CHECK(handles(world, file.node) == 0);
}

TEST_CASE(
    "clients: the ids of an access control list are mapped, too, and no others can be named") {
    World world;
    Wire &host = world.wire();
    Policy policy = Policy::guest();
    policy.users = IdMap({{0, 100'000, 1000}, {5000, 7, 1}});
    policy.groups = IdMap({{0, 200'000, 1000}});
    Wire guest(host, policy);
    const OpenFile file = guest.create("f", {.uid = 5, .gid = 6});
    REQUIRE((file.error == 0 && host.lookup("f") == file.node));
    const auto list = [](std::uint32_t user, std::uint32_t group) {
        constexpr std::uint32_t kNone = ~0u;
        std::string bytes("\2\0\0\0", 4);
        const auto add = [&bytes](std::uint16_t tag, std::uint32_t id) {
            constexpr std::uint16_t kReads = 4;
            bytes += bytes_text(tag) + bytes_text(kReads) + bytes_text(id);
        };
        add(1, kNone), add(2, user), add(4, kNone), add(8, group), add(16, kNone), add(32, kNone);
        return bytes;
    };
    const std::string name = "system.posix_acl_access";
    CHECK(guest.setxattr(file.node, name, list(9, 8), {.uid = 5}) == 0);
    CHECK(host.getxattr(file.node, name).text() == list(100'009, 200'008));
    CHECK(guest.getxattr(file.node, name).text() == list(9, 8));
    CHECK(guest.setxattr(file.node, name, list(5000, 0), {.uid = 5}) == 0);
    CHECK(host.getxattr(file.node, name).text() == list(7, 200'000));
    for (const auto &[user, group] : {std::pair{1000u, 8u}, {9u, 1000u}, {IdMap::kOverflow, 8u}})
        CHECK(guest.setxattr(file.node, name, list(user, group), {.uid = 5}) == EOVERFLOW);
    CHECK(host.getxattr(file.node, name).text() == list(7, 200'000));
    CHECK(host.setxattr(file.node, name, list(0, 8)) == 0);
    CHECK(guest.getxattr(file.node, name).text() == list(IdMap::kOverflow, IdMap::kOverflow));
    for (const std::size_t size : {0, 3, 5, 11, 12, 51}) {  // an invalid list names no user
        CAPTURE(size);
        const std::string cut = list(~0u - 1, 3).substr(0, size);
        const int error = guest.setxattr(file.node, name, cut, {.uid = 5});
        CHECK((error == EINVAL || (size == 0 && error == 0)));
    }
}

TEST_CASE("clients: a policy's limits hold, and what is released can be taken again") {
    World world;
    Policy policy = Policy::guest();
    policy.lookups_max = 2;
    policy.handles_max = 2;
    policy.grants_max = 1;
    Wire guest(world.wire(), policy);
    const OpenFile a = written(guest, "a"), b = written(guest, "b");
    REQUIRE((a.error == 0 && b.error == 0));
    CHECK(guest.lookup("a") == a.node);  // it has that
    forget(guest, a.node, 1);
    CHECK(guest.lookup("c") == 0);  // absent
    CHECK(guest.create("c").error == ENFILE);
    CHECK(guest.make_node("c", S_IFDIR | 0755) == 0);
    CHECK(world.wire().lookup("c") == 0);
    REQUIRE(world.wire().make_node("d", S_IFDIR | 0755) != 0);
    CHECK(guest.call(FUSE_LOOKUP, kRoot, name("d")).error == ENFILE);
    CHECK(guest.open(a.node, O_RDONLY).error == EMFILE);
    // A listing names what it cannot give.
    CHECK(guest.call(FUSE_READDIRPLUS, kRoot, bytes_text(fuse_read_in{.size = 4096})).error == 0);
    CHECK(lease(guest, a) == 0);
    CHECK(lease(guest, b) == ENOLCK);
    guest.release(a);
    CHECK(lease(guest, b) == 0);
    const OpenFile again = guest.open(a.node, O_RDONLY);
    CHECK(again.error == 0);
    forget(guest, a.node, 1);
    CHECK(guest.create("c").error == EMFILE);
    guest.release(again);
    CHECK(guest.create("c").error == 0);
}

TEST_CASE("clients: the host's kernel is told of a guest's change before the guest is answered") {
    World world;
    Wire &host = world.wire();
    const std::uint64_t dir = host.make_node("d", S_IFDIR | 0755);
    const OpenFile file = written(host, "f"), other = written(host, "g");
    Wire guest(host, Policy::guest());
    REQUIRE((guest.lookup("f") == file.node && guest.lookup("d") == dir));
    const OpenFile own = guest.open(file.node, O_RDWR);
    const std::string f = std::to_string(file.node), g = std::to_string(other.node);
    const fuse_setattr_in mode{.valid = FATTR_MODE, .mode = 0600};
    const auto make_dir = [&] { return guest.make_node("m", S_IFDIR | 0755) != 0 ? 0 : EIO; };
    struct Change {
        const char *what;
        std::function<int()> make;
        std::vector<std::string> heard;
    };
    const Change changes[] = {
        {"write", [&] { return guest.write(own, 100, "yy"); }, {"pages " + f + " 100 2"}},
        {"truncate", [&] { return guest.truncate(file.node, 10); }, {"pages " + f + " 0 0"}},
        {"open and truncate",
         [&] { return guest.open(file.node, O_WRONLY | O_TRUNC).error; },
         {"pages " + f + " 0 0"}},
        {"fallocate", [&] { return guest.fallocate(own, 0, 0, 1 << 16); }, {"pages " + f + " 0 0"}},
        {"chmod", [&] { return guest.setattr(file.node, mode); }, {"attr " + f}},
        {"setxattr", [&] { return guest.setxattr(file.node, "user.a", "b"); }, {"attr " + f}},
        {"removexattr", [&] { return guest.removexattr(file.node, "user.a"); }, {"attr " + f}},
        {"prepare",
         [&] {
             auto io = versioned<pmfs_io_prepare>();
             return guest.ioctl(own, PMFS_IOC_PREPARE, &io);
         },
         {"pages " + f + " 0 0", "attr " + f}},
        {"create", [&] { return guest.create("c").error; }, {"name 1 c", "pages 1 0 0"}},
        {"mkdir", make_dir, {"name 1 m", "pages 1 0 0"}},
        {"mknod",
         [&] { return guest.make_node("p", S_IFIFO | 0644) != 0 ? 0 : EIO; },
         {"name 1 p", "pages 1 0 0"}},
        {"symlink",
         [&] {
             return guest.call(FUSE_SYMLINK, kRoot, names("", {"s", "t"})).error;
         },
         {"name 1 s", "pages 1 0 0"}},
        {"link", [&] { return guest.link(file.node, "l"); }, {"name 1 l", "attr " + f}},
        {"rename over",
         [&] { return guest.rename("l", "g"); },
         {"name 1 l", "name 1 g", "attr " + f, "attr " + g}},
        {"unlink", [&] { return guest.unlink("f"); }, {"name 1 f", "attr " + f, "pages 1 0 0"}},
        {"rmdir",
         [&] { return guest.call(FUSE_RMDIR, kRoot, name("m")).error; },
         {"name 1 m", "pages 1 0 0"}},
        {"move a directory",
         [&] {
             make_dir();
             const fuse_rename_in in{.newdir = dir};
             REQUIRE(lookup_in(host, kRoot, "m") != 0);
             return guest.call(FUSE_RENAME, kRoot, names(bytes_text(in), {"m", "m"})).error;
         },
         {"name 1 m", "name " + std::to_string(dir) + " m"}}};
    for (const Change &change : changes) {
        CAPTURE(change.what);
        host.sent();
        CHECK(change.make() == 0);
        const auto sent = host.sent();
        for (const std::string &heard : change.heard) {
            CAPTURE(heard);
            CHECK(std::ranges::find(sent, heard) != sent.end());
        }
    }
}

TEST_CASE("clients: the host's kernel is not told of what it does not know, nor of what it did") {
    World world;
    Wire &host = world.wire();
    Wire guest(host, Policy::guest());
    const OpenFile file = guest.create("f");
    host.sent();
    CHECK(guest.write(file, 0, "x") == 0);
    CHECK(guest.truncate(file.node, 10) == 0);
    CHECK(host.sent().empty());
    const OpenFile own = host.create("own");
    CHECK(host.write(own, 0, "x") == 0);
    CHECK(host.unlink("own") == 0);
    for (const std::string &text : host.sent()) CHECK(text == "reply 0");
}

TEST_CASE(
    "clients: a guest sees data that the host's kernel has not written back, and cannot lose it") {
    World world;
    Wire &host = world.wire();
    const OpenFile file = written(host, "f");
    Wire guest(host, Policy::guest());
    REQUIRE(guest.lookup("f") == file.node);
    const OpenFile own = guest.open(file.node, O_RDWR);
    std::atomic<bool> dirty = false;
    host.on_invalidate = [&](std::uint64_t node) {
        if (node == file.node && dirty.exchange(false))
            CHECK(host.write_back(file.node, file.handle, 0, std::string(4096, 'd')) == 0);
    };
    dirty = true;
    CHECK(guest.read(own, 0, 1).text() == "d");
    dirty = true;
    CHECK(guest.write(own, 1, "g") == 0);  // in the middle of a page that the host stored to
    CHECK(guest.read(own, 0, 3).text() == "dgd");
    dirty = true;
    CHECK(guest.truncate(file.node, 0) == 0);
    CHECK(!dirty);
    CHECK(host.getattr(file.node).size == 0);  // nothing was written back behind the new end
    CHECK(guest.write(own, 0, std::string(4096, 'g')) == 0);
    dirty = true;
    CHECK(guest.open(file.node, O_WRONLY | O_TRUNC).error == 0);
    CHECK(host.getattr(file.node).size == 0);
}

TEST_CASE(
    "clients: the host's kernel hears of a guest's chmod though it has the file open, with holes") {
    World world;
    Wire &host = world.wire();
    const OpenFile file = written(host, "f");
    REQUIRE(host.truncate(file.node, 1 << 20) == 0);
    Wire guest(host, Policy::guest());
    REQUIRE(guest.lookup("f") == file.node);
    unsigned asked = 0;
    host.on_invalidate = [&](std::uint64_t) { ++asked; };
    host.getattr(file.node);
    CHECK(asked == 1);
    CHECK(guest.setattr(file.node, {.valid = FATTR_MODE, .mode = 0600}) == 0);
    asked = 0;
    // Asked to write pages back now, it would drop the answer.
    CHECK((host.getattr(file.node).mode & 07777) == 0600);
    CHECK(asked == 0);
    CHECK(guest.getattr(file.node).blocks == 8);
    CHECK(asked == 1);  // for the guest it does
}
