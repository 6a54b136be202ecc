// How a server opens its volume, mounts it, waits, and closes it again, also by a signal.
#include "front/mount/server.h"

#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>

#include "base/blocking.h"
#include "front/broker/broker.h"
#include "front/broker/broker_socket.h"
#include "front/clients/clients.h"
#include "front/mount/helper.h"
#include "front/mount/privileges.h"
#include "front/requests/dispatcher.h"
#include "front/transports/dev_fuse.h"
#include "front/transports/uring_fuse.h"
#include "front/transports/vhost_fs.h"

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

namespace pmfs::front {
namespace {

using namespace std::chrono_literals;

// How long users of a filesystem that was detached by SIGTERM may finish what they are doing, and
// the kernel may write back.
constexpr std::chrono::milliseconds kQuiet = 100ms, kQuietMax = 10s;

constexpr int kNeverKilled = -1000;  // proc(5), oom_score_adj

Outcome failure(Exit exit, const std::string &about, const Error &error) {
    std::string sentence = fmt::format("{}: {}", about, error.what());
    if (error.errno_value() == EAGAIN || error.errno_value() == ENOMEM) exit = Exit::system;
    // The engine's sentences say what happened; the errno's text is added if no sentence explains
    // it.
    if (exit == Exit::failed && error.errno_value() != EINVAL)
        sentence += fmt::format(" ({})", std::strerror(error.errno_value()));
    return {exit, sentence};
}

// The kernel waits for this server, so when memory is short it must neither wait for its own
// write-back nor be killed.  (The volume that it maps counts as its memory, so it would be killed
// first, for no gain: mapped pages of a file can be reclaimed anyway.) Gives the resulting score;
// -1000 was requested.
int protect_from_memory_pressure() {
    ::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
    constexpr const char *kScore = "/proc/self/oom_score_adj";
    if (FILE *score = std::fopen(kScore, "we")) {
        fmt::print(score, "{}", kNeverKilled);
        std::fclose(score);
    }
    int now = 0;
    if (FILE *score = std::fopen(kScore, "re")) {
        if (std::fscanf(score, "%d", &now) != 1) now = 0;
        std::fclose(score);
    }
    return now;
}

// The path that syslog(3) sends to, with links resolved.
std::string system_log_path() {
    char *real = ::realpath("/dev/log", nullptr);
    std::string path = real != nullptr ? real : "/dev/log";
    std::free(real);
    return path;
}

// How many of `grants` can be served with the descriptors that this process may have: a mapping
// takes a channel for its events, and half of all may have a connection of their own (two).
std::size_t grants_that_fit(std::size_t grants) {
    constexpr rlim_t kForOthers = 256, kForOne = 2;
    const rlim_t wanted = grants * kForOne + kForOthers;
    rlimit limit{};
    if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= wanted) return grants;
    const rlimit more{wanted, std::max(limit.rlim_max, wanted)};
    if (::setrlimit(RLIMIT_NOFILE, &more) == 0) return grants;
    limit.rlim_cur = limit.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_cur >= wanted) return grants;
    const std::size_t fit =
        limit.rlim_cur > kForOthers ? (limit.rlim_cur - kForOthers) / kForOne : 0;
    spdlog::warn(
        "only {} mappings are possible, not {}: this process may have {} descriptors (raise "
        "RLIMIT_NOFILE, or use mappings={})",
        fit, grants, limit.rlim_cur, fit);
    return fit;
}

// A descriptor to poll for SIGTERM and SIGINT.  Made before any thread, so that none gets the
// signals.
FileDescriptor block_signals() {
    ::signal(SIGPIPE, SIG_IGN);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    pthread_sigmask(SIG_BLOCK, &set, nullptr);
    return FileDescriptor(::signalfd(-1, &set, SFD_CLOEXEC));
}

// It would make all users wait for one.
void log_blocking_call(const char *call) {
    static std::atomic<unsigned> logged{0};
    if (logged.fetch_add(1) < 20)
        spdlog::error("a bug in pmfs: {} with the volume's lock held", call);
}

