// lease and pin: hold a file while a command runs, or until the lease is broken, or until Ctrl-C.
#include <fmt/format.h>
#include <poll.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <vector>

#include "base/printable.h"
#include "json.h"
#include "sentences.h"
#include "verbs.h"

namespace pmfs::ctl {
namespace {

constexpr int kLookMs = 1000;  // a pin is not told of its server's death, so it polls
constexpr int kNotRun = 127;   // as shells return for a command that cannot be run

// Signals to wait for with poll(2), instead of being interrupted by them.
class Signals {
public:
    explicit Signals(bool child) {
        sigset_t set;
        ::sigemptyset(&set);
        for (const int number : {SIGINT, SIGTERM, SIGHUP}) ::sigaddset(&set, number);
        if (child) ::sigaddset(&set, SIGCHLD);
        ::sigprocmask(SIG_BLOCK, &set, &before_);
        fd_ = ::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    }
    ~Signals() { ::close(fd_); }
    Signals(const Signals &) = delete;
    Signals &operator=(const Signals &) = delete;

    int fd() const { return fd_; }
    const sigset_t &before() const { return before_; }
    // The next one; 0: none.
    int take() const {
        signalfd_siginfo got;
        return ::read(fd_, &got, sizeof got) == sizeof got ? static_cast<int>(got.ssi_signo) : 0;
    }

private:
    int fd_ = -1;
    sigset_t before_;
};

// Holds the file with one of the two.
struct Held {
    struct pmfs_lease *lease = nullptr;  // (a function has that name, too)
    std::uint64_t pin = 0;
};

class Holding {
public:
    Holding(const File &file, const Options &options, bool lease)
        : file_(file), options_(options), is_lease_(lease), signals_(!options.command.empty()) {}
    ~Holding() { release(); }
    Holding(const Holding &) = delete;
    Holding &operator=(const Holding &) = delete;

    int run();

private:
    int take();
    void release();
    void tell(const char *event, const std::string &words, std::uint64_t milliseconds = 0) const;
    bool start_command();
    void handle_signal();
    void handle_lease_event();
    void look_at_pin();
    const char *name() const { return is_lease_ ? "lease" : "pin"; }

    const File &file_;
    const Options &options_;
    const bool is_lease_;
    const Signals signals_;
    Held held_;
    pid_t child_ = 0;
    bool finished_ = false;
    int exit_ = kDone;
};

int Holding::take() {
    const auto offset = static_cast<off_t>(options_.offset);
    if (is_lease_) return -pmfs_lease(file_.fd(), offset, options_.length, 0, &held_.lease);
    return -pmfs_pin(file_.fd(), offset, options_.length, &held_.pin);
}

void Holding::release() {
    if (held_.lease != nullptr) pmfs_lease_end(held_.lease);
    if (held_.pin != 0) pmfs_unpin(file_.fd(), held_.pin);
    held_ = {};
}

// Standard output belongs to the command: messages go to standard error.
void Holding::tell(const char *event, const std::string &words, std::uint64_t milliseconds) const {
    if (options_.json) {
        Json json = {{"event", event}, {"kind", name()}, {"path", file_.path()}};
        if (milliseconds != 0) json["milliseconds"] = milliseconds;
        print_line(json);
        return;
    }
    std::FILE *to = options_.command.empty() ? stdout : stderr;
    fmt::print(to, "{}: {}\n", file_.name(), words);
    std::fflush(to);
}

bool Holding::start_command() {
    std::vector<char *> words;
    for (const std::string &word : options_.command)
        words.push_back(const_cast<char *>(word.c_str()));
    words.push_back(nullptr);
    std::fflush(nullptr);
    child_ = ::fork();
    if (child_ == 0) {
        ::sigprocmask(SIG_SETMASK, &signals_.before(), nullptr);
        ::execvp(words[0], words.data());
        fmt::print(stderr, "pmfsctl: cannot run {}: {}\n", printable(words[0]),
                   std::strerror(errno));
        std::fflush(nullptr);
        ::_exit(kNotRun);
    }
    if (child_ > 0) return true;
    fmt::print(stderr, "pmfsctl: cannot start a process: {}\n", std::strerror(errno));
    return false;
}

void Holding::handle_signal() {
    const int signal = signals_.take();
    if (signal == 0) return;
    if (signal == SIGCHLD) {
        int status = 0;
        if (::waitpid(child_, &status, WNOHANG) != child_) return;
        exit_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        finished_ = true;
    } else if (child_ != 0) {
        // A terminal's Ctrl-C was sent to the command, too; other signals only to this process.
        if (signal != SIGINT) ::kill(child_, signal);
    } else {
        finished_ = true;
    }
}

void Holding::handle_lease_event() {
    pmfs_event event;
    if (pmfs_lease_event(held_.lease, &event) != 0) return;
    if (event.kind == PMFS_EVENT_BREAK) {
        tell("break", fmt::format("asked to give the lease back within {} ms", event.milliseconds),
             event.milliseconds);
        release();
        tell("released", "the lease was given back");
    } else {
        release();
        tell("ended", "the lease has ended: it was revoked, or the server has ended");
        exit_ = kFailed;
    }
    if (child_ == 0) finished_ = true;  // a command goes on without it
}

void Holding::look_at_pin() {
    pmfs_info info;
    if (file_.info(&info) == 0) return;
    held_ = {};
    tell("ended", "the pin has ended: the server has ended");
    exit_ = kFailed;
    if (child_ == 0) finished_ = true;
}

int Holding::run() {
    const Verb verb = is_lease_ ? Verb::lease : Verb::pin;
    if (const int error = take()) return complain(file_, verb, error);
    tell("taken", is_lease_ ? "leased" : "pinned");
    if (!options_.command.empty() && !start_command()) return kFailed;
    while (!finished_) {
        pollfd both[2] = {{signals_.fd(), POLLIN, 0}, {-1, POLLIN, 0}};
        if (held_.lease != nullptr) both[1].fd = pmfs_lease_event_fd(held_.lease);
        if (::poll(both, 2, held_.pin != 0 ? kLookMs : -1) < 0 && errno != EINTR) break;
        if (both[1].revents != 0) handle_lease_event();
        if (both[0].revents != 0) handle_signal();
        if (held_.pin != 0) look_at_pin();
    }
    if (held_.lease == nullptr && held_.pin == 0) return exit_;
    release();
    tell("released", fmt::format("the {} was given back", name()));
    return exit_;
}

int hold(const Options &options, bool is_lease) {
    const File file(options.path, File::Access::either);
    if (file.error() != 0) return complain(file, is_lease ? Verb::lease : Verb::pin, file.error());
    return Holding(file, options, is_lease).run();
}

}  // namespace

int lease(const Options &options) {
    return hold(options, true);
}

int pin(const Options &options) {
    return hold(options, false);
}

}  // namespace pmfs::ctl
