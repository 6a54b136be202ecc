// File locks of several clients, as requests: who waits, who is answered when, and what is left of
// the locks of handles and clients that have gone.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "samples.h"
#include "world.h"

using namespace pmfs;
using namespace pmfs::test;
using front::Policy;

namespace {

using Sent = std::vector<std::string>;
constexpr std::uint64_t kEnd = INT64_MAX;

// An open file of a client, and an owner of locks.
struct Locker {
    Wire &wire;
    OpenFile file;
    std::uint64_t owner;

    std::string body(std::uint32_t type, std::uint64_t first, std::uint64_t last,
                     bool flock = false) const {
        return bytes_text(fuse_lk_in{.fh = file.handle,
                                     .owner = owner,
                                     .lk = {.start = first, .end = last, .type = type, .pid = 4711},
                                     .lk_flags = flock ? FUSE_LK_FLOCK : 0u});
    }
    int set(std::uint32_t type, std::uint64_t first = 0, std::uint64_t last = kEnd) const {
        return wire.call(FUSE_SETLK, file.node, body(type, first, last)).error;
    }
    int flock(std::uint32_t type) const {
        return wire.call(FUSE_SETLK, file.node, body(type, 0, kEnd, true)).error;
    }
    // Does not wait for the answer; gives the number of the request.
    std::uint64_t wait(std::uint32_t type, std::uint64_t first = 0, std::uint64_t last = kEnd,
                       bool flock = false) const {
        wire.sent();
        return wire.post(FUSE_SETLKW, file.node, body(type, first, last, flock));
    }
    fuse_file_lock ask(std::uint32_t type, std::uint64_t first, std::uint64_t last) const {
        const Reply reply = wire.call(FUSE_GETLK, file.node, body(type, first, last));
        REQUIRE(reply.error == 0);
        return reply.as<fuse_lk_out>().lk;
    }
    int close() const {
        const fuse_flush_in in{.fh = file.handle, .lock_owner = owner};
        return wire.call(FUSE_FLUSH, file.node, bytes_text(in)).error;
    }
};

// A file that the host and a guest have open, each with an owner of the same number.
struct Both {
    explicit Both(const Policy &policy = Policy::guest())
        : made(host_wire.create("f")),
          guest_wire(std::make_unique<Wire>(host_wire, policy)),
          host{host_wire, made, 5},
          guest{*guest_wire, opened(*guest_wire, policy.read_only ? O_RDONLY : O_RDWR), 5} {}
    OpenFile opened(Wire &wire, int flags) const {
        REQUIRE(wire.lookup("f") == made.node);
        const OpenFile file = wire.open(made.node, flags);
        REQUIRE(file.error == 0);
        return file;
    }
    std::size_t left(Wire &wire) {
        return host_wire.clients().locks().held_by(wire.dispatcher().client().id());
    }

    World world;
    Wire &host_wire = world.wire();
    OpenFile made;
    std::unique_ptr<Wire> guest_wire;
    Locker host, guest;
};

}  // namespace

TEST_CASE("locks: a range that one client has locked conflicts for another, which can query it") {
    Both both;
    CHECK(both.host.set(F_WRLCK, 10, 19) == 0);
    CHECK(both.guest.set(F_RDLCK, 15, 15) == EAGAIN);
    CHECK(both.guest.set(F_WRLCK, 20, 29) == 0);
    const fuse_file_lock seen = both.guest.ask(F_RDLCK, 0, kEnd);
    CHECK(seen.type == F_WRLCK);
    CHECK(seen.start == 10);
    CHECK(seen.end == 19);
    CHECK(seen.pid == 0);  // of another machine
    CHECK(both.guest.ask(F_WRLCK, 20, 29).type == F_UNLCK);
    Locker other = both.guest;
    other.owner = 6;
    CHECK(other.ask(F_WRLCK, 20, 29).pid == 4711);
    CHECK(both.host.set(F_UNLCK, 0, 14) == 0);
    CHECK(both.guest.set(F_RDLCK, 12, 14) == 0);
    CHECK(both.host.set(F_WRLCK, 0, kEnd) == EAGAIN);
    CHECK(both.host.ask(F_WRLCK, 0, 13).end == 14);
}

