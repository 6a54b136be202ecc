// Both sides of the helper's socket: see helper.h.
#include "front/mount/helper.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/capability.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstring>

#include "base/descriptor_message.h"
#include "front/mount/privileges.h"

namespace pmfs::front {
namespace {

enum Request : char {
    kMount = 'm',  // with a descriptor of /dev/fuse
    kWriteBack = 's',
    kUnmount = 'u',
    kDetach = 'd',
    kCut = 'c',
    kOpenToRead = 'r',
    kOpenToWrite = 'w',
    kEnd = 'e',  // without an answer
};

constexpr const char *kName = "pmfs-helper";
constexpr int kServerDied = SIGUSR2;  // the kernel sends it: PR_SET_PDEATHSIG

// For mounting, and finding the mount in other namespaces; for opening files that others own.
constexpr int kKept[] = {CAP_SYS_ADMIN,    CAP_SYS_CHROOT,      CAP_SYS_PTRACE,
                         CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER};

// --- in the helper

// Nothing else that the server has open stays open here: no lock, no pipe, no terminal.
void close_all_but(std::vector<int> kept) {
    const FileDescriptor null(::open("/dev/null", O_RDWR | O_CLOEXEC));
    for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) ::dup2(null.get(), fd);
    std::erase_if(kept, [](int fd) { return fd <= STDERR_FILENO; });
    std::ranges::sort(kept);
    unsigned first = STDERR_FILENO + 1;
    for (const int fd : kept) {
        const auto one = static_cast<unsigned>(fd);
        if (one > first) ::close_range(first, one - 1, 0);
        first = one + 1;
    }
    ::close_range(first, ~0u, 0);
}

void show_name(std::span<char> command_line) {
    ::prctl(PR_SET_NAME, kName, 0, 0, 0);
    std::ranges::fill(command_line, '\0');
    std::copy_n(kName, std::min(std::strlen(kName), command_line.size()), command_line.begin());
}

class Process {
public:
    Process(const ServeOptions &options, int medium, Surroundings where, int socket,
            std::span<const virtio::Listener> sockets)
        : options_(options),
          where_(std::move(where)),
          medium_(medium),
          socket_(socket),
          sockets_(sockets) {}

    [[noreturn]] void run(pid_t server) {
        const FileDescriptor died = watch_server(server);
        for (;;) {
            pollfd events[] = {{socket_, POLLIN, 0}, {died.get(), POLLIN, 0}};
            if (::poll(events, 2, -1) < 0) continue;
            if (events[1].revents != 0 || !serve_one()) break;
        }
        cut_connection();
        ::_exit(0);
    }

private:
    static FileDescriptor watch_server(pid_t server) {
        sigset_t set;
        ::sigemptyset(&set);
        ::sigaddset(&set, kServerDied);
        ::sigprocmask(SIG_BLOCK, &set, nullptr);  // (SIGTERM and SIGINT are so already)
        FileDescriptor died(::signalfd(-1, &set, SFD_CLOEXEC));
        ::prctl(PR_SET_PDEATHSIG, kServerDied, 0, 0, 0);
        if (::getppid() != server) ::_exit(0);  // it ended before the prctl
        return died;
    }

    // False: the server is gone.
    bool serve_one() {
        char request = 0;
        const int answered = receive_and_answer(&request);
        if (request == kEnd) {
            for (const virtio::Listener &one : sockets_) one.remove();
            ::_exit(0);
        }
        // By now no descriptor is left here that came with the request or went with the answer: a
        // description of the medium ends with its last one, and so does the lock that it carries.
        return answered < 0 || (answered > 0 && send_with(socket_, bytes_of(answered), {}, 0) > 0);
    }

    // 0: the server is gone; -1: nothing came.
    int receive_and_answer(char *request) {
        std::vector<FileDescriptor> fds;
        const ssize_t got = receive_with(socket_, writable_bytes_of(*request), &fds, 0);
        if (got < 0 && errno == EINTR) return -1;
        if (got != 1 || *request == kEnd) return 0;
        FileDescriptor opened;
        const int error = obey(*request, fds, &opened);
        const int fd = opened.get();
        const std::span<const int> with(&fd, fd >= 0 ? 1 : 0);
        return send_with(socket_, bytes_of(error), with, 0) == sizeof error ? 1 : 0;
    }

    int obey(char request, const std::vector<FileDescriptor> &fds, FileDescriptor *opened) {
        switch (request) {
            case kMount:
                return fds.size() == 1 ? mount(fds.front()) : EINVAL;
            case kOpenToRead:
            case kOpenToWrite: {
                auto medium = pm::open_anew(medium_, request == kOpenToWrite);
                if (!medium.ok()) return medium.error().errno_value();
                *opened = std::move(medium).take();
                return 0;
            }
            default:
                break;
        }
        if (!mounted_) return EINVAL;
        if (request == kCut) {
            cut_connection();
            return 0;
        }
        if (request == kWriteBack) mounted_->write_back();
        if (request != kUnmount && request != kDetach) return request == kWriteBack ? 0 : EINVAL;
        const auto done = mounted_->unmount(request == kDetach);
        return done.ok() ? 0 : done.error().errno_value();
    }