// Options that exclude each other, before there is anything to connect to.
Outcome refuse_combinations(const ServeOptions &options) {
    if (options.volume.no_recovery && !options.volume.read_only)
        return {Exit::usage,
                "norecovery needs ro: to write to the volume its journal must be replayed"};
    if (!options.guests.empty() && options.dispatch.writeback)
        return {Exit::usage,
                "writeback and vhost= cannot be combined: the kernel of this machine would not see "
                "what guests write"};
    for (const GuestOptions &guest : options.guests)
        if (guest.window != 0 && (guest.policy.read_only || options.volume.read_only))
            return {Exit::usage,
                    fmt::format("vhost={}: a guest that may not write can have no window, because "
                                "virtual machine monitors do not enforce that (remove 'dax')",
                                guest.socket)};
    return {};
}

class Server {
public:
    explicit Server(const ServeOptions &options)
        : options_(options), signals_(block_signals()), ended_(::eventfd(0, EFD_CLOEXEC)) {}

    Outcome open();
    Outcome mount();
    Outcome begin();
    void wait();
    Outcome close();
    // How requests come; a sentence.
    const std::string &way() const { return way_; }
    // Cleans up after a mount that failed.
    void give_up() {
        if (device_ != nullptr) static_cast<void>(helper_->unmount(/*detach=*/true));
        static_cast<void>(close());
    }

private:
    Result<Surroundings> leave_surroundings();
    Outcome bind_sockets();
    Outcome make_rings();
    Outcome without_rings(const Error &why);
    Outcome start_local();
    Result<> give_up_privileges(pm::Region &region, Surroundings where);
    void start_broker();
    Outcome serve_guest(GuestOptions guest, virtio::Listener listener);
    void unmount_by_signal();
    void ended();
    bool threads_end_within(std::chrono::milliseconds time);

    const ServeOptions &options_;
    FileDescriptor signals_, ended_;
    std::unique_ptr<Helper> helper_;         // the volume's region asks it
    std::vector<virtio::Listener> sockets_;  // of the guests, until they are served
    std::unique_ptr<Volume> volume_;
    std::unique_ptr<Clients> clients_;
    std::shared_ptr<Dispatcher> dispatcher_;  // of the local mount
    Traffic traffic_;                         // of the local mount
    std::unique_ptr<DevFuse> device_;         // null: not mounted here, for guests only
    std::unique_ptr<UringFuse> rings_;        // null: all requests come by /dev/fuse
    std::vector<std::unique_ptr<VhostFs>> guests_;
    std::unique_ptr<Broker> broker_;
    std::size_t grants_max_ = 0;
    bool failed_ = false;  // it was not unmounted, and cannot serve
    std::string way_ = "requests come by /dev/fuse";
};

Outcome Server::open() {
    if (Outcome refused = refuse_combinations(options_); refused.exit != Exit::done) return refused;
    set_blocking_watch(log_blocking_call);
    pm::OpenOptions open;
    open.patient = true;
    // The journal must be replayed after a crash also for a read-only mount: into memory.
    open.private_copy = options_.volume.read_only;
    auto region = pm::open_region(options_.source, open);
    if (!region.ok()) return failure(Exit::failed, options_.source, region.error());
    auto where = leave_surroundings();
    if (!where.ok()) return failure(Exit::system, options_.directory, where.error());
    if (Outcome bound = bind_sockets(); bound.exit != Exit::done) return bound;
    MountOptions wanted = options_.volume;
    grants_max_ = wanted.grants_max = grants_that_fit(wanted.grants_max);
    // Grants of windows are added, so that no guest takes the place of another holder.  Twice as
    // many, because a range that a guest gives back is quarantined until its VMM has unmapped it,
    // which may take a moment.
    for (const GuestOptions &guest : options_.guests)
        wanted.grants_max += 2 * guest.window / DaxWindow::kRange;
    if (const auto given_up = give_up_privileges(*region.value(), std::move(where).take());
        !given_up.ok())
        return failure(Exit::system, options_.source, given_up.error());
    auto volume = Volume::open(std::move(region).take(), wanted);
    if (!volume.ok()) return failure(Exit::failed, options_.source, volume.error());
    volume_ = std::move(volume).take();
    if (const BlockNo copy = volume_->info().superblock_from; copy != BlockNo(0))
        spdlog::warn(
            "{}: the superblock is damaged; its copy in block {} is used (fsck.pmfs -y repairs it)",
            options_.source, copy.value());
    if (wanted.no_recovery)
        spdlog::warn(
            "{}: mounted without its journal: after a crash the newest changes are missing, and "
            "files "
            "may be in an older state or unreadable",
            options_.source);
    clients_ = std::make_unique<Clients>(*volume_);
    if (options_.directory.empty()) return {};
    auto local = clients_->admit(options_.local);
    if (!local.ok()) return failure(Exit::system, options_.source, local.error());
    auto dispatcher = Dispatcher::create(*clients_, std::move(local).take(), options_.dispatch);
    if (!dispatcher.ok()) return failure(Exit::system, options_.source, dispatcher.error());
    dispatcher_ = std::move(dispatcher).take();
    return {};
}

