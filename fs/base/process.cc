// Reads /proc: see process.h.
#include "base/process.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <string>
#include <string_view>

namespace pmfs {

namespace {

// The file /proc/PID/NAME, or nothing; *error is errno then.
std::string read_proc(std::uint32_t pid, const char *name, int *error) {
    const std::string path = "/proc/" + std::to_string(pid) + "/" + name;
    const FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    *error = file.ok() ? 0 : errno;
    if (!file.ok()) return {};
    std::string text(4096, '\0');
    const ssize_t got = ::read(file.get(), text.data(), text.size());
    if (got < 0) *error = errno;
    text.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
    return text;
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
// proc(5).  The command, in parentheses, may hold anything; so from its end on.
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

}  // namespace

Process process_of_thread(std::uint32_t thread) {
    if (thread == 0) return {};
    int error = 0;
    const std::string status = read_proc(thread, "status", &error);
    const std::size_t at = status.find("\nTgid:");
    if (at == std::string::npos) return {};
    Process process;
    process.pid = static_cast<std::uint32_t>(number_at(std::string_view(status).substr(at + 6)));
    Stat stat;
    if (!parse_stat(read_proc(process.pid, "stat", &error), &stat)) return {};
    process.start_time = stat.start_time;
    return process;
}

Life life_of(const Process &process) {
    if (process.pid == 0) return Life::unknown;
    int error = 0;
    Stat stat;
    const std::string text = read_proc(process.pid, "stat", &error);
    if (error == ENOENT || error == ESRCH) return Life::ended;
    if (!parse_stat(text, &stat)) return Life::unknown;
    // A zombie maps nothing any more.
    const bool gone =
        stat.start_time != process.start_time || stat.state == 'Z' || stat.state == 'X';
    return gone ? Life::ended : Life::alive;
}

FileDescriptor watch_process(const Process &process) {
    if (process.pid == 0) return {};
    FileDescriptor watch(
        static_cast<int>(::syscall(SYS_pidfd_open, static_cast<pid_t>(process.pid), 0)));
    // The number may have been given to another one before it was opened.
    if (watch.ok() && life_of(process) != Life::alive) return {};
    return watch;
}

// Not by prlimit(2): of another user's process that takes CAP_SYS_RESOURCE, which containers lack.
std::uint64_t lockable_bytes(std::uint32_t pid) {
    static constexpr std::string_view kName = "\nMax locked memory";
    int error = 0;
    const std::string text = read_proc(pid, "limits", &error);
    const std::size_t at = text.find(kName);
    if (at == std::string::npos) return 0;
    std::string_view soft = std::string_view(text).substr(at + kName.size());
    soft.remove_prefix(std::min(soft.find_first_not_of(' '), soft.size()));
    return soft.starts_with("unlimited") ? ~std::uint64_t{0} : number_at(soft);
}

}  // namespace pmfs
