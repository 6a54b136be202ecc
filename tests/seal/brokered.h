// A mounted volume with a broker, and processes that are its peers.
#pragma once
#include <doctest/doctest.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "fixture.h"
#include "front/broker/broker.h"

extern "C" {
#include "client/broker_protocol.h"
int pmfs_broker_connect(const char *path);
int pmfs_broker_talk(int broker, const struct pmfs_broker_ask *packet,
                     struct pmfs_broker_answer *answer);
}

namespace pmfs::test {

inline constexpr std::uint64_t kSize = 8 * kBlock;
inline constexpr gid_t kGroup = 4242;
inline constexpr uid_t kUser = 4000;

class Brokered {
public:
    explicit Brokered(Medium medium, front::BrokerOptions options = {}) : mounted(medium) {
        char name[] = "/tmp/pmfs-broker-XXXXXX";
        REQUIRE(::mkdtemp(name) != nullptr);
        directory = name;
        REQUIRE(::chmod(name, 0755) == 0);
        options.directory = directory;
        options.log = [this](const std::string &sentence) {
            const std::lock_guard held(mutex_);
            log_ += sentence + "\n";
        };
        auto started = front::Broker::start(mounted.volume(), options);
        REQUIRE(started.ok());
        broker = std::move(started).take();
        mounted.wire().dispatcher().set_broker(broker.get());
        file = mounted.wire().create("f");
        REQUIRE(mounted.wire().write(file, 0, pattern(kSize, 5)) == 0);
        REQUIRE(prepare_ioctl(mounted.wire(), file) == 0);
        const OpenFile direct = mounted.wire().open(file.node, O_RDWR | O_DIRECT);
        mounted.wire().release(file);
        file = direct;
    }
    ~Brokered() {
        mounted.wire().dispatcher().set_broker(nullptr);
        broker.reset();
        ::rmdir(directory.c_str());
    }

    // Takes a grant as `as`; its pid is the child that will show the token, or ours.
    pmfs_io_grant grant(bool store = false, As as = {}) {
        pmfs_io_grant io{};
        io.version = PMFS_ABI_VERSION;
        io.flags = PMFS_GRANT_MAP | (store ? PMFS_GRANT_STORE : 0);
        io.kind = PMFS_GRANT_TEMPORARY;
        REQUIRE(mounted.wire().ioctl(file, PMFS_IOC_GRANT, &io, as) == 0);
        return io;
    }
    std::uint64_t grants() { return info_of(mounted.wire(), file).grants; }
    bool grants_become(std::uint64_t wanted) {
        for (int i = 0; i < 400; i++, std::this_thread::sleep_for(std::chrono::milliseconds(10)))
            if (grants() == wanted) return true;
        return false;
    }
    bool logged(const char *words) {
        const std::lock_guard held(mutex_);
        return log_.find(words) != std::string::npos;
    }

    Mounted mounted;
    std::string directory;
    std::unique_ptr<front::Broker> broker;
    OpenFile file;

private:
    std::mutex mutex_;
    std::string log_;
};

inline int ask(int socket, std::uint32_t what, std::uint64_t number, const std::uint8_t *token,
               std::uint64_t *claim = nullptr) {
    pmfs_broker_ask packet{};
    packet.magic = PMFS_BROKER_MAGIC;
    packet.version = PMFS_BROKER_VERSION;
    packet.what = what;
    packet.number = number;
    if (token != nullptr) std::memcpy(packet.token, token, sizeof packet.token);
    pmfs_broker_answer answer{};
    const int result = ::pmfs_broker_talk(socket, &packet, &answer);
    if (claim != nullptr) *claim = answer.claim;
    return result;
}

inline int bind_to(int socket, const pmfs_io_grant &grant, std::uint64_t *claim = nullptr) {
    return ask(socket, PMFS_BROKER_BIND, grant.grant, grant.token, claim);
}

// Shows the token; the device, or -errno.  The connection is left open in *socket.
inline int redeem(const pmfs_io_grant &grant, int *socket, std::uint64_t *claim = nullptr) {
    *socket = ::pmfs_broker_connect(grant.broker);
    if (*socket < 0) return *socket;
    const int device = bind_to(*socket, grant, claim);
    if (device < 0) {
        ::close(*socket);
        *socket = -1;
    }
    return device;
}

// A process of its own that waits to be told, so that its pid is known before it acts.
class Child {
public:
    explicit Child(const std::function<int(const pmfs_io_grant &)> &act, uid_t uid = 0,
                   bool in_group = false) {
        REQUIRE(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends_) == 0);
        pid_ = ::fork();
        REQUIRE(pid_ >= 0);
        if (pid_ != 0) return;
        const gid_t groups[] = {kGroup};
        if (uid != 0 && (::setgroups(in_group ? 1 : 0, groups) != 0 ||
                         ::setresgid(uid, uid, uid) != 0 || ::setresuid(uid, uid, uid) != 0))
            ::_exit(111);
        pmfs_io_grant io{};
        if (::read(ends_[1], &io, sizeof io) != sizeof io) ::_exit(112);
        const int result = act(io);
        (void)!::write(ends_[1], &result, sizeof result);
        char end;
        (void)!::read(ends_[1], &end, 1);  // stays, with all that it holds
        ::_exit(0);
    }
    ~Child() { kill(); }
    As as(uid_t uid = 0) const {
        return {.uid = uid, .gid = uid, .pid = static_cast<unsigned>(pid_)};
    }
    pid_t pid() const { return pid_; }
    int act(const pmfs_io_grant &grant) {
        REQUIRE(::write(ends_[0], &grant, sizeof grant) == sizeof grant);
        pollfd ready{ends_[0], POLLIN, 0};
        REQUIRE(::poll(&ready, 1, 20000) == 1);
        int result = 0;
        REQUIRE(::read(ends_[0], &result, sizeof result) == sizeof result);
        return result;
    }
    void kill() {
        if (pid_ <= 0) return;
        ::kill(pid_, SIGKILL);
        ::waitpid(pid_, nullptr, 0);
        pid_ = -1;
        ::close(ends_[0]);
        ::close(ends_[1]);
    }

private:
    int ends_[2] = {-1, -1};
    pid_t pid_ = -1;
};

}  // namespace pmfs::test