// Before any thread is started, because all are to live in the new namespace.  Gives the place to
// mount; empty: here.
Result<Surroundings> Server::leave_surroundings() {
    auto before = TRY(Surroundings::of(options_.mount_namespace));
    // (/dev by its nodes: with systemd, /dev/log is a link that leads elsewhere.)
    std::vector<std::string> kept{
        "/",         "/proc",           "/sys",           "/sys/fs/fuse/connections", "/dev/fuse",
        "/dev/null", system_log_path(), run_directory("")};
    for (const GuestOptions &guest : options_.guests) kept.push_back(guest.socket);
    const auto left = leave_mount_namespace(kept);
    if (!left.ok() && left.error().errno_value() != EPERM) return left.error();
    // (A process that may not leave may not mount either, and gets that error later.)
    if (left.value_or(false) || !options_.mount_namespace.empty()) return before;
    return Surroundings();
}

// In directories of the users that run the virtual machines, while the server still may.
Outcome Server::bind_sockets() {
    for (const GuestOptions &guest : options_.guests) {
        auto bound = virtio::Listener::bind(guest.socket);
        if (!bound.ok()) return failure(Exit::failed, "vhost=" + guest.socket, bound.error());
        sockets_.push_back(std::move(bound).take());
    }
    return {};
}

// Before anything is read that others have written, and before a second thread is started.
Result<> Server::give_up_privileges(pm::Region &region, Surroundings where) {
    helper_ = TRY(Helper::start(options_, region, std::move(where), sockets_));
    region.set_opener(
        [helper = helper_.get()](bool writable) { return helper->open_medium(writable); });
    const std::string run = run_directory("");
    if (!options_.directory.empty()) (void)check_run_directory(run).ok();  // the broker asks again
    TRY(keep_capabilities(capabilities_to_keep(region.mapping_fd())));
    using enum KeptFiles::For;
    const KeptFiles kept[] = {{reading, "/proc"},
                              {reading, "/sys"},
                              {reading, "/etc/localtime"},
                              {reading, "/usr/share/zoneinfo"},
                              {writing, "/dev/fuse"},
                              {writing, "/dev/null"},
                              {sockets, run}};
    if (const auto left = keep_files(kept); !left.ok()) {
        if (left.error().errno_value() != EOPNOTSUPP) return left;
        spdlog::info("{}; the server can open files that root owns", left.error().what());
    }
    return forbid_dumps();
}

Outcome Server::mount() {
    if (options_.directory.empty()) return {};
    auto fuse = MountPoint::open_device();
    if (!fuse.ok()) return failure(Exit::failed, options_.directory, fuse.error());
    if (const auto mounted = helper_->mount(fuse.value()); !mounted.ok())
        return failure(Exit::failed, options_.directory, mounted.error());
    device_ =
        std::make_unique<DevFuse>(*dispatcher_, traffic_, std::move(fuse).take(), ended_.get());
    if (Outcome made = make_rings(); made.exit != Exit::done) return made;
    const Result<> ready = device_->handshake();
    if (!ready.ok()) return failure(Exit::failed, options_.directory, ready.error());
    start_broker();
    return {};
}

