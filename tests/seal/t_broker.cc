// The broker: who gets the device, who does not, and when a grant ends.  Real sockets, real
// processes and users; the FUSE side is a Wire.
//
// Holds docs/security.md "How it is handed over", "Leases, pins and events hand out no device",
// "Why an image file is not given to a group".
#include <doctest/doctest.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <thread>

#include "brokered.h"

using namespace pmfs;
using namespace pmfs::test;
using namespace std::chrono_literals;

namespace {

int redeem_and_keep(const pmfs_io_grant &grant) {
    int socket = -1;
    const int device = redeem(grant, &socket);
    return device < 0 ? device : 0;
}

// 0: read-only, 1: may be mapped for storing.
int device_mode(const pmfs_io_grant &grant) {
    int socket = -1;
    const int device = redeem(grant, &socket);
    if (device < 0) return device;
    void *at = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, device, 0);
    return at == MAP_FAILED ? 0 : 1;
}

}  // namespace

TEST_CASE("broker: a token gives the device once, and the grant lives as long as its connection") {
    for (const Medium medium : {Medium::memory, Medium::image}) {
        Brokered b(medium);
        const pmfs_io_grant grant = b.grant(true);
        CHECK(grant.epoch == b.broker->epoch());
        CHECK(grant.length == kSize);
        CHECK(grant.device_size == 64 << 20);
        int socket = -1;
        const int device = redeem(grant, &socket);
        REQUIRE(device >= 0);
        auto page = std::make_unique<pmfs_extents>();
        page->version = PMFS_ABI_VERSION;
        REQUIRE(b.mounted.wire().ioctl(b.file, PMFS_IOC_EXTENTS, page.get()) == 0);
        auto *at = static_cast<char *>(::mmap(nullptr, kBlock, PROT_READ | PROT_WRITE, MAP_SHARED,
                                              device, static_cast<off_t>(page->extent[0].device)));
        REQUIRE(at != MAP_FAILED);
        CHECK(std::memcmp(at, pattern(kSize, 5).data(), kBlock) == 0);
        std::copy_n("stored", 6, at);
        CHECK(b.mounted.wire().read(b.file, 0, 6).text() == "stored");
        ::munmap(at, kBlock);
        CHECK(b.grants() == 1);

        int second = -1;
        CHECK(redeem(grant, &second) == -EPERM);
        CHECK(b.logged("unknown, used or too old"));
        CHECK(b.grants() == 1);
        CHECK(b.mounted.wire().truncate(b.file.node, 0) == ETXTBSY);
        ::close(socket);
        CHECK(b.grants_become(0));
        CHECK(b.mounted.wire().truncate(b.file.node, 0) == 0);
        ::close(device);
    }
}

TEST_CASE("broker: a grant that does not store gets a descriptor that cannot") {
    Brokered b(Medium::memory);
    int socket = -1;
    const int device = redeem(b.grant(false), &socket);
    REQUIRE(device >= 0);
    CHECK((::fcntl(device, F_GETFL) & O_ACCMODE) == O_RDONLY);
    CHECK(::mmap(nullptr, 4096, PROT_WRITE, MAP_SHARED, device, 0) == MAP_FAILED);
    ::close(device);
    ::close(socket);
}

TEST_CASE("broker: a token is valid only for its grant, its user and its process") {
    front::BrokerOptions options;
    options.group = kGroup;
    Brokered b(Medium::memory, options);
    pmfs_io_grant wrong = b.grant();
    wrong.grant++;
    int socket = -1;
    CHECK(redeem(wrong, &socket) == -EPERM);
    CHECK(b.logged("another grant"));
    CHECK(b.grants_become(0));  // the token is used up, and its grant goes with it

    Child other(redeem_and_keep);
    CHECK(other.act(b.grant()) == -EPERM);
    CHECK(b.logged("another process"));
    CHECK(b.grants_become(0));

    Child user(redeem_and_keep, kUser, true);
    CHECK(user.act(b.grant(false, user.as(0))) == -EPERM);
    CHECK(b.logged("another user"));
    CHECK(b.grants_become(0));

    pmfs_io_grant guessed = b.grant();
    guessed.token[7] ^= 1;
    CHECK(redeem(guessed, &socket) == -EPERM);
    CHECK(b.grants() == 1);  // a wrong guess ends no grant
}