    int mount(const FileDescriptor &fuse) {
        if (mounted_) return EBUSY;
        auto made = MountPoint::make(options_, where_, fuse);
        where_ = {};  // it is not needed any more
        if (!made.ok()) return made.error().errno_value();
        mounted_ = std::move(made).take();
        const std::string abort =
            fmt::format("/sys/fs/fuse/connections/{}/abort", mounted_->connection());
        abort_ = FileDescriptor(::open(abort.c_str(), O_WRONLY | O_CLOEXEC));
        return 0;
    }

    // Everything that waits for the server in the kernel gets an error, including the server's own
    // threads.
    void cut_connection() {
        if (abort_.ok()) (void)!::write(abort_.get(), "1", 1);
        if (!abort_.ok() && mounted_) mounted_->force();
    }

    const ServeOptions &options_;
    Surroundings where_;
    const int medium_, socket_;
    const std::span<const virtio::Listener> sockets_;
    std::optional<MountPoint> mounted_;
    FileDescriptor abort_;  // none: fusectl is not mounted, or nothing is
};

[[noreturn]] void be_helper(Process process, const ServeOptions &options, const pm::Region &region,
                            std::vector<int> descriptors, pid_t server) {
    close_all_but(std::move(descriptors));
    show_name(options.command_line);
    // This process does not need the server's mappings.
    for (const std::byte *view : {region.meta(), region.data()})
        ::munmap(const_cast<std::byte *>(view), region.size());
    if (!keep_capabilities(kKept).ok() || !forbid_dumps().ok()) ::_exit(1);
    process.run(server);
}

}  // namespace

// --- in the server

Result<std::unique_ptr<Helper>> Helper::start(const ServeOptions &options, const pm::Region &region,
                                              Surroundings where,
                                              std::span<const virtio::Listener> sockets) {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
        return Error(errno, "cannot create a socket");
    FileDescriptor ours(ends[0]), its(ends[1]);
    const pid_t server = ::getpid(), child = ::fork();
    if (child < 0) return Error(errno, "cannot start a process");
    if (child == 0) {
        const int medium = region.mapping_fd();
        const std::vector<int> kept{its.get(), medium, where.mount_namespace.get(),
                                    where.root.get()};
        be_helper(Process(options, medium, std::move(where), its.get(), sockets), options, region,
                  kept, server);
    }
    return std::unique_ptr<Helper>(new Helper(std::move(ours), child));
}

Helper::~Helper() {
    const char end = kEnd;
    (void)send_with(socket_.get(), bytes_of(end), {}, MSG_DONTWAIT);
    while (::waitpid(child_, nullptr, 0) < 0 && errno == EINTR) continue;
}

namespace {

bool receive_number(int socket, int *number, std::vector<FileDescriptor> *fds) {
    ssize_t got;
    do {
        got = receive_with(socket, writable_bytes_of(*number), fds, 0);
    } while (got < 0 && errno == EINTR);
    return got == sizeof *number;
}

}  // namespace

// The answer carries the descriptor; the byte after it says that the helper has closed its own.
Result<FileDescriptor> Helper::ask(char request, int fd) {
    const std::span<const int> with(&fd, fd >= 0 ? 1 : 0);
    int error = 0, settled = 0;
    std::vector<FileDescriptor> got;
    Lock held(mutex_);
    const bool received = send_with(socket_.get(), bytes_of(request), with, 0) == sizeof request &&
                          receive_number(socket_.get(), &error, &got) &&
                          receive_number(socket_.get(), &settled, &got);
    held.unlock();
    if (!received) return Error(EIO, "the server's helper process does not answer");
    if (error != 0) return Error(error, "the server's helper process cannot do that");
    return got.empty() ? FileDescriptor() : std::move(got.front());
}

Result<> Helper::mount(const FileDescriptor &fuse) {
    const auto mounted = ask(kMount, fuse.get());
    if (!mounted.ok()) return MountPoint::refusal(mounted.error().errno_value());
    return {};
}

void Helper::write_back() {
    (void)ask(kWriteBack).ok();
}

Result<> Helper::unmount(bool detach) {
    const auto done = ask(detach ? kDetach : kUnmount);
    if (!done.ok()) return Error(done.error().errno_value(), "cannot unmount");
    return {};
}

void Helper::cut_connection() {
    (void)ask(kCut).ok();
}

Result<FileDescriptor> Helper::open_medium(bool writable) {
    auto opened = TRY(ask(writable ? kOpenToWrite : kOpenToRead));
    if (!opened.ok()) return Error(EMFILE, "too many open descriptors for one more of the medium");
    return opened;
}

}  // namespace pmfs::front
