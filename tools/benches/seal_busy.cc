// How long pmfs_map takes while ten users PREPARE large files, compared with an idle volume.
#include <fcntl.h>
#include <grp.h>
#include <pmfs.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "seal_parts.h"

namespace pmfs::bench {
namespace {

constexpr std::size_t kMaps = 200, kMapsLeast = 20;
constexpr std::uint64_t kMapsNs = 5'000'000'000;  // no longer than that, where each takes long
constexpr uid_t kUsers = 10, kFirstUser = 10'001;
constexpr off_t kLarge = off_t{64} << 20;
constexpr std::uint64_t kWarmNs = 300'000'000;

int new_file(const std::string &path, off_t size) {
    const int fd = must(pmfs_open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600), "making a file");
    if (::ftruncate(fd, size) != 0) die("sizing a file", errno);
    return fd;
}

// One user's process: prepares its file again and again, until it is killed.
pid_t start_user(const std::string &directory, uid_t user) {
    const int fd = new_file(directory + "/prepared-" + std::to_string(user), 0);
    if (::fchown(fd, user, user) != 0) die("giving a file away", errno);
    const pid_t child = ::fork();
    if (child != 0) {
        ::close(fd);
        return child;
    }
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::setgroups(0, nullptr) != 0 || ::setgid(user) != 0 || ::setuid(user) != 0) ::_exit(1);
    for (;;) {
        if (::ftruncate(fd, kLarge) != 0 || pmfs_prepare(fd, 0, 0, 0) != 0) ::_exit(1);
        if (::ftruncate(fd, 0) != 0) ::_exit(1);
    }
}

double time_maps(int fd) {
    std::vector<double> times;
    const std::uint64_t first = monotonic_ns();
    for (std::size_t i = 0; i < kMaps; ++i) {
        if (i >= kMapsLeast && monotonic_ns() - first > kMapsNs) break;
        const std::uint64_t begin = monotonic_ns();
        struct pmfs_map *map = nullptr;
        must(::pmfs_map(fd, 0, 0, PROT_READ | PROT_WRITE, 0, &map), "mapping");
        times.push_back(microseconds_since(begin));
        pmfs_unmap(map);
    }
    return median(std::move(times));
}

}  // namespace

void measure_busy(const std::string &directory) {
    const int fd = new_file(directory + "/mapped", 1 << 20);
    must(pmfs_prepare(fd, 0, 0, 0), "preparing a file");
    const double idle = time_maps(fd);
    std::vector<pid_t> users;
    for (uid_t user = 0; user < kUsers; ++user)
        users.push_back(start_user(directory, kFirstUser + user));
    const std::uint64_t begin = monotonic_ns();
    while (monotonic_ns() - begin < kWarmNs) ::usleep(1000);
    Figure figure;
    figure.add(time_maps(fd), idle);
    bool all_there = true;
    for (const pid_t user : users) {
        int status = 0;
        all_there &= ::waitpid(user, &status, WNOHANG) == 0;
        ::kill(user, SIGKILL);
        ::waitpid(user, &status, 0);
    }
    ::close(fd);
    if (!all_there) die("a user's PREPARE failed", EIO);
    figure.print("seal.map_busy", "us");  // the peer: an idle volume
}

}  // namespace pmfs::bench
