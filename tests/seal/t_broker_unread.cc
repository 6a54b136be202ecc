// The broker's answers that are not read, and descriptors that cannot be sent.
//
// Holds docs/security.md "How it is handed over".
#include <doctest/doctest.h>
#include <linux/capability.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <thread>

#include "base/descriptor_message.h"
#include "brokered.h"

using namespace pmfs;
using namespace pmfs::test;
using namespace std::chrono_literals;

namespace {

constexpr int kNoDescriptor = -4096;  // fs/client/internal.h

// An unprivileged user's grant: it hands out no device.
pmfs_io_grant lease(Brokered &b, As as) {
    pmfs_io_grant io{};
    io.version = PMFS_ABI_VERSION;
    io.flags = PMFS_GRANT_EVENTS;
    io.kind = PMFS_GRANT_BREAKABLE;
    fuse_setattr_in owner{};
    owner.valid = FATTR_UID;
    owner.uid = as.uid;
    REQUIRE(b.mounted.wire().setattr(b.file.node, owner) == 0);
    REQUIRE(b.mounted.wire().ioctl(b.file, PMFS_IOC_GRANT, &io, as) == 0);
    return io;
}

void ask_only(int socket, std::uint32_t what, std::uint64_t number) {
    pmfs_broker_ask packet{};
    packet.magic = PMFS_BROKER_MAGIC;
    packet.version = PMFS_BROKER_VERSION;
    packet.what = what;
    packet.number = number;
    (void)!::send(socket, &packet, sizeof packet, MSG_NOSIGNAL);
}

bool becomes(int fd, short event) {
    pollfd one{fd, event, 0};
    for (int i = 0; i < 500; i++, std::this_thread::sleep_for(10ms))
        if (::poll(&one, 1, 0) == 1 && (one.revents & event) != 0) return true;
    return false;
}

// Of this thread and those that it starts: what exempts root from the system's limit on
// descriptors that are on their way.
class WithoutExemption {
public:
    WithoutExemption() {
        REQUIRE(::syscall(SYS_capget, &header_, before_.data()) == 0);
        auto less = before_;
        for (const int one : {CAP_SYS_ADMIN, CAP_SYS_RESOURCE})
            less[CAP_TO_INDEX(one)].effective &= ~CAP_TO_MASK(one);
        REQUIRE(::syscall(SYS_capset, &header_, less.data()) == 0);
    }
    ~WithoutExemption() { (void)::syscall(SYS_capset, &header_, before_.data()); }

private:
    __user_cap_header_struct header_{_LINUX_CAPABILITY_VERSION_3, 0};
    std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3> before_{};
};

// More descriptors of our user than it may have on their way.
class Crowd {
public:
    Crowd() {
        REQUIRE(::getrlimit(RLIMIT_NOFILE, &before_) == 0);
        const rlimit low{200, before_.rlim_max};
        REQUIRE(::setrlimit(RLIMIT_NOFILE, &low) == 0);
        REQUIRE(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends_) == 0);
        const std::vector<int> many(kDescriptorsMax, ends_[0]);
        const char byte = 0;
        REQUIRE(send_with(ends_[0], bytes_of(byte), many, MSG_DONTWAIT) == 1);
    }
    ~Crowd() {
        for (const int end : ends_) ::close(end);
        ::setrlimit(RLIMIT_NOFILE, &before_);
    }

private:
    rlimit before_{};
    int ends_[2] = {-1, -1};
};

}  // namespace

TEST_CASE("broker: a connection that asks again before it reads its answer ends, with its grants") {
    front::BrokerOptions options;
    options.group = kGroup;
    options.connections_per_uid_max = 8;  // so many for members; an eighth for others
    Brokered b(Medium::memory, options);
    const std::string path = b.broker->socket_path();
    // Negative: the step that failed.
    Child greedy(
        [&path](const pmfs_io_grant &grant) {
            std::uint64_t claim = 0;
            const int socket = ::pmfs_broker_connect(path.c_str());
            if (bind_to(socket, grant, &claim) != kNoDescriptor) return -1;
            const int first = ask(socket, PMFS_BROKER_EVENTS, claim, nullptr);
            if (first < 0) return -2;
            ask_only(socket, PMFS_BROKER_EVENTS, claim);
            if (!becomes(socket, POLLIN)) return -3;
            ask_only(socket, PMFS_BROKER_EVENTS, claim);
            if (!becomes(socket, POLLHUP)) return -4;
            if (!becomes(first, POLLHUP)) return -5;
            // Its answer is still on its way, and so its place is not free.
            const auto dial = [&path] {
                const int other = ::pmfs_broker_connect(path.c_str());
                const int said = ask(other, PMFS_BROKER_EVENTS, 1, nullptr);
                ::close(other);
                return said;
            };
            for (int i = 0; i < 30; i++, std::this_thread::sleep_for(20ms))
                if (dial() != -EUSERS) return -6;
            std::vector<FileDescriptor> fds;
            pmfs_broker_answer answer{};
            if (receive_with(socket, writable_bytes_of(answer), &fds, 0) != sizeof answer ||
                fds.size() != 1)
                return -7;
            if (receive_with(socket, writable_bytes_of(answer), &fds, 0) != 0) return -8;
            for (int i = 0; i < 250; i++, std::this_thread::sleep_for(20ms))
                if (dial() == -ENOENT) return 0;
            return -9;
        },
        kUser, false);
    CHECK(greedy.act(lease(b, greedy.as(kUser))) == 0);
    CHECK(b.logged("did not read an answer before it asked again"));
    CHECK(b.grants_become(0));
}

TEST_CASE("broker: what cannot be sent now ends no grant but the one that is asked for") {
    std::unique_ptr<Brokered> made;
    {
        const WithoutExemption limited;
        made = std::make_unique<Brokered>(Medium::memory);
    }
    Brokered &b = *made;
    int socket = -1;
    std::uint64_t claim = 0;
    const int device = redeem(b.grant(), &socket, &claim);
    REQUIRE(device >= 0);
    const int channel = ask(socket, PMFS_BROKER_EVENTS, claim, nullptr);
    REQUIRE(channel >= 0);
    const pmfs_io_grant second = b.grant(), third = b.grant();
    REQUIRE(b.grants() == 3);
    {
        const Crowd crowd;
        CHECK(ask(socket, PMFS_BROKER_EVENTS, claim, nullptr) == -ETOOMANYREFS);
        CHECK(bind_to(socket, second) == -ETOOMANYREFS);
        CHECK(b.logged("could not be sent a descriptor"));
        CHECK(b.grants_become(2));
        int alone = -1;
        CHECK(redeem(third, &alone) == -ETOOMANYREFS);
        CHECK(b.grants_become(1));
        pollfd lives{channel, POLLIN, 0};
        CHECK(::poll(&lives, 1, 0) == 0);
    }
    const int other = ask(socket, PMFS_BROKER_EVENTS, claim, nullptr);
    CHECK(other >= 0);
    const int fourth = bind_to(socket, b.grant());
    CHECK(fourth >= 0);
    CHECK(b.grants() == 2);
    for (const int fd : {device, channel, other, fourth, socket}) ::close(fd);
    CHECK(b.grants_become(0));
}
