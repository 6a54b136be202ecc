// mount.pmfs: the mount helper that mount(8) runs, and the server, in one.  It only parses and
// reports; server.cc does the work.
#include <fcntl.h>
#include <fmt/format.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/sinks/syslog_sink.h>
#include <spdlog/spdlog.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <syslog.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>

#include "base/printable.h"
#include "client/pmfs_ioctl.h"
#include "front/mount/mount_point.h"
#include "front/mount/readiness.h"
#include "front/mount/server.h"
#include "probe/identity.h"

namespace {

using namespace pmfs::front;
using pmfs::FileDescriptor;

struct Words {
    ServeOptions serve;
    std::vector<std::string> options;
    std::string type;
    bool fake = false, sloppy = false, no_mount = false;
};

// -1: continue.  Otherwise the exit code: the command line is wrong, or it was --help.
int parse_words(int argc, char **argv, Words *words) {
    bool read_only = false, ignored = false;
    CLI::App app{"Mount a pmfs volume and serve it until it is unmounted.", "mount.pmfs"};
    app.add_option("source", words->serve.source,
                   "Device-DAX node, memory file or image file; or label:NAME, uuid:UUID")
        ->required();
    auto *directory = app.add_option("directory", words->serve.directory, "Where to mount it");
    auto *no_mount = app.add_flag("--no-mount", words->no_mount,
                                  "Do not mount: serve only guests (-o vhost=SOCKET)");
    no_mount->excludes(directory);
    app.add_option("-o,--options", words->options, "Mount options, separated by commas")
        ->allow_extra_args(false);
    app.add_flag("--foreground", words->serve.foreground,
                 "Do not become a daemon; log on standard error");
    app.add_flag("-f,--fake", words->fake, "Check the arguments, but mount nothing");
    app.add_flag("-s", words->sloppy, "Ignore unknown options");
    app.add_flag("-v,--verbose", words->serve.verbose, "Log more");
    app.add_flag("-r,--read-only", read_only, "The same as -o ro");
    app.add_flag("-n", ignored, "For mount(8): there is no mtab to write");
    app.add_flag("-w,--rw", ignored, "The same as -o rw");
    app.add_option("-t,--types", words->type, "For mount(8): pmfs or fuse.pmfs");
    app.add_option("-N,--namespace", words->serve.mount_namespace,
                   "Mount in this mount namespace (a path)");
    app.failure_message([](const CLI::App *, const CLI::Error &error) {
        return pmfs::printable(error.what()) + "\nRun with --help for more information.\n";
    });
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError &e) {
        return app.exit(e) == 0 ? 0 : static_cast<int>(Exit::usage);  // --help lands here too
    }
    if (!words->no_mount && words->serve.directory.empty()) {
        fmt::print(stderr,
                   "mount.pmfs: a directory to mount on is required\nRun with --help for more "
                   "information.\n");
        return static_cast<int>(Exit::usage);
    }
    if (read_only) words->options.emplace_back("ro");
    return -1;
}

int tell(const Outcome &outcome) {
    if (!outcome.sentence.empty())
        fmt::print(stderr, "mount.pmfs: {}\n", pmfs::printable(outcome.sentence));
    return static_cast<int>(outcome.exit);
}

// %P in a pattern: what is logged, printable.
class PrintableText : public spdlog::custom_flag_formatter {
public:
    void format(const spdlog::details::log_msg &message, const std::tm &,
                spdlog::memory_buf_t &to) override {
        const std::string text = pmfs::printable({message.payload.data(), message.payload.size()});
        to.append(text.data(), text.data() + text.size());
    }
    std::unique_ptr<spdlog::custom_flag_formatter> clone() const override {
        return std::make_unique<PrintableText>();
    }
};

void log_to(const std::shared_ptr<spdlog::logger> &logger, const std::string &pattern) {
    auto formatter = std::make_unique<spdlog::pattern_formatter>();
    formatter->add_flag<PrintableText>('P').set_pattern(pattern);
    logger->set_formatter(std::move(formatter));
    spdlog::set_default_logger(logger);
}

// The path as the mount table will show it, and as it stays true after chdir("/").
std::string canonical(const std::string &path) {
    char *real = ::realpath(path.c_str(), nullptr);
    std::string result = real != nullptr ? real : path;
    std::free(real);
    return result;
}

// Descriptors that the calling program forgot to close (a lock, the end of a pipe) would stay open
// as long as the filesystem is mounted.  Only a source that is one of them is needed.
void close_inherited(const std::string &source) {
    unsigned kept = 0;
    for (const char *folder : {"/proc/self/fd/", "/dev/fd/"})
        if (source.starts_with(folder))
            kept = static_cast<unsigned>(std::atoi(source.c_str() + std::strlen(folder)));
    constexpr unsigned kFirst = STDERR_FILENO + 1;
    if (kept < kFirst) {
        ::close_range(kFirst, ~0u, 0);
        return;
    }
    if (kept > kFirst) ::close_range(kFirst, kept - 1, 0);
    ::close_range(kept + 1, ~0u, 0);
}

// Closes standard input, output and error: from here on messages go to the system log.
void detach() {
    const int null = ::open("/dev/null", O_RDWR);
    for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) ::dup2(null, fd);
    if (null > STDERR_FILENO) ::close(null);
    if (::chdir("/") != 0) return;  // cannot fail for root
}

