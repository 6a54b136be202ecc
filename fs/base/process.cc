// Asks pidfds and /proc: see process.h.
#include "base/process.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <string>
#include <string_view>

#include "base/blocking.h"

namespace pmfs {

namespace {

constexpr long kPidfsMagic = 0x50494446;
// The first time namespace's inode number (PROC_TIME_INIT_INO): no other one ever gets it.
constexpr std::uint32_t kFirstTimeNamespace = 0xEFFFFFFA;

// The file /proc/WHO/NAME, or nothing.
std::string read_proc(const std::string &who, const char *name) {
    may_block("read of /proc");
    const std::string path = "/proc/" + who + "/" + name;
    const FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file.ok()) return {};
    std::string text(4096, '\0');
    const ssize_t got = ::read(file.get(), text.data(), text.size());
    text.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
    return text;
}
std::string read_proc(std::uint32_t pid, const char *name) {
    return read_proc(std::to_string(pid), name);
}

std::uint64_t number_at(std::string_view text) {
    std::uint64_t value = 0;
    while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
    std::from_chars(text.data(), text.data() + text.size(), value);
    return value;
}

struct Stat {
    char state = 0;
    std::uint64_t start_time = 0;
};
// proc(5).  The command, in parentheses, may contain anything, so parsing begins behind its end.
bool parse_stat(std::string_view text, Stat *out) {
    const std::size_t end = text.rfind(')');
    if (end == std::string_view::npos || end + 2 >= text.size()) return false;
    text.remove_prefix(end + 2);
    out->state = text.front();
    for (int field = 3; field < 22; ++field) {
        const std::size_t space = text.find(' ');
        if (space == std::string_view::npos) return false;
        text.remove_prefix(space + 1);
    }
    out->start_time = number_at(text);
    return true;
}

// The rest of the line that begins with `name`.
std::string_view value_of(std::string_view status, std::string_view name) {
    const std::size_t at = status.find(name);
    if (at == std::string_view::npos) return {};
    status.remove_prefix(at + name.size());
    return status.substr(0, status.find('\n'));
}

// Whether process ids in /proc are the same as in system calls.  A container may see the /proc of
// its host: there this process has a number for each namespace from that one down to its own.
bool proc_is_ours() {
    const std::string status = read_proc("self", "status");
    const std::string_view numbers = value_of(status, "\nNSpid:");
    const std::size_t first = numbers.find_first_not_of(" \t");
    return first != std::string_view::npos &&
           numbers.find_first_of(" \t", first) == std::string_view::npos;
}

std::uint32_t own_namespace(const char *name) {
    may_block("stat of /proc/self/ns");
    struct stat status;
    const std::string path = std::string("/proc/self/ns/") + name;
    return ::stat(path.c_str(), &status) == 0 ? static_cast<std::uint32_t>(status.st_ino) : 0;
}

FileDescriptor open_pidfd(std::uint32_t pid) {
    may_block("pidfd_open");
    return FileDescriptor(static_cast<int>(::syscall(SYS_pidfd_open, static_cast<pid_t>(pid), 0)));
}

// On older kernels all pidfds have the same inode.
std::uint64_t serial_of(const FileDescriptor &pidfd) {
    struct statfs filesystem;
    struct stat status;
    if (!pidfd.ok() || ::fstatfs(pidfd.get(), &filesystem) != 0 ||
        filesystem.f_type != kPidfsMagic || ::fstat(pidfd.get(), &status) != 0)
        return 0;
    return status.st_ino;
}

// A pidfd becomes readable when the last thread has ended, whichever that is, and has given up its
// memory.  /proc/PID/stat shows a zombie as soon as the first one has ended.
Life life_by(const FileDescriptor &pidfd) {
    pollfd state{pidfd.get(), POLLIN, 0};
    const int ready = ::poll(&state, 1, 0);
    if (ready < 0) return Life::unknown;
    return ready > 0 ? Life::ended : Life::alive;
}

// Whether the process that has the number now is the one that is meant.
Life identify(const Process &process, const FileDescriptor &pidfd) {
    const std::uint64_t serial = process.serial != 0 ? serial_of(pidfd) : 0;
    if (serial != 0) return serial == process.serial ? life_by(pidfd) : Life::ended;
    Stat stat;
    if (!proc_is_ours() || !parse_stat(read_proc(process.pid, "stat"), &stat)) return Life::unknown;
    if (stat.start_time == process.start_time) return life_by(pidfd);
    // Another time namespace has another clock, and its number may be a later one's.
    const bool one_clock = process.time_namespace == kFirstTimeNamespace &&
                           own_namespace("time") == kFirstTimeNamespace;
    return one_clock ? Life::ended : Life::unknown;
}

}  // namespace