TEST_CASE("broker: without a group, only root maps") {
    Brokered b(Medium::memory);
    pmfs_io_grant io{};
    io.version = PMFS_ABI_VERSION;
    io.flags = PMFS_GRANT_MAP;
    io.kind = PMFS_GRANT_TEMPORARY;
    CHECK(b.mounted.wire().ioctl(b.file, PMFS_IOC_GRANT, &io, {.uid = kUser, .gid = kUser}) ==
          EACCES);
    CHECK(b.grants() == 0);
    Child user(redeem_and_keep, kUser, true);
    CHECK(user.act(b.grant(false, user.as(0))) == -EACCES);
    CHECK(b.logged("neither root nor in the group"));
}

TEST_CASE("broker: members of the group map, others do not; a writable image is for root") {
    front::BrokerOptions options;
    options.group = kGroup;
    for (const Medium medium : {Medium::memory, Medium::image}) {
        Brokered b(medium, options);
        fuse_setattr_in owner{};
        owner.valid = FATTR_UID | FATTR_GID;
        owner.uid = owner.gid = kUser;
        REQUIRE(b.mounted.wire().setattr(b.file.node, owner) == 0);
        Child outsider(redeem_and_keep, kUser, false);
        CHECK(outsider.act(b.grant(false, outsider.as(kUser))) == -EACCES);
        CHECK(b.logged("neither root nor in the group"));
        Child reader(device_mode, kUser, true);
        CHECK(reader.act(b.grant(false, reader.as(kUser))) == 0);
        Child writer(device_mode, kUser, true);
        const int wrote = writer.act(b.grant(true, writer.as(kUser)));
        CHECK(wrote == (medium == Medium::memory ? 1 : -EPERM));
        if (medium == Medium::image) CHECK(b.logged("a writable image goes to root only"));
        Child root(device_mode);
        CHECK(root.act(b.grant(true, root.as())) == 1);
    }
}

TEST_CASE("broker: when a token expires, its grant ends") {
    front::BrokerOptions options;
    options.token_seconds = 1;
    Brokered b(Medium::memory, options);
    const pmfs_io_grant late = b.grant();
    CHECK(b.grants() == 1);
    CHECK(b.grants_become(0));
    int socket = -1;
    CHECK(redeem(late, &socket) == -EPERM);
}

TEST_CASE("broker: a grant ends with its process, even if a child of it keeps the socket") {
    Brokered b(Medium::memory);
    Child killed(redeem_and_keep);
    REQUIRE(killed.act(b.grant(true, killed.as())) == 0);
    CHECK(b.grants() == 1);
    killed.kill();
    CHECK(b.grants_become(0));

    int heir_pipe[2];
    REQUIRE(::pipe(heir_pipe) == 0);
    Child parent([&](const pmfs_io_grant &grant) {
        const int result = redeem_and_keep(grant);
        const pid_t heir = ::fork();
        if (heir == 0) {
            ::sleep(60);
            ::_exit(0);
        }
        (void)!::write(heir_pipe[1], &heir, sizeof heir);
        return result;
    });
    REQUIRE(parent.act(b.grant(true, parent.as())) == 0);
    pid_t heir = -1;
    REQUIRE(::read(heir_pipe[0], &heir, sizeof heir) == sizeof heir);
    parent.kill();
    CHECK(b.grants_become(0));
    ::kill(heir, SIGKILL);
    ::close(heir_pipe[0]);
    ::close(heir_pipe[1]);
}

TEST_CASE("broker: when a grant is released or its handle closed, its channel hangs up") {
    Brokered b(Medium::memory);
    for (const bool whole_handle : {false, true}) {
        const pmfs_io_grant grant = b.grant(), other = b.grant();
        int socket = -1;
        std::uint64_t claim = 0, other_claim = 0;
        const int device = redeem(grant, &socket, &claim);
        REQUIRE(device >= 0);
        const int same = bind_to(socket, other, &other_claim);
        REQUIRE(same >= 0);
        CHECK(claim != other_claim);
        const int channel = ask(socket, PMFS_BROKER_EVENTS, claim, nullptr);
        REQUIRE(channel >= 0);
        pollfd hangup{channel, 0, 0}, connection{socket, 0, 0};
        CHECK(::poll(&hangup, 1, 0) == 0);
        if (whole_handle) {
            b.mounted.wire().release(b.file);
        } else {
            pmfs_io_release_grant io{};
            io.version = PMFS_ABI_VERSION;
            io.grant = grant.grant;
            CHECK(b.mounted.wire().ioctl(b.file, PMFS_IOC_RELEASE_GRANT, &io) == 0);
            CHECK(b.grants() == 1);  // the connection's other one stays
        }
        CHECK(::poll(&hangup, 1, 5000) == 1);
        CHECK((hangup.revents & POLLHUP) != 0);
        CHECK(::poll(&connection, 1, 0) == 0);
        CHECK(ask(socket, PMFS_BROKER_EVENTS, claim, nullptr) == -ENOENT);
        for (const int fd : {device, same, channel, socket}) ::close(fd);
    }
}

