// The broker's thread, its connections and its tokens: see broker.h.
#include "front/broker/broker.h"

#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <map>
#include <set>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/message_limit.h"
#include "base/mutex.h"
#include "base/places.h"
#include "base/process.h"
#include "base/thread.h"
#include "client/broker_protocol.h"
#include "front/broker/broker_socket.h"
#include "front/broker/claim_table.h"
#include "front/broker/leaving_peers.h"

namespace pmfs::front {
namespace {

constexpr std::uint64_t kListenKey = 0;
constexpr std::uint64_t kWakeKey = 1;
constexpr std::uint64_t kFirstConnection = 2;  // a connection's keys are 2 * id and 2 * id + 1
constexpr unsigned kTickMs = 250;              // how late a token or a silent connection may lapse
constexpr std::uint64_t kSecond = 1'000'000'000;
constexpr std::uint64_t kConnectionJobs = std::uint64_t{1} << 62;  // no file's number

using Claim = BrokerClaim;

struct Connection {
    FileDescriptor socket;
    FileDescriptor process;  // a pidfd; becomes readable when the peer's process has exited
    Peer peer;
    std::uint64_t lapses_ns = 0;  // when it is closed, unless a grant is bound to it by then
};

// A grant may have ended already, with its handle: then there is nothing to do.
void drop(Volume &volume, const Claim &claim) {
    const auto dropped = volume.drop_grant(claim.handle, claim.grant);
    if (!dropped.ok() && must_park(dropped.error()))
        volume.when_ready(dropped.error(), [&volume, claim] { drop(volume, claim); });
}

}  // namespace

class Broker::Impl final : public GrantWatcher {
public:
    Impl(Volume &volume, BrokerOptions options)
        : volume_(volume), options_(std::move(options)), places_(options_.connections_max) {}
    ~Impl() override { stop(); }

    Result<> start();
    void stop();

    Result<> may_map(const Caller &caller) const;
    bool is_trusted(const Caller &caller) const;
    Result<BrokerToken> issue(const Claim &claim, const Caller &taker);
    void settle_lending() override EXCLUDES(sending_);
    void grant_released(HandleId handle, GrantId grant);
    void handle_released(HandleId handle);
    void lease_breaking(HandleId handle, GrantId grant, std::uint32_t milliseconds) override;
    void grant_revoked(HandleId handle, GrantId grant) override { grant_released(handle, grant); }

    const std::string &path() const { return listener_.path; }
    std::uint64_t epoch() const { return epoch_; }

private:
    // The broker's answer to one packet.
    struct Verdict {
        int error = 0;
        const char *why = "";
        bool consumed = false;  // a token was used up: if refused, its grant ends, too
        Claim claim = {};
        std::uint64_t number = 0;  // of the claim, once it is bound
    };

    void run();
    void tick();
    void accept_one();
    bool is_trusted(const Peer &peer) const;
    Verdict admit(const Peer &peer) REQUIRES(lock_);
    void receive(std::uint64_t id);
    void bind(std::uint64_t id, int fd, const Peer &peer, const pmfs_broker_ask &ask);
    Verdict judge(const Peer &peer, const pmfs_broker_ask &ask) REQUIRES(lock_);
    Result<> adopt(const Claim &claim, const Peer &peer);
    int lend(const Claim &claim, FileDescriptor *device);
    void open_channel(std::uint64_t id, int fd, std::uint64_t number);
    void close_connection(std::uint64_t id);
    void log_refusal(const Peer &peer, int error, const char *why);
    bool watch(int fd, std::uint64_t key);
    bool pause_accepting(bool pause);
    void wake();

    Volume &volume_;
    const BrokerOptions options_;
    Listener listener_;
    FileDescriptor epoll_, wake_;
    DeviceDescriptors device_;
    std::uint64_t epoch_ = 0;
    std::thread thread_;
    std::atomic<bool> stopping_ = false;
    bool accepting_paused_ = false;  // used only by the thread
    MessageLimit refusals_;