Process process_of_thread(std::uint32_t thread) {
    if (thread == 0 || !proc_is_ours()) return {};
    const std::string status = read_proc(thread, "status");
    Process process;
    process.pid = static_cast<std::uint32_t>(number_at(value_of(status, "\nTgid:")));
    Stat stat;
    if (process.pid == 0 || !parse_stat(read_proc(process.pid, "stat"), &stat)) return {};
    process.start_time = stat.start_time;
    process.serial = serial_of(open_pidfd(process.pid));
    process.pid_namespace = own_namespace("pid");
    process.time_namespace = own_namespace("time");
    return process;
}

// A PID namespace's number may be given out again.  Then the namespace that had it is gone, and
// with it all its processes: to look for one of them in the new one can only find too many alive.
Life life_of(const Process &process) {
    if (process.pid == 0 || process.pid_namespace == 0 ||
        process.pid_namespace != own_namespace("pid"))
        return Life::unknown;
    const FileDescriptor pidfd = open_pidfd(process.pid);
    if (pidfd.ok()) return identify(process, pidfd);
    // ESRCH: no process has the number.  EINVAL, ENOENT: it is now that of a thread in a process.
    const bool gone = errno == ESRCH || errno == EINVAL || errno == ENOENT;
    return gone ? Life::ended : Life::unknown;
}

FileDescriptor watch_process(const Process &process) {
    if (process.pid == 0 || life_of(process) != Life::alive) return {};
    FileDescriptor watch = open_pidfd(process.pid);
    // The number may have been given to another process meanwhile.
    if (watch.ok() && identify(process, watch) != Life::alive) return {};
    return watch;
}

bool thread_in_group(std::uint32_t thread, std::uint32_t group) {
    static constexpr std::string_view kName = "\nGroups:";
    if (thread == 0) return false;
    const std::string status = read_proc(thread, "status");
    const std::size_t at = status.find(kName);
    if (at == std::string::npos) return false;
    std::string_view groups = std::string_view(status).substr(at + kName.size());
    groups = groups.substr(0, groups.find('\n'));
    for (;;) {
        groups.remove_prefix(std::min(groups.find_first_not_of(" \t"), groups.size()));
        if (groups.empty()) return false;
        if (number_at(groups) == group) return true;
        groups.remove_prefix(std::min(groups.find_first_of(" \t"), groups.size()));
    }
}

// Not by prlimit(2): for another user's process it needs CAP_SYS_RESOURCE, which containers lack.
std::uint64_t lockable_bytes(std::uint32_t pid) {
    static constexpr std::string_view kName = "\nMax locked memory";
    if (!proc_is_ours()) return 0;
    const std::string text = read_proc(pid, "limits");
    const std::size_t at = text.find(kName);
    if (at == std::string::npos) return 0;
    std::string_view soft = std::string_view(text).substr(at + kName.size());
    soft.remove_prefix(std::min(soft.find_first_not_of(' '), soft.size()));
    return soft.starts_with("unlimited") ? ~std::uint64_t{0} : number_at(soft);
}

}  // namespace pmfs
