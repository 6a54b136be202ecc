// What ends a process is tried in a child.
#pragma once
#include <doctest/doctest.h>
#include <sys/resource.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

// Where lines are counted (tools/test coverage): what a process counted that ends with _exit().
extern "C" void __gcov_dump() __attribute__((weak));

namespace pmfs::test {

// Runs `body` in a child; gives its wait status.  For what ends a process.
template <class Body>
int status_of(Body body) {
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        const rlimit no_core = {0, 0};
        ::setrlimit(RLIMIT_CORE, &no_core);
        ::close(STDERR_FILENO);
        ::close(STDOUT_FILENO);
        ::signal(SIGABRT, SIG_DFL);  // the test framework's handler would report twice
        const int code = body();
        if (__gcov_dump != nullptr) __gcov_dump();
        ::_exit(code);
    }
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    return status;
}

// Address sanitizer turns a deadly signal into an exit code.
inline bool died_of(int signal_number, int status) {
    return WIFSIGNALED(status) ? WTERMSIG(status) == signal_number : WEXITSTATUS(status) != 0;
}

}  // namespace pmfs::test