    Mutex lock_;
    Mutex sending_;  // while a descriptor that is sent is open here, too; outside lock_
    ClaimTable claims_ GUARDED_BY(lock_);
    std::map<std::uint64_t, Connection> connections_ GUARDED_BY(lock_);
    std::set<std::uint64_t> unused_ GUARDED_BY(lock_);  // connections; a smaller one lapses earlier
    LeavingPeers leaving_ GUARDED_BY(lock_);
    Places places_ GUARDED_BY(lock_);  // for connections, also of those that leave
    std::uint64_t next_connection_ GUARDED_BY(lock_) = kFirstConnection / 2;
};

// --- life -------------------------------------------------------------------------------------

Result<> Broker::Impl::start() {
    device_ = TRY(open_device(volume_.region(), !volume_.info().read_only));
    const std::string directory = run_directory(options_.directory);
    listener_ = TRY(listen_at(directory, volume_.info().uuid));
    if (::getrandom(&epoch_, sizeof epoch_, 0) != sizeof epoch_)
        return Error(EIO, "the kernel provides no random numbers");
    epoll_ = FileDescriptor(::epoll_create1(EPOLL_CLOEXEC));
    wake_ = FileDescriptor(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!epoll_.ok() || !wake_.ok() || !watch(listener_.socket.get(), kListenKey) ||
        !watch(wake_.get(), kWakeKey))
        return Error(EMFILE, "too few descriptors for the broker: raise RLIMIT_NOFILE");
    auto started = start_thread("pmfs-broker", [this] { run(); });
    if (!started.ok()) {
        ::unlink(listener_.path.c_str());
        return started.error();
    }
    thread_ = std::move(started).take();
    volume_.set_watcher(this);
    return {};
}

void Broker::Impl::stop() {
    if (!thread_.joinable()) return;
    volume_.set_watcher(nullptr);
    stopping_ = true;
    wake();
    thread_.join();
    if (!listener_.path.empty()) ::unlink(listener_.path.c_str());
    std::vector<Claim> ended;
    {
        const Lock held(lock_);
        // Processes that map go on mapping: their records on the medium tell the next mount.
        ended = claims_.end_all();
        connections_.clear();
        leaving_.clear();
        unused_.clear();
    }
    for (const Claim &claim : ended) drop(volume_, claim);
}

void Broker::Impl::wake() {
    const std::uint64_t one = 1;
    (void)!::write(wake_.get(), &one, sizeof one);  // fails only if it is awake already
}

bool Broker::Impl::watch(int fd, std::uint64_t key) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = key;
    return ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) == 0;
}

// When there is no descriptor left to accept with, the listening socket is ignored for a tick.
bool Broker::Impl::pause_accepting(bool pause) {
    if (pause == accepting_paused_) return true;
    epoll_event event{};
    event.events = pause ? 0u : static_cast<std::uint32_t>(EPOLLIN);
    event.data.u64 = kListenKey;
    accepting_paused_ = pause;
    return ::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, listener_.socket.get(), &event) == 0;
}

void Broker::Impl::run() {
    while (!stopping_) {
        bool deadlines = accepting_paused_;
        {
            const Lock held(lock_);
            deadlines = deadlines || claims_.any_token() || !unused_.empty() || !leaving_.empty();
        }
        epoll_event events[16];
        const int ready =
            ::epoll_wait(epoll_.get(), events, 16, deadlines ? static_cast<int>(kTickMs) : -1);
        for (int i = 0; i < ready && !stopping_; i++) {
            const pm::FaultScope faults;
            const std::uint64_t key = events[i].data.u64;
            if (key == kListenKey) {
                accept_one();
            } else if (key == kWakeKey) {
                std::uint64_t count;
                (void)!::read(wake_.get(), &count, sizeof count);
            } else if ((key & 1) != 0) {
                close_connection(key / 2);  // its process is gone
            } else {
                receive(key / 2);
            }
        }
        tick();
    }
}

// Ends tokens and connections that are too old.
void Broker::Impl::tick() {
    const pm::FaultScope faults;
    pause_accepting(false);
    const std::uint64_t now_ns = monotonic_ns();
    std::vector<Claim> lapsed;
    std::vector<std::uint64_t> silent;
    {
        const Lock held(lock_);
        lapsed = claims_.lapse(now_ns);
        for (const uid_t uid : leaving_.let_go()) places_.give_back(uid);
        for (const std::uint64_t id : unused_) {
            if (connections_.at(id).lapses_ns > now_ns) break;
            silent.push_back(id);
        }
    }
    for (const Claim &claim : lapsed) drop(volume_, claim);
    for (const std::uint64_t id : silent) close_connection(id);
}

// --- rights ----------------------------------------------------------------------------------

Result<> Broker::Impl::may_map(const Caller &caller) const {
    if (caller.uid != 0 && !options_.group)
        return Error(EACCES, "only root may map this volume: it was mounted without -o group=");
    return {};
}