TEST_CASE("broker: a connection holds many grants, gets only their events, and they end with it") {
    Brokered b(Medium::memory);
    const int first = ::pmfs_broker_connect(b.broker->socket_path().c_str());
    const int second = ::pmfs_broker_connect(b.broker->socket_path().c_str());
    REQUIRE(first >= 0);
    REQUIRE(second >= 0);
    std::uint64_t claim = 0;
    for (int i = 0; i < 300; ++i) {
        const int device = bind_to(first, b.grant(), &claim);
        REQUIRE(device >= 0);
        ::close(device);
    }
    const int device = bind_to(second, b.grant());
    REQUIRE(device >= 0);
    CHECK(ask(second, PMFS_BROKER_EVENTS, claim, nullptr) == -ENOENT);
    pmfs_io_grant wrong = b.grant();
    ++wrong.token[3];
    CHECK(bind_to(first, wrong) == -EPERM);
    CHECK(b.grants() == 302);  // a refusal costs the connection nothing that it holds
    ::close(first);
    CHECK(b.grants_become(2));
    ::close(device);
    ::close(second);
}

TEST_CASE("broker: root finds a place in every table that a user has filled") {
    front::BrokerOptions options;
    options.group = kGroup;
    options.connections_max = 16;
    options.connections_per_uid_max = 100;
    Brokered b(Medium::memory, options);
    const std::string path = b.broker->socket_path();
    Child crowd(
        [&path](const pmfs_io_grant &) {
            int refused = 0;
            for (int i = 0; i < 16; ++i) {
                const int socket = ::pmfs_broker_connect(path.c_str());
                pmfs_broker_answer got{};
                pollfd said{socket, POLLIN, 0};
                refused += ::poll(&said, 1, 200) == 1 &&
                           ::recv(socket, &got, sizeof got, 0) == sizeof got && got.error == EUSERS;
            }
            return refused;
        },
        kUser, true);
    CHECK(crowd.act({}) == 2);  // an eighth of the places
    int socket = -1;
    const int device = redeem(b.grant(), &socket);
    CHECK(device >= 0);
    ::close(device);
    ::close(socket);

    // Tokens that are not used: a user may have so many, and all users together leave some.
    fuse_setattr_in owner{};
    owner.valid = FATTR_UID;
    unsigned taken = 0;
    for (std::uint32_t user = kUser; user < kUser + 10; ++user) {
        owner.uid = user;
        REQUIRE(b.mounted.wire().setattr(b.file.node, owner) == 0);
        pmfs_io_grant io{};
        for (int error = 0; error == 0; taken += error == 0) {
            io = {};
            io.version = PMFS_ABI_VERSION;
            io.flags = PMFS_GRANT_MAP;
            io.kind = PMFS_GRANT_TEMPORARY;
            error = b.mounted.wire().ioctl(b.file, PMFS_IOC_GRANT, &io, {.uid = user});
            if (error != 0) CHECK(error == EAGAIN);
        }
    }
    CHECK(taken < 1024);
    (void)b.grant();
}

TEST_CASE("broker: connections are limited for each user; silent and invalid ones are closed") {
    front::BrokerOptions options;
    options.group = kGroup;
    options.connections_per_uid_max = 3;
    options.token_seconds = 1;
    Brokered b(Medium::memory, options);
    const std::string path = b.broker->socket_path();
    const auto dial = [&path](const void *say, std::size_t size) {
        const int fd = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        std::strcpy(address.sun_path, path.c_str());
        if (::connect(fd, reinterpret_cast<sockaddr *>(&address), sizeof address) != 0) return -1;
        if (size != 0) (void)!::send(fd, say, size, MSG_NOSIGNAL);
        return fd;
    };
    const auto answer = [](int fd) {
        pmfs_broker_answer got{};
        pollfd ready{fd, POLLIN, 0};
        if (::poll(&ready, 1, 5000) != 1) return -1;
        ssize_t size = ::recv(fd, &got, sizeof got, 0);
        if (size < 0 && errno == ECONNRESET) size = ::recv(fd, &got, sizeof got, 0);
        return size == sizeof got ? got.error : 0;
    };
    Child crowd(
        [&](const pmfs_io_grant &) {
            int fds[4];
            for (int &fd : fds) fd = dial(nullptr, 0);
            return answer(fds[3]);
        },
        kUser, true);
    CHECK(crowd.act({}) == EUSERS);
    CHECK(b.logged("as many connections as one user may have"));
    Child garbled([&](const pmfs_io_grant &) { return answer(dial("what?", 5)); }, kUser + 1, true);
    CHECK(garbled.act({}) == EPROTO);
    const int silent = dial(nullptr, 0);
    pollfd hangup{silent, POLLIN, 0};
    CHECK(::poll(&hangup, 1, 5000) == 1);
    CHECK((hangup.revents & POLLHUP) != 0);
    ::close(silent);
}