// The server as a child: the parent stays until the mount can be used or has failed, and then ends
// with the exit code that mount(8) passes on.
int serve_in_background(const Words &words) {
    int pipe[2];
    if (::pipe2(pipe, O_CLOEXEC) != 0) return tell({Exit::system, "cannot create a pipe"});
    const pid_t child = ::fork();
    if (child < 0) return tell({Exit::system, "cannot start a process"});
    if (child > 0) {
        ::close(pipe[1]);
        unsigned char code = 0;
        ssize_t got;
        while ((got = ::read(pipe[0], &code, 1)) < 0 && errno == EINTR) continue;
        if (got == 1) return code;
        return tell({Exit::failed, "the server ended before it could serve (see the system log)"});
    }
    ::close(pipe[0]);
    ::setsid();
    const auto report = [&pipe](Exit exit) {
        const auto code = static_cast<unsigned char>(exit);
        static_cast<void>(!::write(pipe[1], &code, 1));
    };
    bool mounted = false;
    const Outcome outcome = serve(words.serve, [&] {
        mounted = true;
        log_to(spdlog::syslog_logger_mt("syslog", "mount.pmfs", LOG_PID, LOG_DAEMON, true), "%P");
        detach();
        report(Exit::done);
    });
    const int code = tell(outcome);
    if (!mounted) report(outcome.exit);
    return code;
}

// mount.pmfs -f: everything but the mount.
int check_only(const Words &words) {
    if (::access(words.serve.source.c_str(), R_OK) != 0)
        return tell(
            {Exit::failed, fmt::format("{}: {}", words.serve.source, std::strerror(errno))});
    return 0;
}

// The options with which the server of a mount was started; nothing when they cannot be seen
// (another PID namespace).
std::optional<ServeOptions> options_of_server(const std::string &directory) {
    const FileDescriptor root(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    pmfs_volume io{};
    io.version = PMFS_ABI_VERSION;
    if (!root.ok() || ::ioctl(root.get(), PMFS_IOC_VOLUME, &io) != 0) return {};
    std::ifstream file(fmt::format("/proc/{}/cmdline", io.server_pid));
    std::vector<std::string> arguments;
    for (std::string word; std::getline(file, word, '\0');) arguments.push_back(word);
    if (arguments.empty() || !arguments.front().ends_with("pmfs")) return {};
    std::vector<char *> argv;
    for (std::string &word : arguments) argv.push_back(word.data());
    Words words;
    if (parse_words(static_cast<int>(argv.size()), argv.data(), &words) >= 0) return {};
    for (const std::string &options : words.options)
        (void)parse_mount_options(options, /*sloppy=*/true, &words.serve);
    return words.serve;
}

int remount(Words &words) {
    const ServeOptions unknown;
    const auto told = options_of_server(words.serve.directory);
    const ServeOptions &now = told ? *told : unknown;
    ServeOptions wanted = now;
    wanted.mount_flags = 0;
    for (const std::string &options : words.options)
        if (const auto refusal = parse_mount_options(options, words.sloppy, &wanted))
            return tell({Exit::usage, *refusal});
    if (const auto refusal = refuse_remount(now, wanted)) return tell({Exit::failed, *refusal});
    const auto done = MountPoint::remount(words.serve);
    if (done.ok()) return 0;
    return tell(
        {Exit::failed, fmt::format("{}: {} ({})", words.serve.directory, done.error().what(),
                                   std::strerror(done.error().errno_value()))});
}

int run(Words &words) {
    if (!words.type.empty() && words.type != "pmfs" && words.type != "fuse.pmfs")
        return tell(
            {Exit::usage,
             fmt::format("unknown filesystem type '{}': only pmfs and fuse.pmfs can be mounted",
                         words.type)});
    for (const std::string &options : words.options)
        if (const auto refusal = parse_mount_options(options, words.sloppy, &words.serve))
            return tell({Exit::usage, *refusal});
    if (words.no_mount && words.serve.guests.empty())
        return tell(
            {Exit::usage,
             "--no-mount requires -o vhost=SOCKET: otherwise the server would have no clients"});
    if (!words.no_mount) {
        if (const auto objection = MountPoint::objection(words.serve.directory))
            return tell({Exit::failed, *objection});
        words.serve.directory = canonical(words.serve.directory);
    }
    if (const auto name = pmfs::probe::name_in(words.serve.source)) {
        const auto found = pmfs::probe::find_volume(*name);
        if (!found.objection.empty()) return tell({Exit::failed, found.objection});
        words.serve.source = found.path;
    }
    words.serve.source = canonical(words.serve.source);
    close_inherited(words.serve.source);
    if (words.fake) return check_only(words);
    if (words.serve.mount_flags & MS_REMOUNT) return remount(words);
    if (!words.serve.foreground) return serve_in_background(words);
    const Readiness readiness;
    return tell(serve(words.serve, [&readiness] { readiness.tell(); }));
}

}  // namespace

int main(int argc, char **argv) {
    Words words;
    if (argc > 0)
        words.serve.command_line = {argv[0], argv[argc - 1] + std::strlen(argv[argc - 1])};
    const int code = parse_words(argc, argv, &words);
    if (code >= 0) return code;
    spdlog::set_level(words.serve.verbose ? spdlog::level::debug : spdlog::level::info);
    log_to(spdlog::stderr_logger_mt("stderr"), "mount.pmfs: %P");
    return run(words);
}