bool Broker::Impl::is_trusted(const Caller &caller) const {
    return caller.uid == 0 || (options_.group && (caller.gid == *options_.group ||
                                                  thread_in_group(caller.pid, *options_.group)));
}

bool Broker::Impl::is_trusted(const Peer &peer) const {
    return peer.uid == 0 || (options_.group && peer.is_member_of(*options_.group));
}

// Every user may connect: rights are checked when a token is shown.
Broker::Impl::Verdict Broker::Impl::admit(const Peer &peer) {
    const std::size_t share = options_.connections_per_uid_max / (is_trusted(peer) ? 1 : 8);
    switch (places_.take(peer.uid, share)) {
        case Places::Taken::yes:
            return {};
        case Places::Taken::table_full:
            return {.error = EUSERS, .why = "came when all connections were taken"};
        case Places::Taken::share_full:
            return {.error = EUSERS, .why = "has as many connections as one user may have"};
    }
    return {};
}

// A token that is shown is used up, even if it is refused.
Broker::Impl::Verdict Broker::Impl::judge(const Peer &peer, const pmfs_broker_ask &ask) {
    const auto token = claims_.take(ask.token);
    if (!token && !is_trusted(peer))
        return {.error = EACCES, .why = "is neither root nor in the group that may map"};
    if (!token) return {.error = EPERM, .why = "showed a token that is unknown, used or too old"};
    const Claim &claim = token->claim;
    Verdict verdict{.error = EPERM, .why = "", .consumed = true, .claim = claim};
    if (claim.grant != ask.number) {
        verdict.why = "showed a token of another grant";
    } else if (claim.hand_over) {
        verdict.error = 0;
    } else if (claim.maps && !is_trusted(peer)) {
        verdict.error = EACCES;
        verdict.why = "is neither root nor in the group that may map";
    } else if (token->taker.uid != peer.uid) {
        verdict.why = "showed a token of another user";
    } else if (!peer.is_process_of(static_cast<pid_t>(token->taker.pid))) {
        verdict.why = "showed a token of another process";
    } else if (!claim.maps) {
        verdict.error = 0;
    } else if (claim.may_store && !device_.writable.ok()) {
        verdict.error = EROFS;
        verdict.why = "wants to store, and the volume is read-only";
    } else if (claim.may_store && volume_.region().is_image() && peer.uid != 0) {
        verdict.why = "wants to store, and a writable image goes to root only";
    } else {
        verdict.error = 0;
    }
    return verdict;
}

void Broker::Impl::log_refusal(const Peer &peer, int error, const char *why) {
    if (!options_.log) return;
    refusals_.log({},
                  "broker: refused a direct mapping (" + std::string(::strerrorname_np(error)) +
                      "): process " + std::to_string(peer.pid) + " of user " +
                      std::to_string(peer.uid) + " " + why,
                  options_.log);
}

// --- connections ------------------------------------------------------------------------------

void Broker::Impl::accept_one() {
    FileDescriptor socket(
        ::accept4(listener_.socket.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket.ok()) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
            pause_accepting(true);
        return;
    }
    auto peer = peer_of(socket.get());
    if (!peer.ok()) return;  // it has disconnected
    FileDescriptor process = process_of(socket.get(), peer.value().pid);
    Verdict verdict;
    std::uint64_t id = 0;
    const int fd = socket.get(), process_fd = process.get();
    {
        const Lock held(lock_);
        verdict = admit(peer.value());
        if (verdict.error == 0) {
            id = next_connection_++;
            connections_.emplace(
                id, Connection{.socket = std::move(socket),
                               .process = std::move(process),
                               .peer = peer.value(),
                               .lapses_ns = monotonic_ns() + options_.token_seconds * kSecond});
            unused_.insert(id);
        }
    }
    if (verdict.error != 0) {
        log_refusal(peer.value(), verdict.error, verdict.why);
        answer(fd, {.error = verdict.error, .epoch = epoch_}, -1);
        return;
    }
    if (!watch(fd, 2 * id) || (process_fd >= 0 && !watch(process_fd, 2 * id + 1)))
        close_connection(id);
}