TEST_CASE("locks: flock and fcntl locks of two clients do not affect each other") {
    Both both;
    CHECK(both.host.flock(F_WRLCK) == 0);
    CHECK(both.guest.set(F_WRLCK) == 0);
    CHECK(both.guest.flock(F_RDLCK) == EAGAIN);
    CHECK(both.host.flock(F_RDLCK) == 0);
    CHECK(both.guest.flock(F_RDLCK) == 0);
    CHECK(both.host.flock(F_UNLCK) == 0);
    CHECK(both.guest.flock(F_WRLCK) == 0);
}

TEST_CASE("locks: a waiting request is answered when the lock is released, and not before") {
    for (const bool flock : {false, true}) {
        CAPTURE(flock);
        Both both;
        const auto set = [flock](const Locker &locker, std::uint32_t type) {
            return flock ? locker.flock(type) : locker.set(type);
        };
        CHECK(set(both.host, F_WRLCK) == 0);
        both.guest.wait(F_WRLCK, 0, kEnd, flock);
        CHECK(both.guest_wire->sent().empty());
        CHECK(both.left(*both.guest_wire) == 1);
        CHECK(set(both.host, F_UNLCK) == 0);
        CHECK(both.guest_wire->sent() == Sent{"reply 0"});
        CHECK(set(both.host, F_RDLCK) == EAGAIN);
        both.host.wait(F_RDLCK, 0, kEnd, flock);
        CHECK(both.host_wire.sent().empty());
        CHECK(set(both.guest, F_RDLCK) == 0);  // a downgrade
        CHECK(both.host_wire.sent() == Sent{"reply 0"});
        both.guest.wait(F_RDLCK, 0, kEnd, flock);  // there is nothing to wait for
        CHECK(both.guest_wire->sent() == Sent{"reply 0"});
    }
}

TEST_CASE("locks: when the holder closes, or its handle or it goes, the next one gets the lock") {
    for (const std::string_view how : {"close", "release", "destroy", "leave"}) {
        CAPTURE(how);
        Both both;
        CHECK(both.guest.set(F_WRLCK, 0, 9) == 0);
        if (how != "close") CHECK(both.guest.flock(F_WRLCK) == 0);
        both.host.wait(F_RDLCK, 5, 5);
        if (how != "close")
            both.host_wire.post(FUSE_SETLKW, both.made.node,
                                both.host.body(F_RDLCK, 0, kEnd, true));
        CHECK(both.host_wire.sent().empty());
        if (how == "close") CHECK(both.guest.close() == 0);
        if (how == "release") both.guest_wire->release(both.guest.file);
        if (how == "destroy") CHECK(both.guest_wire->call(FUSE_DESTROY, 0, "").error == 0);
        if (how == "leave") both.guest_wire->leave();
        CHECK(both.host_wire.sent() ==
              (how == "close" ? Sent{"reply 0"} : Sent{"reply 0", "reply 0"}));
        CHECK(both.left(*both.guest_wire) == 0);
    }
}

TEST_CASE("locks: closing a file releases its owner's ranges in it, and no others") {
    Both both;
    Locker other = both.guest;
    other.owner = 6;
    CHECK(both.guest.set(F_WRLCK, 0, 9) == 0);
    CHECK(both.guest.flock(F_RDLCK) == 0);
    CHECK(other.set(F_WRLCK, 10, 19) == 0);
    CHECK(both.guest.close() == 0);
    CHECK(both.host.set(F_WRLCK, 0, 9) == 0);
    CHECK(both.host.set(F_WRLCK, 10, 19) == EAGAIN);
    CHECK(both.host.flock(F_WRLCK) == EAGAIN);
}

TEST_CASE("locks: a wait that is interrupted is answered with EINTR, and gets no lock later") {
    Both both;
    CHECK(both.guest.set(F_WRLCK) == 0);
    const std::uint64_t waiting = both.host.wait(F_WRLCK);
    both.host_wire.post(FUSE_INTERRUPT, 0, bytes_text(fuse_interrupt_in{.unique = waiting}));
    CHECK(both.host_wire.sent() == Sent{"reply " + std::to_string(EINTR)});
    CHECK(both.guest.set(F_UNLCK) == 0);
    CHECK(both.host_wire.sent().empty());
    CHECK(both.left(both.host_wire) == 0);
    CHECK(both.guest.set(F_WRLCK) == 0);
    // The interruption may overtake the request.
    both.host_wire.post(FUSE_INTERRUPT, 0, bytes_text(fuse_interrupt_in{.unique = waiting + 6}));
    REQUIRE(both.host.wait(F_WRLCK) == waiting + 6);
    CHECK(both.host_wire.sent() == Sent{"reply " + std::to_string(EINTR)});
}