TEST_CASE(
    "broker: users that may not map get few connections, and only root hands the device over") {
    front::BrokerOptions options;
    options.group = kGroup;
    options.connections_per_uid_max = 16;  // so many for members; an eighth for others
    Brokered b(Medium::memory, options);
    const std::string path = b.broker->socket_path();
    Child stranger(
        [&path](const pmfs_io_grant &) {
            int last = -1;
            for (int i = 0; i < 3; ++i) {
                last = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
                sockaddr_un address{};
                address.sun_family = AF_UNIX;
                std::strcpy(address.sun_path, path.c_str());
                if (::connect(last, reinterpret_cast<sockaddr *>(&address), sizeof address) != 0)
                    return -1;
            }
            pmfs_broker_answer got{};
            pollfd ready{last, POLLIN, 0};
            if (::poll(&ready, 1, 5000) != 1) return -1;
            return ::recv(last, &got, sizeof got, 0) == sizeof got ? got.error : 0;
        },
        kUser, false);
    CHECK(stranger.act({}) == EUSERS);
    pmfs_io_grant io{};
    io.version = PMFS_ABI_VERSION;
    io.flags = PMFS_GRANT_MAP | PMFS_GRANT_HAND_OVER;
    io.kind = PMFS_GRANT_TEMPORARY;
    CHECK(b.mounted.wire().ioctl(b.file, PMFS_IOC_GRANT, &io, {.uid = kUser, .gid = kGroup}) ==
          EPERM);
    CHECK(b.grants() == 0);
}

TEST_CASE("broker: the descriptor does not carry the volume's lock") {
    Brokered b(Medium::memory);
    int socket = -1;
    const int device = redeem(b.grant(), &socket);
    REQUIRE(device >= 0);
    // Another description of the same medium: the server has it locked, and we have not.
    CHECK(::flock(device, LOCK_EX | LOCK_NB) == -1);
    b.mounted.wire().dispatcher().set_broker(nullptr);
    b.broker.reset();
    b.mounted.crash();  // would be EBUSY if what we hold kept the lock
    CHECK(b.mounted.wire().lookup("f") != 0);
    b.file.node = b.mounted.wire().lookup("f");
    ::close(device);
    ::close(socket);
}

TEST_CASE(
    "broker: the socket's directory belongs to root alone, and a dead server's socket is "
    "replaced") {
    Brokered b(Medium::memory);
    Mounted second(Medium::memory);
    front::BrokerOptions options;
    options.directory = b.directory;
    REQUIRE(::chmod(b.directory.c_str(), 0777) == 0);
    const auto open_to_all = front::Broker::start(second.volume(), options);
    CHECK(!open_to_all.ok());
    if (!open_to_all.ok()) CHECK(open_to_all.error().errno_value() == EPERM);
    REQUIRE(::chmod(b.directory.c_str(), 0755) == 0);

    // The same volume twice: a copy of an image.  Each has a socket of its own.
    const auto copy = front::Broker::start(b.mounted.volume(), options);
    REQUIRE(copy.ok());
    CHECK(copy.value()->socket_path() != b.broker->socket_path());
    struct stat status;
    CHECK(::stat(b.broker->socket_path().c_str(), &status) == 0);
    CHECK((status.st_mode & 0777) == 0666);

    // What a killed server leaves is not in the way.
    const std::string path = b.broker->socket_path();
    b.mounted.wire().dispatcher().set_broker(nullptr);
    b.broker.reset();
    CHECK(::stat(path.c_str(), &status) != 0);
    const int dead = ::socket(AF_UNIX, SOCK_SEQPACKET, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, path.c_str());
    REQUIRE(::bind(dead, reinterpret_cast<sockaddr *>(&address), sizeof address) == 0);
    ::close(dead);
    auto again = front::Broker::start(b.mounted.volume(), options);
    REQUIRE(again.ok());
    CHECK(again.value()->socket_path() == path);
}