// While system calls are not filtered.
Outcome Server::make_rings() {
    if (options_.transport == TransportChoice::dev_fuse) return {};
    auto made = UringFuse::make(*dispatcher_, traffic_, device_->device(), ended_.get());
    if (made.ok()) {
        rings_ = std::move(made).take();
        dispatcher_->offer_rings();
        return {};
    }
    return without_rings(made.error());
}

// Continues without rings, unless they were requested.
Outcome Server::without_rings(const Error &why) {
    rings_.reset();
    if (options_.transport == TransportChoice::io_uring)
        return failure(Exit::failed, "transport=io_uring", why);
    way_ = fmt::format("requests come by /dev/fuse: {}", why.what());
    return {};
}

// From here on requests are served.
Outcome Server::begin() {
    if (const auto filtered = filter_system_calls(options_.seccomp); !filtered.ok())
        spdlog::warn("{}; the server continues without it", filtered.error().what());
    if (device_ != nullptr)
        if (Outcome started = start_local(); started.exit != Exit::done) return started;
    for (std::size_t i = 0; i < options_.guests.size(); ++i) {
        Outcome served = serve_guest(options_.guests[i], std::move(sockets_[i]));
        if (served.exit != Exit::done) return served;
    }
    return {};
}

Outcome Server::start_local() {
    Result<> ringed;
    if (rings_ != nullptr && !dispatcher_->rings_agreed())
        ringed = Error(EOPNOTSUPP, "the kernel did not offer FUSE over io_uring");
    if (rings_ != nullptr && ringed.ok()) ringed = rings_->start();
    if (!ringed.ok())
        if (Outcome refused = without_rings(ringed.error()); refused.exit != Exit::done)
            return refused;
    if (rings_ != nullptr) {
        way_ = fmt::format("requests come over io_uring, from {} queues to {} threads",
                           rings_->queues(), rings_->rings());
        device_->serve_rest();
    }
    const Result<> started = device_->start();
    if (!started.ok()) return failure(Exit::failed, options_.directory, started.error());
    return {};
}

// The inode of a path in the volume.
Result<InodeNo> find_directory(Volume &volume, std::string_view path) {
    InodeNo at(FUSE_ROOT_ID);
    while (!path.empty()) {
        const std::string_view name = path.substr(0, path.find('/'));
        path.remove_prefix(std::min(path.size(), name.size() + 1));
        if (name.empty() || name == ".") continue;
        const Attr found = TRY(volume.lookup(at, name));
        volume.forget(found.ino, 1);  // it stays, for it has a name
        at = found.ino;
    }
    return at;
}

Outcome Server::serve_guest(GuestOptions guest, virtio::Listener listener) {
    const auto root = find_directory(*volume_, guest.root);
    if (!root.ok()) return failure(Exit::failed, "guest_root=" + guest.root, root.error());
    guest.policy.root = root.value();
    guest.policy.users = IdMap(guest.users);
    guest.policy.groups = IdMap(guest.groups);
    guest.policy.read_only |= options_.volume.read_only;
    auto started = VhostFs::start(*clients_, options_.dispatch, guest, std::move(listener),
                                  [](const std::string &words) { spdlog::info("{}", words); });
    if (!started.ok()) return failure(Exit::failed, "vhost=" + guest.socket, started.error());
    guests_.push_back(std::move(started).take());
    spdlog::info("{}: a guest may connect to {}", options_.source, guest.socket);
    return {};
}

// Without a broker everything works but direct mappings, so the mount does not fail.
void Server::start_broker() {
    BrokerOptions broker;
    broker.group = options_.group;
    broker.connections_max = static_cast<unsigned>(grants_max_ / 2);
    broker.connections_per_uid_max = broker.connections_max / 2;
    broker.log = [](const std::string &sentence) { spdlog::info("{}", sentence); };
    auto started = Broker::start(*volume_, broker);
    if (!started.ok()) {
        if (started.error().errno_value() != EOPNOTSUPP)
            spdlog::warn("no direct mappings: {} ({})", started.error().what(),
                         std::strerror(started.error().errno_value()));
        return;
    }
    broker_ = std::move(started).take();
    dispatcher_->set_broker(broker_.get());
}