TEST_CASE("locks: when a guest's queue stops, waiting requests end with ENOLCK") {
    Both both;
    CHECK(both.host.set(F_WRLCK) == 0);
    CHECK(both.host.flock(F_WRLCK) == 0);
    both.guest.wait(F_WRLCK);
    both.guest_wire->post(FUSE_SETLKW, both.made.node, both.guest.body(F_WRLCK, 0, kEnd, true));
    both.guest_wire->dispatcher().interrupt_all();
    const std::string given_up = "reply " + std::to_string(ENOLCK);
    CHECK(both.guest_wire->sent() == Sent{given_up, given_up});
    CHECK(both.left(*both.guest_wire) == 0);
    CHECK(both.host.set(F_UNLCK) == 0);
    CHECK(both.guest_wire->sent().empty());
}

TEST_CASE("locks: waiting requests of a client that has gone get no answer, and others continue") {
    Both both;
    CHECK(both.host.set(F_WRLCK) == 0);
    both.guest.wait(F_WRLCK);
    Wire third(both.host_wire, Policy::guest());
    const Locker last{third, both.opened(third, O_RDWR), 5};
    last.wait(F_WRLCK);
    both.guest_wire->leave();
    CHECK(both.left(*both.guest_wire) == 0);
    CHECK(both.host.set(F_UNLCK) == 0);
    CHECK(both.guest_wire->sent().empty());
    CHECK(third.sent() == Sent{"reply 0"});
}

TEST_CASE("locks: two clients that would wait for each other get EDEADLK") {
    Both both;
    CHECK(both.host.set(F_WRLCK, 0, 0) == 0);
    CHECK(both.guest.set(F_WRLCK, 1, 1) == 0);
    both.guest.wait(F_WRLCK, 0, 0);
    CHECK(both.guest_wire->sent().empty());
    both.host.wait(F_WRLCK, 1, 1);
    CHECK(both.host_wire.sent() == Sent{"reply " + std::to_string(EDEADLK)});
    CHECK(both.host.set(F_UNLCK, 0, 0) == 0);
    CHECK(both.guest_wire->sent() == Sent{"reply 0"});
}

TEST_CASE("locks: a client has at most as many as its policy allows, and an owner half of these") {
    Policy policy = Policy::guest();
    policy.locks_max = 8;
    Both both(policy);
    const auto ranges = [](const Locker &locker) {
        int error = 0;
        std::uint64_t made = 0;
        while ((error = locker.set(F_WRLCK, 100 * locker.owner + 2 * made,
                                   100 * locker.owner + 2 * made)) == 0)
            ++made;
        CHECK(error == ENOLCK);
        return made;
    };
    CHECK(ranges(both.guest) == 4);
    Locker other = both.guest;
    other.owner = 6;
    CHECK(ranges(other) == 4);
    other.owner = 7;
    CHECK(other.set(F_WRLCK, 0, 0) == ENOLCK);
    CHECK(other.flock(F_RDLCK) == ENOLCK);
    CHECK(both.host.set(F_WRLCK, 0, 0) == 0);
    CHECK(both.guest.close() == 0);
    CHECK(other.set(F_WRLCK, 1, 1) == 0);
}

TEST_CASE("locks: a read-only client may take read locks, and no write locks") {
    Policy policy = Policy::guest();
    policy.read_only = true;
    Both both(policy);
    CHECK(both.guest.set(F_WRLCK, 0, 9) == EBADF);
    CHECK(both.guest.set(F_RDLCK, 0, 9) == 0);
    CHECK(both.host.set(F_WRLCK, 0, 9) == EAGAIN);
    CHECK(both.host.set(F_RDLCK, 0, 9) == 0);
    CHECK(both.guest.set(F_UNLCK, 0, 9) == 0);
    CHECK(both.host.set(F_WRLCK, 0, 9) == 0);
}