// The peer has sent something, or hung up.
void Broker::Impl::receive(std::uint64_t id) {
    pmfs_broker_ask ask{};
    Peer peer;
    int fd = -1;
    ssize_t got;
    {
        const Lock held(lock_);
        const auto found = connections_.find(id);
        if (found == connections_.end()) return;  // an event from before it was closed
        fd = found->second.socket.get();
        peer = found->second.peer;
        got = ::recv(fd, &ask, sizeof ask, MSG_DONTWAIT | MSG_TRUNC);
        if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    }
    // Only this thread closes connections, so `fd` is still ours.
    if (got <= 0) return close_connection(id);
    Verdict verdict;
    if (static_cast<std::size_t>(got) != sizeof ask || ask.magic != PMFS_BROKER_MAGIC)
        verdict = {.error = EPROTO, .why = "does not speak the broker's protocol"};
    else if (ask.version != PMFS_BROKER_VERSION)
        verdict = {.error = EPROTONOSUPPORT, .why = "speaks another version of the protocol"};
    else if (has_unread(fd))
        verdict = {.error = EPROTO, .why = "did not read an answer before it asked again"};
    else if (ask.what == PMFS_BROKER_BIND)
        return bind(id, fd, peer, ask);
    else if (ask.what == PMFS_BROKER_EVENTS)
        return open_channel(id, fd, ask.number);
    else
        verdict = {.error = EPROTO, .why = "asks for what there is not"};
    log_refusal(peer, verdict.error, verdict.why);
    if (!has_unread(fd)) answer(fd, {.error = verdict.error, .epoch = epoch_}, -1);
    close_connection(id);
}

// A token is shown: from now on its grant ends with the connection.
void Broker::Impl::bind(std::uint64_t id, int fd, const Peer &peer, const pmfs_broker_ask &ask) {
    Verdict verdict;
    bool alone = false;
    {
        const Lock held(lock_);
        verdict = judge(peer, ask);
        alone = unused_.contains(id);
        if (verdict.error == 0) {
            verdict.number = claims_.bind(verdict.claim, id);
            unused_.erase(id);
        }
    }
    const Claim &claim = verdict.claim;
    if (verdict.error == 0 && claim.hand_over && !adopt(claim, peer).ok())
        verdict.error = EIO, verdict.why = "could not be made the holder";
    // See settle_lending().
    Lock sending(sending_);
    FileDescriptor lent;
    if (verdict.error == 0 && claim.maps) verdict.error = lend(claim, &lent);
    if (verdict.error != 0 && verdict.why[0] == 0) verdict.why = "lost its grant meanwhile";
    const bool writable = claim.maps && claim.may_store;
    const int device = !claim.maps ? -1
                       : lent.ok() ? lent.get()
                       : writable  ? device_.writable.get()
                                   : device_.readable.get();
    if (verdict.error == 0) {
        const Answer yes{.writable = writable, .epoch = epoch_, .claim = verdict.number};
        verdict.error = answer(fd, yes, device);
        verdict.why = "could not be sent a descriptor";
    }
    lent.reset();  // now at most the peer has it
    sending.unlock();
    if (verdict.error == 0) return;
    if (is_gone(verdict.error)) return close_connection(id);
    log_refusal(peer, verdict.error, verdict.why);
    const bool told = answer(fd, {.error = verdict.error, .epoch = epoch_}, -1) == 0;
    if (verdict.consumed) {
        grant_released(claim.handle, claim.grant);
        drop(volume_, claim);
    }
    if (alone || !told) close_connection(id);  // otherwise it holds other grants
}

// The peer asks for events of a claim: it gets a socket for them, which hangs up when the grant
// ends.
void Broker::Impl::open_channel(std::uint64_t id, int fd, std::uint64_t number) {
    int ends[2] = {-1, -1};
    int error = 0;
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0)
        error = errno;
    FileDescriptor ours(ends[0]);
    const FileDescriptor theirs(ends[1]);
    if (error == 0) ::shutdown(ours.get(), SHUT_RD);  // nothing reads from it
    std::optional<Claim> claim;
    {
        const Lock held(lock_);
        claim = claims_.of(id, number);
    }
    if (!claim) error = ENOENT;  // the grant has ended
    if (error == 0) error = answer(fd, {.epoch = epoch_, .claim = number}, theirs.get());
    if (is_gone(error)) return close_connection(id);
    if (error != 0 && answer(fd, {.error = error, .epoch = epoch_, .claim = number}, -1) != 0)
        return close_connection(id);
    if (error != 0) return;
    {
        // If the grant has ended meanwhile, `ours` is closed: the channel hangs up.
        const Lock held(lock_);
        if (!claims_.of(id, number)) return;
        claims_.set_channel(number, std::move(ours));
    }
    // If the lease is being broken already, the event is sent now.
    const std::uint32_t left = volume_.lease_time_left(claim->handle, claim->grant);
    if (left != 0) lease_breaking(claim->handle, claim->grant, left);
}

