// The list, by libseccomp.  To add to it: serve with -o seccomp=log, and look for type=1326 in the
// kernel's log.
#include "front/mount/system_calls.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <linux/sockios.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <memory>

#include "front/mount/privileges.h"

namespace pmfs::front {
namespace {

constexpr std::pair<std::string_view, Seccomp> kWords[] = {{"errno", Seccomp::refuse},
                                                           {"kill", Seccomp::kill},
                                                           {"trap", Seccomp::trap},
                                                           {"log", Seccomp::log},
                                                           {"none", Seccomp::none}};

constexpr int kAllowed[] = {
    // descriptors
    SCMP_SYS(close), SCMP_SYS(dup), SCMP_SYS(dup2), SCMP_SYS(dup3), SCMP_SYS(fcntl),
    SCMP_SYS(lseek), SCMP_SYS(pread64), SCMP_SYS(preadv), SCMP_SYS(preadv2), SCMP_SYS(pwrite64),
    SCMP_SYS(pwritev), SCMP_SYS(pwritev2), SCMP_SYS(read), SCMP_SYS(readv), SCMP_SYS(write),
    SCMP_SYS(writev),
    // files: /proc, /sys, sockets, clones of /dev/fuse; and the medium
    SCMP_SYS(access), SCMP_SYS(chdir), SCMP_SYS(faccessat), SCMP_SYS(faccessat2),
    SCMP_SYS(fallocate), SCMP_SYS(fdatasync), SCMP_SYS(fstat), SCMP_SYS(fstatfs), SCMP_SYS(fsync),
    SCMP_SYS(getcwd), SCMP_SYS(getdents64), SCMP_SYS(lstat), SCMP_SYS(newfstatat), SCMP_SYS(open),
    SCMP_SYS(openat), SCMP_SYS(readlink), SCMP_SYS(readlinkat), SCMP_SYS(stat), SCMP_SYS(statfs),
    SCMP_SYS(statx), SCMP_SYS(unlink), SCMP_SYS(unlinkat),
    // Telling a guest (virtio/event.h)
    SCMP_SYS(io_getevents), SCMP_SYS(io_setup), SCMP_SYS(io_submit), SCMP_SYS(memfd_create),
    // Rings that accept only fdatasync (pm/syncer.h) and answers to the kernel's requests
    // (transports/fuse_ring.h); new ones cannot be made.
    SCMP_SYS(io_uring_enter),
    // memory
    SCMP_SYS(brk), SCMP_SYS(madvise), SCMP_SYS(membarrier), SCMP_SYS(mincore), SCMP_SYS(mremap),
    SCMP_SYS(munmap),
    // waiting
    SCMP_SYS(clock_getres), SCMP_SYS(clock_gettime), SCMP_SYS(clock_nanosleep),
    SCMP_SYS(epoll_create1), SCMP_SYS(epoll_ctl), SCMP_SYS(epoll_pwait), SCMP_SYS(epoll_pwait2),
    SCMP_SYS(epoll_wait), SCMP_SYS(eventfd2), SCMP_SYS(futex), SCMP_SYS(gettimeofday),
    SCMP_SYS(nanosleep), SCMP_SYS(poll), SCMP_SYS(ppoll), SCMP_SYS(restart_syscall),
    SCMP_SYS(sched_yield), SCMP_SYS(time),
    // threads and signals
    SCMP_SYS(exit), SCMP_SYS(exit_group), SCMP_SYS(get_robust_list), SCMP_SYS(getcpu),
    SCMP_SYS(getegid), SCMP_SYS(geteuid), SCMP_SYS(getgid), SCMP_SYS(getpid), SCMP_SYS(getppid),
    SCMP_SYS(getpriority), SCMP_SYS(gettid), SCMP_SYS(getuid), SCMP_SYS(rseq),
    SCMP_SYS(rt_sigaction), SCMP_SYS(rt_sigprocmask), SCMP_SYS(rt_sigreturn),
    SCMP_SYS(sched_getaffinity), SCMP_SYS(set_robust_list), SCMP_SYS(sigaltstack), SCMP_SYS(wait4),
    // sockets, of this machine only: see `socket` below
    SCMP_SYS(accept4), SCMP_SYS(connect), SCMP_SYS(getpeername), SCMP_SYS(getsockname),
    SCMP_SYS(getsockopt), SCMP_SYS(recvfrom), SCMP_SYS(recvmsg), SCMP_SYS(sendmsg),
    SCMP_SYS(sendto), SCMP_SYS(shutdown),
    // the rest
    SCMP_SYS(getrandom), SCMP_SYS(getrlimit), SCMP_SYS(pidfd_open), SCMP_SYS(sysinfo),
    SCMP_SYS(uname)};

// No library that we use has a reason to make these calls: they mean an attack.
constexpr int kAttacks[] = {
    // other programs, other processes
    SCMP_SYS(execve), SCMP_SYS(execveat), SCMP_SYS(fork), SCMP_SYS(vfork), SCMP_SYS(kcmp),
    SCMP_SYS(pidfd_getfd), SCMP_SYS(pidfd_send_signal), SCMP_SYS(process_madvise),
    SCMP_SYS(process_vm_readv), SCMP_SYS(process_vm_writev), SCMP_SYS(ptrace),
    // the tree of mounts, and ways around it
    SCMP_SYS(chroot), SCMP_SYS(fsconfig), SCMP_SYS(fsmount), SCMP_SYS(fsopen), SCMP_SYS(fspick),
    SCMP_SYS(mount), SCMP_SYS(mount_setattr), SCMP_SYS(move_mount), SCMP_SYS(name_to_handle_at),
    SCMP_SYS(open_by_handle_at), SCMP_SYS(open_tree), SCMP_SYS(pivot_root), SCMP_SYS(setns),
    SCMP_SYS(umount2), SCMP_SYS(unshare),
    // privileges
    SCMP_SYS(capset), SCMP_SYS(setfsgid), SCMP_SYS(setfsuid), SCMP_SYS(setgid), SCMP_SYS(setgroups),
    SCMP_SYS(setregid), SCMP_SYS(setresgid), SCMP_SYS(setresuid), SCMP_SYS(setreuid),
    SCMP_SYS(setuid),
    // the kernel
    SCMP_SYS(acct), SCMP_SYS(add_key), SCMP_SYS(bpf), SCMP_SYS(delete_module),
    SCMP_SYS(finit_module), SCMP_SYS(init_module), SCMP_SYS(io_uring_register),
    SCMP_SYS(io_uring_setup), SCMP_SYS(ioperm), SCMP_SYS(iopl), SCMP_SYS(kexec_file_load),
    SCMP_SYS(kexec_load), SCMP_SYS(keyctl), SCMP_SYS(modify_ldt), SCMP_SYS(perf_event_open),
    SCMP_SYS(quotactl), SCMP_SYS(reboot), SCMP_SYS(request_key), SCMP_SYS(setdomainname),
    SCMP_SYS(sethostname), SCMP_SYS(swapoff), SCMP_SYS(swapon), SCMP_SYS(syslog),
    SCMP_SYS(userfaultfd)};

// Allowed when one argument, under the mask, is this.
struct Allowed {
    int call;
    unsigned argument;
    scmp_datum_t mask, value;
};
// (The kernel ignores the upper half of an int argument.)
constexpr scmp_datum_t kInt = 0xffffffff;
constexpr scmp_datum_t kThread = CLONE_VM | CLONE_SIGHAND | CLONE_THREAD;

constexpr auto kAllowedFor = std::to_array<Allowed>({
    {SCMP_SYS(clone), 0, kThread, kThread},  // threads
    {SCMP_SYS(ioctl), 1, kInt, FUSE_DEV_IOC_CLONE},
    {SCMP_SYS(ioctl), 1, kInt, SIOCOUTQ},  // of the broker's sockets
    {SCMP_SYS(ioctl), 1, kInt, TCGETS},    // isatty(3)
    {SCMP_SYS(mmap), 2, PROT_EXEC, 0},
    {SCMP_SYS(mprotect), 2, PROT_EXEC, 0},
    {SCMP_SYS(prctl), 0, kInt, PR_GET_NAME},
    {SCMP_SYS(prctl), 0, kInt, PR_SET_NAME},
    {SCMP_SYS(prlimit64), 0, kInt, 0},          // of this process
    {SCMP_SYS(sched_setaffinity), 0, kInt, 0},  // of this thread (transports/fuse_ring.h)
    {SCMP_SYS(setpriority), 0, kInt, PRIO_PROCESS},
    {SCMP_SYS(socket), 0, kInt, AF_UNIX},
    {SCMP_SYS(socketpair), 0, kInt, AF_UNIX},
    {SCMP_SYS(tgkill), 2, kInt, 0},  // is there such a thread?
});

struct Actions {
    std::uint32_t unknown, attack;
};
Actions actions_of(Seccomp mode) {
    switch (mode) {
        case Seccomp::kill:
            return {SCMP_ACT_KILL_PROCESS, SCMP_ACT_KILL_PROCESS};
        case Seccomp::trap:
            return {SCMP_ACT_TRAP, SCMP_ACT_TRAP};
        case Seccomp::log:
            return {SCMP_ACT_LOG, SCMP_ACT_LOG};
        case Seccomp::refuse:
        case Seccomp::none:
            break;
    }
    return {SCMP_ACT_ERRNO(ENOSYS), SCMP_ACT_KILL_PROCESS};
}

struct ReleaseFilter {
    void operator()(void *filter) const { seccomp_release(filter); }
};
using Filter = std::unique_ptr<void, ReleaseFilter>;

bool add_list(const Filter &filter, Actions actions) {
    int failed = 0;
    for (const int call : kAllowed)
        failed |= seccomp_rule_add(filter.get(), SCMP_ACT_ALLOW, call, 0);
    for (const auto &[call, argument, mask, value] : kAllowedFor) {
        const scmp_arg_cmp is{argument, SCMP_CMP_MASKED_EQ, mask, value};
        failed |= seccomp_rule_add_array(filter.get(), SCMP_ACT_ALLOW, call, 1, &is);
    }
    // Our own threads get any signal (SIGABRT, and one that wakes).
    const scmp_arg_cmp ours{0, SCMP_CMP_MASKED_EQ, kInt, static_cast<scmp_datum_t>(::getpid())};
    failed |= seccomp_rule_add_array(filter.get(), SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1, &ours);
    failed |= seccomp_rule_add(filter.get(), SCMP_ACT_ALLOW, SCMP_SYS(clone3),
                               0);  // (denied by another rule)
    if (actions.attack == actions.unknown) return failed == 0;
    for (const int call : kAttacks)
        failed |= seccomp_rule_add(filter.get(), actions.attack, call, 0);
    return failed == 0;
}

// For all threads.  As a tree of comparisons, not a list; and without the slow mitigation of
// Spectre 4, because a server runs no foreign code.
bool load(const Filter &filter, bool log) {
    seccomp_attr_set(filter.get(), SCMP_FLTATR_CTL_LOG, log ? 1 : 0);
    seccomp_attr_set(filter.get(), SCMP_FLTATR_CTL_OPTIMIZE, 2);
    seccomp_attr_set(filter.get(), SCMP_FLTATR_CTL_SSB, 1);
    return seccomp_attr_set(filter.get(), SCMP_FLTATR_CTL_TSYNC, 1) == 0 &&
           seccomp_load(filter.get()) == 0;
}

// The flags of clone3() are in memory, where a filter does not look; the C library uses clone() if
// clone3() is ENOSYS.  In a filter of its own, because otherwise each thread would be logged.
bool refuse_clone3() {
    const Filter filter(seccomp_init(SCMP_ACT_ALLOW));
    return filter &&
           seccomp_rule_add(filter.get(), SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0) == 0 &&
           load(filter, false);
}

}  // namespace

std::optional<Seccomp> seccomp_of(std::string_view word) {
    for (const auto &[name, mode] : kWords)
        if (name == word) return mode;
    return {};
}

std::string_view word_of(Seccomp mode) {
    for (const auto &[name, one] : kWords)
        if (one == mode) return name;
    return {};
}

Result<> filter_system_calls(Seccomp mode) {
    if (kInstrumented || mode == Seccomp::none) return {};
    const Actions actions = actions_of(mode);
    const Filter filter(seccomp_init(actions.unknown));
    if (!filter) return Error(EOPNOTSUPP, "not enough memory for a filter of system calls");
    seccomp_attr_set(filter.get(), SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
    if (!add_list(filter, actions) || !refuse_clone3() || !load(filter, true))
        return Error(EOPNOTSUPP, "system calls cannot be filtered here");
    return {};
}

}  // namespace pmfs::front