bool Server::threads_end_within(std::chrono::milliseconds time) {
    pollfd end{ended_.get(), POLLIN, 0};
    return ::poll(&end, 1, static_cast<int>(time.count())) > 0;
}

void Server::wait() {
    pollfd events[] = {{signals_.get(), POLLIN, 0}, {ended_.get(), POLLIN, 0}};
    for (;;) {
        const int count = ::poll(events, 2, -1);
        if (count < 0 && errno == EINTR) continue;
        if (events[1].revents) return ended();
        if (events[0].revents) return unmount_by_signal();
    }
}

void Server::unmount_by_signal() {
    if (device_ == nullptr) return;
    spdlog::info("asked to stop: unmounting {}", options_.directory);
    if (helper_->unmount(/*detach=*/false).ok()) {
        threads_end_within(5s);
        return;
    }
    spdlog::warn("{} is in use: detaching it; processes that use it get ENOTCONN",
                 options_.directory);
    helper_->write_back();
    static_cast<void>(helper_->unmount(/*detach=*/true));
    traffic_.wait_until_quiet(kQuiet, kQuietMax, [this] { return !device_->running(); });
}

// A thread has ended: the filesystem was unmounted, or no thread would answer any more.
void Server::ended() {
    if (rings_ == nullptr || !rings_->failed()) return;
    failed_ = true;
    spdlog::error("{}: aborting the connection to the kernel, because requests would wait forever",
                  options_.directory);
    helper_->cut_connection();
}

Outcome Server::close() {
    guests_.clear();  // each is disconnected, and what it held is released
    // While threads still serve what the kernel writes back for a notification: on a filesystem
    // that was detached and is still in use, it would wait for ever otherwise.
    if (dispatcher_ != nullptr) dispatcher_->finish_notifications();
    if (rings_ != nullptr) rings_->stop();  // later answers are still sent
    if (device_ != nullptr) {               // otherwise it was never mounted
        device_->stop();
        device_->join();
    }
    if (dispatcher_ != nullptr) {
        dispatcher_->drop_waiting();   // first, or a lock that is released would be given to one
        dispatcher_->give_back_all();  // or unlinked files would be left
    }
    volume_->quiesce();  // its threads run requests that may talk to the broker
    if (dispatcher_ != nullptr) {
        dispatcher_->set_broker(nullptr);
        dispatcher_->drop_waiting();
    }
    broker_.reset();
    const Result<> closed = volume_->close();
    if (!closed.ok()) spdlog::error("closing {}: {}", options_.source, closed.error().what());
    rings_.reset();
    device_.reset();
    dispatcher_.reset();
    volume_.reset();
    clients_.reset();
    helper_.reset();
    if (!closed.ok()) return failure(Exit::failed, options_.source, closed.error());
    if (failed_) return {Exit::failed, options_.directory + ": requests could not be answered"};
    return {};
}

}  // namespace

Outcome serve(const ServeOptions &options, const std::function<void()> &mounted) {
    const int oom_score = protect_from_memory_pressure();
    Server server(options);
    if (Outcome opened = server.open(); opened.exit != Exit::done) return opened;
    Outcome made = server.mount();
    if (made.exit == Exit::done) made = server.begin();
    if (made.exit != Exit::done) {
        server.give_up();
        return made;
    }
    mounted();
    if (!options.directory.empty())
        spdlog::info("{} is mounted on {}; {}", options.source, options.directory, server.way());
    if (oom_score != kNeverKilled)
        spdlog::warn(
            "when memory is short the server may be the first to be killed (its oom_score_adj is "
            "{}): "
            "start it with CAP_SYS_RESOURCE, or by a systemd unit with OOMScoreAdjust=-1000",
            oom_score);
    server.wait();
    return server.close();
}

}  // namespace pmfs::front