void Broker::Impl::close_connection(std::uint64_t id) {
    Connection gone;
    std::vector<Claim> lost;
    {
        const Lock held(lock_);
        const auto found = connections_.find(id);
        if (found == connections_.end()) return;
        gone = std::move(found->second);
        connections_.erase(found);
        unused_.erase(id);
        ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, gone.socket.get(), nullptr);
        if (has_unread(gone.socket.get()))
            leaving_.add(std::move(gone.socket), gone.peer.uid);
        else
            places_.give_back(gone.peer.uid);
        lost = claims_.end_connection(id);
    }
    // There may be thousands, and other connections must not wait for them.
    volume_.run_later(gone.peer.uid, kConnectionJobs + id, true, [&volume = volume_, lost] {
        for (const Claim &claim : lost) volume.lose_grant(claim.handle, claim.grant);
    });
}

// From now on the peer is the holder, also in the record on the medium.
Result<> Broker::Impl::adopt(const Claim &claim, const Peer &peer) {
    Caller holder;
    holder.uid = peer.uid;
    holder.gid = peer.gid;
    holder.pid = static_cast<std::uint32_t>(peer.pid);
    Result<> done = volume_.adopt_grant(claim.handle, claim.grant, holder);
    if (!done.ok() && must_park(done.error())) {
        TRY(volume_.commit_group());
        done = volume_.adopt_grant(claim.handle, claim.grant, holder);
    }
    return done;
}

// The device's descriptor for this claim alone; none if the medium does not support that.
int Broker::Impl::lend(const Claim &claim, FileDescriptor *device) {
    auto lent = volume_.lend_device(claim.handle, claim.grant);
    if (!lent.ok() && lent.error().errno_value() != EOPNOTSUPP) return lent.error().errno_value();
    if (lent.ok()) *device = std::move(lent).take();
    return 0;
}

// --- the front's side -------------------------------------------------------------------------

Result<BrokerToken> Broker::Impl::issue(const Claim &claim, const Caller &taker) {
    bool first = false;
    Result<BrokerToken> token = Error(EAGAIN, "");
    {
        const Lock held(lock_);
        first = !claims_.any_token();
        token = claims_.issue(claim, taker, monotonic_ns() + options_.token_seconds * kSecond);
    }
    if (first && token.ok()) wake();  // so that it computes its timeout again
    return token;
}

void Broker::Impl::settle_lending() {
    const Lock idle(sending_);
}

// The volume knows already.
void Broker::Impl::grant_released(HandleId handle, GrantId grant) {
    const Lock held(lock_);
    claims_.end(handle, grant);
}

void Broker::Impl::handle_released(HandleId handle) {
    std::vector<Claim> unused;
    {
        const Lock held(lock_);
        unused = claims_.end_handle(handle);
    }
    for (const Claim &claim : unused) drop(volume_, claim);
}

void Broker::Impl::lease_breaking(HandleId handle, GrantId grant, std::uint32_t milliseconds) {
    const pmfs_broker_event event{.magic = PMFS_BROKER_MAGIC,
                                  .version = PMFS_BROKER_VERSION,
                                  .kind = PMFS_BROKER_EVENT_BREAK,
                                  .milliseconds = milliseconds,
                                  .grant = grant};
    const Lock held(lock_);
    claims_.send(handle, grant, &event, sizeof event);
}

// --- Broker -----------------------------------------------------------------------------------

Broker::Broker(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Broker::~Broker() = default;

Result<std::unique_ptr<Broker>> Broker::start(Volume &volume, BrokerOptions options) {
    auto impl = std::make_unique<Impl>(volume, std::move(options));
    TRY(impl->start());
    return std::unique_ptr<Broker>(new Broker(std::move(impl)));
}

const std::string &Broker::socket_path() const {
    return impl_->path();
}
std::uint64_t Broker::epoch() const {
    return impl_->epoch();
}
Result<> Broker::may_map(const Caller &caller) const {
    return impl_->may_map(caller);
}
bool Broker::is_trusted(const Caller &caller) const {
    return impl_->is_trusted(caller);
}
Result<BrokerToken> Broker::issue(const BrokerClaim &claim, const Caller &taker) {
    return impl_->issue(claim, taker);
}

void Broker::grant_released(HandleId handle, GrantId grant) {
    impl_->grant_released(handle, grant);
}
void Broker::handle_released(HandleId handle) {
    impl_->handle_released(handle);
}

}  // namespace pmfs::front
