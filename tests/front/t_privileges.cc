// What a server cannot do any more, tried by a process that gives up the same privileges.
//
// Holds docs/security.md "What the server itself can do".
#include <cap-ng.h>
#include <doctest/doctest.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <functional>
#include <thread>
#include <vector>

#include "front/mount/privileges.h"
#include "front/mount/system_calls.h"

using namespace pmfs;
using namespace pmfs::front;

namespace {

constexpr int kWrong = 200;  // an exit code that is no errno

// What became of a child that does this: an errno value that it gives, or the signal that ends it,
// negative.
int outcome(const std::function<int()> &child) {
    const pid_t pid = ::fork();
    if (pid == 0) {
        ::alarm(30);
        ::_exit(child());
    }
    int status = 0;
    ::waitpid(pid, &status, 0);
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

int under_filter(Seccomp mode, const std::function<int()> &act) {
    return outcome([&] {
        if (!keep_capabilities({}).ok() || !forbid_dumps().ok()) return kWrong;
        if (!filter_system_calls(mode).ok()) return kWrong + 1;
        return act();
    });
}

int error_of(long result) {
    return result < 0 ? errno : 0;
}

template <class... Arguments>
std::function<int()> call(long number, Arguments... arguments) {
    return [=] { return error_of(::syscall(number, arguments...)); };
}

bool filters() {
    return !kInstrumented && under_filter(Seccomp::refuse, [] { return 0; }) == 0;
}

struct Attempt {
    const char *what;
    std::function<int()> act;
};

// No capability, file mode or kind of descriptor stands in their way: the filter does.
std::vector<Attempt> attacks() {
    return {
        {"execve", [] { return error_of(::execl("/bin/true", "true", nullptr)); }},
        {"fork", call(SYS_fork)},
        {"ptrace", call(SYS_ptrace, PTRACE_TRACEME, 0, 0, 0)},
        {"process_vm_readv", call(SYS_process_vm_readv, ::getppid(), nullptr, 0, nullptr, 0, 0)},
        {"mount", call(SYS_mount, "none", "/", nullptr, MS_REMOUNT | MS_BIND, nullptr)},
        {"umount2", call(SYS_umount2, "/nowhere", 0)},
        {"unshare", call(SYS_unshare, 0)},
        {"setns", call(SYS_setns, -1, 0)},
        {"bpf", call(SYS_bpf, 0, nullptr, 0)},
        {"init_module", call(SYS_init_module, nullptr, 0, "")},
        {"keyctl", call(SYS_keyctl, 0, 0, 0, 0, 0)},
        {"open_by_handle_at", call(SYS_open_by_handle_at, AT_FDCWD, nullptr, 0)},
        {"setuid", call(SYS_setuid, 0)},
        {"capset", call(SYS_capset, nullptr, nullptr)},
        {"io_uring_setup", call(SYS_io_uring_setup, 1, nullptr)},
        {"userfaultfd", call(SYS_userfaultfd, 0)},
        {"pidfd_getfd", call(SYS_pidfd_getfd, -1, 0, 0)}};
}

std::vector<Attempt> others() {
    static int number = 0;
    return {{"a socket of the network", call(SYS_socket, AF_INET, SOCK_STREAM, 0)},
            {"a netlink socket", call(SYS_socket, AF_NETLINK, SOCK_RAW, 0)},
            {"memory to execute",
             [] {
                 return error_of(::mmap(nullptr, 4096, PROT_READ | PROT_EXEC,
                                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED
                                     ? -1
                                     : 0);
             }},
            {"memory that becomes executable",
             [] {
                 void *page = ::mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
                 return error_of(::mprotect(page, 4096, PROT_READ | PROT_EXEC));
             }},
            {"another process", call(SYS_clone, SIGCHLD, nullptr, nullptr, nullptr, nullptr)},
            {"characters for a terminal", [] { return error_of(::ioctl(0, TIOCSTI, "x")); }},
            {"a signal", call(SYS_kill, ::getppid(), SIGWINCH)},
            {"a signal to another's thread", call(SYS_tgkill, ::getppid(), ::getppid(), SIGWINCH)},
            {"another process's limits", call(SYS_prlimit64, ::getppid(), 0, nullptr, nullptr)},
            {"a directory", call(SYS_mkdirat, AT_FDCWD, "/tmp/never", 0700)},
            {"another mode", call(SYS_fchmodat, AT_FDCWD, "/nowhere", 0700)},
            {"another name", call(SYS_renameat2, AT_FDCWD, "/a", AT_FDCWD, "/b", 0)},
            {"to be dumped again", call(SYS_prctl, PR_SET_DUMPABLE, 1, 0, 0, 0)},
            {"a call that there will be", call(4000, &number)}};
}

}  // namespace

TEST_CASE("privileges: no capability is left in any set, and no program gets any") {
    const int result = outcome([] {
        if (!keep_capabilities({}).ok()) return 1;
        capng_get_caps_process();
        if (capng_have_capabilities(CAPNG_SELECT_CAPS) != CAPNG_NONE) return 2;
        if (::geteuid() == 0 && capng_have_capabilities(CAPNG_SELECT_BOUNDS) != CAPNG_NONE)
            return 3;
        for (int one = 0; one <= CAP_LAST_CAP; ++one)
            if (::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, one, 0, 0) == 1) return 4;
        return ::prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 ? 0 : 5;
    });
    CHECK(result == 0);
}

TEST_CASE("privileges: exactly the given capabilities are kept, if they were there") {
    const int result = outcome([] {
        const std::array kept = {CAP_FOWNER};
        if (!keep_capabilities(kept).ok()) return 1;
        if (::geteuid() == 0 && capng_have_capability(CAPNG_EFFECTIVE, CAP_FOWNER) == 0) return 2;
        if (capng_have_capability(CAPNG_EFFECTIVE, CAP_SYS_ADMIN) != 0) return 3;
        if (!keep_capabilities({}).ok() || !keep_capabilities(kept).ok()) return 4;
        return capng_have_capability(CAPNG_PERMITTED, CAP_FOWNER) == 0 ? 0 : 5;
    });
    CHECK(result == 0);
}

TEST_CASE("privileges: without them root is limited by file modes, and cannot get them back") {
    if (::geteuid() != 0) return;
    char path[] = "/tmp/pmfs-privileges-XXXXXX";
    const int fd = ::mkstemp(path);
    REQUIRE(fd >= 0);
    ::fchmod(fd, 0600);
    REQUIRE(::fchown(fd, 1000, 1000) == 0);
    const auto tried = [&](const std::function<int()> &act) {
        return outcome([&] { return keep_capabilities({}).ok() ? act() : kWrong; });
    };
    CHECK(tried([&] { return error_of(::open(path, O_RDONLY)); }) == EACCES);
    CHECK(tried([&] { return error_of(::chmod(path, 0666)); }) == EPERM);
    CHECK(tried([&] { return error_of(::chown(path, 0, 0)); }) == EPERM);
    CHECK(tried([] { return error_of(::mount("none", "/tmp", "tmpfs", 0, nullptr)); }) == EPERM);
    // (The bare call: setuid(3) aborts where it ends differently in a sanitizer's thread.)
    CHECK(tried([] { return error_of(::syscall(SYS_setuid, 1000)); }) == EPERM);
    CHECK(tried([] { return error_of(::kill(::getppid(), 0)); }) == 0);  // the same user's
    ::close(fd);
    ::unlink(path);
}

TEST_CASE("privileges: only the listed files can be opened, also by root") {
    if (kInstrumented) return;
    char place[] = "/tmp/pmfs-privileges-XXXXXX";
    REQUIRE(::mkdtemp(place) != nullptr);
    const std::string folder = place, socket = folder + "/socket", file = folder + "/file";
    const auto tried = [&](const std::function<int()> &act) {
        return outcome([&] {
            using enum KeptFiles::For;
            const KeptFiles kept[] = {{reading, "/proc"},
                                      {writing, "/dev/null"},
                                      {reading, "/not-there"},
                                      {sockets, folder}};
            const bool done = keep_capabilities({}).ok() && keep_files(kept).ok();
            return done ? act() : kWrong;
        });
    };
    const int kernel = tried([] { return 0; });
    if (kernel == kWrong) return;  // without Landlock
    CHECK(tried([] { return error_of(::open("/proc/self/status", O_RDONLY)); }) == 0);
    CHECK(tried([] { return error_of(::open("/dev/null", O_RDWR)); }) == 0);
    for (const char *path : {"/etc/passwd", "/etc/hostname", "/usr", "/dev/zero"})
        CHECK_MESSAGE(tried([&] { return error_of(::open(path, O_RDONLY)); }) == EACCES, path);
    CHECK(tried([] { return error_of(::open("/proc/self/comm", O_WRONLY)); }) == EACCES);
    CHECK(tried([&] { return error_of(::open(file.c_str(), O_CREAT | O_WRONLY, 0600)); }) ==
          EACCES);
    CHECK(tried([&] { return error_of(::mkdir(file.c_str(), 0700)); }) == EACCES);
    CHECK(tried([&] { return error_of(::mknod(socket.c_str(), S_IFSOCK | 0600, 0)); }) == 0);
    CHECK(tried([&] { return error_of(::unlink(socket.c_str())); }) == 0);
    CHECK(tried([] { return error_of(::execl("/bin/true", "true", nullptr)); }) == EACCES);
    ::rmdir(place);
}

TEST_CASE("privileges: a process that forbids dumps can be examined only with CAP_SYS_PTRACE") {
    if (kInstrumented) return;
    int ready[2];
    REQUIRE(::pipe(ready) == 0);
    const pid_t server = ::fork();
    if (server == 0) {
        ::alarm(60);
        const bool done = forbid_dumps().ok();
        (void)!::write(ready[1], &done, 1);
        for (;;) ::pause();
    }
    bool done = false;
    REQUIRE(::read(ready[0], &done, 1) == 1);
    CHECK(done);
    const std::string proc = "/proc/" + std::to_string(server) + "/";
    const auto by_another = [&](const std::function<int()> &act) {
        return outcome([&] { return keep_capabilities({}).ok() ? act() : kWrong; });
    };
    for (const char *name : {"mem", "environ", "maps", "auxv"})
        CHECK_MESSAGE(
            by_another([&] { return error_of(::open((proc + name).c_str(), O_RDONLY)); }) == EACCES,
            name);
    CHECK(by_another([&] { return error_of(::ptrace(PTRACE_SEIZE, server, 0, 0)); }) == EPERM);
    CHECK(by_another([&] {
              const auto pidfd = static_cast<int>(::syscall(SYS_pidfd_open, server, 0));
              return error_of(::syscall(SYS_pidfd_getfd, pidfd, 0, 0));
          }) == EPERM);
    ::kill(server, SIGKILL);
    ::waitpid(server, nullptr, 0);
    ::close(ready[0]), ::close(ready[1]);
}

TEST_CASE("privileges: system calls that only an attack makes end the server") {
    if (!filters()) return;
    for (const Attempt &attempt : attacks())
        CHECK_MESSAGE(under_filter(Seccomp::refuse, attempt.act) == -SIGSYS, attempt.what);
}

TEST_CASE(
    "privileges: system calls that the server does not need are refused, as by a kernel without "
    "them") {
    if (!filters()) return;
    for (const Attempt &attempt : others())
        CHECK_MESSAGE(under_filter(Seccomp::refuse, attempt.act) == ENOSYS, attempt.what);
}

TEST_CASE("privileges: seccomp=kill, trap, log and none do what they say") {
    if (!filters()) return;
    const auto network = call(SYS_socket, AF_INET, SOCK_STREAM, 0);
    CHECK(under_filter(Seccomp::kill, network) == -SIGSYS);
    CHECK(under_filter(Seccomp::trap, network) == -SIGSYS);
    CHECK(under_filter(Seccomp::log, network) == 0);
    CHECK(under_filter(Seccomp::none, network) == 0);
    const auto trapped = [&] {
        ::signal(SIGSYS, [](int) { ::_exit(77); });  // as a debugger, or a handler, would see it
        return network();
    };
    CHECK(under_filter(Seccomp::trap, trapped) == 77);
    CHECK(under_filter(Seccomp::kill, trapped) == -SIGSYS);
    CHECK(under_filter(Seccomp::log, attacks().front().act) == 0);  // /bin/true
}

TEST_CASE("privileges: the filter holds for threads that were there before, and for later ones") {
    if (!filters()) return;
    const auto network = call(SYS_socket, AF_INET, SOCK_STREAM, 0);
    const int result = outcome([&] {
        std::atomic<int> go = 0, before = 0, after = 0;
        if (!keep_capabilities({}).ok()) return kWrong;
        std::thread early([&] {
            go.wait(0);
            before = network();
        });
        if (!filter_system_calls(Seccomp::refuse).ok()) return kWrong;
        go = 1;
        go.notify_all();
        early.join();
        std::thread late([&] { after = network(); });
        late.join();
        return before == ENOSYS && after == ENOSYS ? 0 : 1;
    });
    CHECK(result == 0);
}
