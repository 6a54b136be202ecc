// The one place that catches what std::thread throws.
#include "base/thread.h"

#include <pthread.h>
#include <signal.h>

#include <system_error>

namespace pmfs {

Result<std::thread> start_thread(const char *name, std::function<void()> body) {
    // A new thread inherits the signal mask of its creator.  Faults are never blocked: the kernel
    // kills a process whose handler could not be called.
    sigset_t blocked, before;
    ::sigfillset(&blocked);
    for (const int fault : {SIGBUS, SIGSEGV, SIGFPE, SIGILL, SIGTRAP}) ::sigdelset(&blocked, fault);
    ::pthread_sigmask(SIG_SETMASK, &blocked, &before);
    std::thread thread;
    int error = 0;
    try {
        thread = std::thread([name, body = std::move(body)] {
            // (From outside it would have to be written to a file of /proc.)
            ::pthread_setname_np(::pthread_self(), name);
            body();
        });
    } catch (const std::system_error &failure) {
        error = failure.code().value();
    }
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    if (error != 0)
        return Error(error, "the system gives no more threads (a limit of processes or memory)");
    return thread;
}

}  // namespace pmfs
