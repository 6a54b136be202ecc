// Who a process is, and whether it has ended: with real processes, threads and namespaces.
#include <doctest/doctest.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <string>
#include <thread>

#include "base/process.h"

using namespace pmfs;

namespace {

// A process that runs `act` and then waits for its end, which comes with ours at the latest.
class Child {
public:
    explicit Child(const std::function<void()> &act = {}) {
        int ready[2];
        REQUIRE(::pipe(ready) == 0);
        pid_ = ::fork();
        REQUIRE(pid_ >= 0);
        if (pid_ == 0) {
            ::prctl(PR_SET_PDEATHSIG, SIGKILL);
            ::alarm(60);
            ::close(ready[0]);
            ready_ = ready[1];
            if (act) act();
            say();
            for (;;) ::pause();
        }
        ::close(ready[1]);
        char word = 0;
        REQUIRE(::read(ready[0], &word, 1) == 1);
        ::close(ready[0]);
    }
    ~Child() { end(); }
    static void say() { (void)!::write(ready_, "+", 1); }
    std::uint32_t pid() const { return static_cast<std::uint32_t>(pid_); }
    void kill() const { ::kill(pid_, SIGKILL); }
    void reap() {
        if (pid_ > 0) ::waitpid(pid_, nullptr, 0);
        pid_ = 0;
    }
    void end() {
        if (pid_ == 0) return;
        kill();
        reap();
    }

private:
    static inline int ready_ = -1;
    pid_t pid_ = 0;
};

bool becomes(const Process &process, Life wanted) {
    for (int i = 0; i < 500; ++i, std::this_thread::sleep_for(std::chrono::milliseconds(10)))
        if (life_of(process) == wanted) return true;
    return false;
}

// What `look` says in a process of its own, which has gone where `go` leads.
Life elsewhere(const std::function<bool()> &go, const Process &process) {
    const pid_t pid = ::fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
        ::alarm(60);
        if (!go()) ::_exit(100);
        const pid_t inside = ::fork();  // for the namespaces that children get
        if (inside == 0) ::_exit(static_cast<int>(life_of(process)));
        int status = 0;
        ::waitpid(inside, &status, 0);
        ::_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 101);
    }
    int status = 0;
    REQUIRE(::waitpid(pid, &status, 0) == pid);
    REQUIRE(WIFEXITED(status));
    REQUIRE(WEXITSTATUS(status) < 100);
    return static_cast<Life>(WEXITSTATUS(status));
}

bool hide_proc() {
    return ::unshare(CLONE_NEWNS) == 0 &&
           ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
           ::mount("none", "/proc", "tmpfs", 0, nullptr) == 0;
}

// As on kernels without pidfs, where the start time must do.
Process without_serial(Process process) {
    process.serial = 0;
    return process;
}

}  // namespace

TEST_CASE("process: it is alive until its last thread has ended, whichever that is") {
    Child child([] {
        // The first thread ends; another one lives on and says so when /proc shows a zombie.
        std::thread([] {
            std::this_thread::sleep_for(std::chrono::milliseconds(100));
            Child::say();
            for (;;) ::pause();
        }).detach();
        ::syscall(SYS_exit, 0);
    });
    const Process process = process_of_thread(child.pid());
    REQUIRE(process.pid == child.pid());
    CHECK(life_of(process) == Life::alive);
    CHECK(life_of(without_serial(process)) == Life::alive);
    CHECK(watch_process(process).ok());
    child.kill();
    CHECK(becomes(process, Life::ended));  // a zombie whose parent has not looked yet
    CHECK(life_of(without_serial(process)) == Life::ended);
    CHECK_FALSE(watch_process(process).ok());
    child.reap();
    CHECK(life_of(process) == Life::ended);
}

TEST_CASE("process: a later process with the same number is another one") {
    Child child;
    Process process = process_of_thread(child.pid());
    process.start_time += 1;
    CHECK(life_of(without_serial(process)) == Life::ended);
    if (process.serial == 0) return;  // an old kernel
    process.serial += 1;
    CHECK(life_of(process) == Life::ended);
    process.start_time -= 1;
    process.serial -= 1;
    CHECK(life_of(process) == Life::alive);
}

TEST_CASE("process: what has no namespace, or another one, is unknown and never ended") {
    Child child;
    const Process process = process_of_thread(child.pid());
    REQUIRE(process.pid_namespace != 0);
    REQUIRE(process.time_namespace != 0);
    child.end();
    REQUIRE(life_of(process) == Life::ended);
    Process old = process;  // from a record of version 1.1
    old.pid_namespace = 0;
    CHECK(life_of(old) == Life::unknown);
    Process foreign = process;
    foreign.pid_namespace += 1;
    CHECK(life_of(foreign) == Life::unknown);
    CHECK(life_of(Process{}) == Life::unknown);
}

TEST_CASE("process: seen from another PID namespace, or without /proc, it is unknown") {
    if (::getuid() != 0) return;
    Child child;
    const Process process = process_of_thread(child.pid());
    const auto into_another = [] { return ::unshare(CLONE_NEWPID) == 0; };
    CHECK(elsewhere([] { return true; }, process) == Life::alive);
    CHECK(elsewhere(into_another, process) == Life::unknown);
    CHECK(elsewhere(hide_proc, process) == Life::unknown);
    // The container that sees its own processes only, and has no /proc besides.
    CHECK(elsewhere([&] { return into_another() && hide_proc(); }, process) == Life::unknown);
    child.end();
    CHECK(elsewhere(into_another, process) == Life::unknown);
    CHECK(elsewhere(hide_proc, process) == Life::unknown);
}

TEST_CASE("process: it is the same one when seen by another clock") {
    if (::getuid() != 0 || ::access("/proc/self/ns/time_for_children", F_OK) != 0) return;
    Child child;
    const Process process = process_of_thread(child.pid());
    const auto to_another_time = [] {
        if (::unshare(CLONE_NEWTIME) != 0) return false;
        std::FILE *offsets = std::fopen("/proc/self/timens_offsets", "we");
        if (offsets == nullptr) return false;
        std::fputs("boottime 86400 0\n", offsets);
        return std::fclose(offsets) == 0;
    };
    CHECK(elsewhere(to_another_time, process) == Life::alive);
    CHECK(elsewhere(to_another_time, without_serial(process)) == Life::unknown);
}

TEST_CASE("process: a container that sees its host's /proc takes no name from it") {
    if (::getuid() != 0) return;
    const pid_t pid = ::fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
        ::alarm(60);
        if (::unshare(CLONE_NEWPID) != 0) ::_exit(1);
        const pid_t inside = ::fork();
        // Its number is 1, and /proc/1 is the host's first process.
        if (inside == 0) ::_exit(process_of_thread(1).pid == 0 && lockable_bytes(1) == 0 ? 0 : 2);
        int status = 0;
        ::waitpid(inside, &status, 0);
        ::_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 3);
    }
    int status = 0;
    REQUIRE(::waitpid(pid, &status, 0) == pid);
    CHECK(WEXITSTATUS(status) == 0);
}