TEST_CASE("locks: the lock must fit the descriptor's mode, and its range must be valid") {
    Both both;
    const OpenFile writes = both.guest_wire->open(both.made.node, O_WRONLY);
    const Locker writer{*both.guest_wire, writes, 5};
    CHECK(writer.set(F_RDLCK) == EBADF);
    CHECK(writer.set(F_WRLCK) == 0);
    CHECK(both.guest.set(F_WRLCK, 10, 9) == EINVAL);
    CHECK(both.guest.set(F_WRLCK, 0, std::uint64_t{1} << 63) == EINVAL);
    CHECK(both.guest.set(3, 0, 9) == EINVAL);
    CHECK(both.guest.flock(3) == EINVAL);
    Locker foreign = both.host;
    foreign.file.handle = both.guest.file.handle;
    CHECK(foreign.set(F_RDLCK) == EBADF);  // another client's handle
}

TEST_CASE("locks: a client whose kernel keeps its locks is told so, at INIT and later") {
    Both shared;
    CHECK((shared.guest_wire->agreed() & FUSE_POSIX_LOCKS) != 0);
    CHECK((shared.guest_wire->agreed() & FUSE_FLOCK_LOCKS) != 0);
    Policy policy = Policy::guest();
    policy.shares_ranges = false;
    Both one(policy);
    CHECK((one.guest_wire->agreed() & FUSE_POSIX_LOCKS) == 0);
    CHECK((one.guest_wire->agreed() & FUSE_FLOCK_LOCKS) != 0);
    CHECK(one.guest.set(F_RDLCK) == ENOSYS);
    CHECK(one.guest.close() == ENOSYS);
    CHECK(one.guest.flock(F_RDLCK) == 0);
    const Policy host = Policy::host();
    CHECK(!host.shares_ranges);
    CHECK(!host.shares_wholes);
}

TEST_CASE("locks: a client with its own user ids can always release a lock") {
    Policy policy = Policy::guest();
    policy.users = front::IdMap({{.inside = 0, .outside = 0, .count = 1}});
    Both both(policy);
    const Locker &guest = both.guest;
    CHECK(guest.set(F_WRLCK) == 0);
    const As nobody{.uid = 1000, .gid = 1000};
    const auto as_nobody = [&](std::uint32_t type) {
        return guest.wire.call(FUSE_SETLK, guest.file.node, guest.body(type, 0, kEnd), nobody)
            .error;
    };
    CHECK(as_nobody(F_RDLCK) == EOVERFLOW);
    CHECK(as_nobody(F_UNLCK) == 0);
    CHECK(both.host.set(F_WRLCK) == 0);
}

// A guest's kernel drops the pages of a file when its modification time is another one: else what
// another client wrote under a lock would not be read under the next one.
TEST_CASE("locks: each write to a file that two clients have open changes its modification time") {
    Both both;
    REQUIRE(both.host_wire.write(both.made, 0, std::string(8192, 'x')) == 0);
    const auto seen = [&](Wire &wire) {
        const fuse_attr attr = wire.getattr(both.made.node);
        return std::pair(attr.mtime, attr.mtimensec);
    };
    auto last = seen(*both.guest_wire);
    unsigned same = 0, back = 0;
    for (int i = 0; i < 200; ++i) {  // several in each tick of the kernel's coarse clock
        Wire &wire = i % 2 == 0 ? both.host_wire : *both.guest_wire;
        const OpenFile &file = i % 2 == 0 ? both.made : both.guest.file;
        REQUIRE(wire.write(file, i % 3 == 0 ? 4096 : 0, "y") == 0);
        const auto now = seen(*both.guest_wire);
        same += now == last ? 1 : 0;
        back += now < last ? 1 : 0;
        last = now;
    }
    CHECK(same == 0);
    CHECK(back == 0);
    // Nor does it go back when one of them has closed it.
    both.guest_wire->release(both.guest.file);
    for (int i = 0; i < 50; ++i) {
        REQUIRE(both.host_wire.write(both.made, 0, "z") == 0);
        CHECK(seen(*both.guest_wire) >= last);
        last = seen(*both.guest_wire);
    }
}
