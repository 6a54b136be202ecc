// The dispatcher: libfuse's low-level session, fed by hand. Each client has one.
//
// A transport gives it whole requests; libfuse decodes them and calls the operations (ops.h); their
// replies go to the port that the request came from. This class also does what the library cannot:
// it patches replies with flags that are newer than libfuse 3.14 (only those that the kernel
// offered), and it parks requests.
//
// A server thread never waits. A request that cannot go on is kept as the bytes in which it came,
// with the progress of its operation (volume/progress.h), and is dispatched again later. So every
// operation can be parked, and none has code for it.
#pragma once
#include <linux/fuse.h>

#include <array>
#include <atomic>
#include <memory>
#include <unordered_map>
#include <vector>

#include "base/bytes.h"
#include "base/mutex.h"
#include "front/clients/clients.h"
#include "front/requests/fuse_api.h"
#include "front/requests/ioctl.h"
#include "front/requests/request.h"
#include "front/transports/transport.h"
#include "pm/no_waiting.h"
#include "volume/volume.h"

namespace pmfs::front {

// A sentence for the log, of what an administrator should know and not every client can cause.
void log_damage(const Error &error);

struct DispatchOptions {
    double attr_timeout_s = 3600;   // how long the kernel may believe attributes,
    double entry_timeout_s = 3600;  // and names, also absent ones
    bool writeback = false;         // the kernel keeps written data (docs/posix.md)
    // mount(8)'s `sync` and `dirsync`: changes, or those of directories, are on the disk when they
    // are answered.
    bool sync = false, dirsync = false;
    // The client has a DAX window: sealed files are mapped there, and of others those that it
    // chooses.
    bool dax = false;
};

class Dispatcher final : public std::enable_shared_from_this<Dispatcher> {
public:
    // For a client that `clients` has admitted; they must outlive it.  It lives as long as anything
    // that was parked.  Errors: ENOMEM, and what libfuse has to say.
    static Result<std::shared_ptr<Dispatcher>> create(Clients &clients,
                                                      std::shared_ptr<Client> client,
                                                      const DispatchOptions &options);
    ~Dispatcher();

    // Handles one whole request; the reply may come later.  `message` must be writable (libfuse
    // takes it so) and may be used again when the call returns.  It may hold anything: what is not
    // a whole request of its kind, or names what the client does not hold, is refused.  `apart`:
    // where the payload of a WRITE lies, if not in the message; as long as the port lives.
    void dispatch(const Port &port, Bytes message, std::span<const iovec> apart = {});
    // The port must live until leave(), or until the volume is closed.
    void dispatch(ReplyPort &port, Bytes message) {
        dispatch(Port(std::shared_ptr<void>(), &port), message);
    }

    // The client has gone: its requests that wait are dropped, no port hears any more, and what it
    // held is given back.  Once, and not by what dispatch() calls.  A client whose kernel is told
    // of changes leaves when no thread is in dispatch(); of another, what comes later is dropped.
    void leave();
    // What waits for somebody, and keeps this here, is dropped: nobody hears an answer any more.
    void drop_waiting() EXCLUDES(waiting_mutex_);
    // Whatever waits for somebody is answered, with EINTR, as if the client had asked for that.
    // Locks with ENOLCK: of EINTR the kernel makes ERESTARTSYS, which comes out as errno 512 where
    // no signal is pending.
    void interrupt_all() EXCLUDES(waiting_mutex_);

    // INIT was answered, and not with an error.
    bool ready() const { return ready_.load(std::memory_order_acquire); }
    // DESTROY has come: everything was given back, and libfuse takes no other INIT.  For what the
    // client sends from now on, leave(), and make another one.
    bool ended() const { return ended_.load(std::memory_order_acquire); }
    // Before INIT: the transport has rings for requests.  Whether the kernel will use them shows
    // when INIT was answered.
    void offer_rings() { rings_offered_ = true; }
    bool rings_agreed() const { return rings_agreed_; }
    // Where notifications go: the transport whose kernel keeps caches for us.
    void set_notification_port(ReplyPort *port) { notification_port_ = port; }
    // Who hands out the device for direct mappings; null: nobody.  Must outlive all requests.
    void set_broker(Broker *broker) { ioctls_.broker = broker; }

    // Before the volume closes: runs every notification that is due, and sends none from then on.
    void finish_notifications() {
        if (client_->notifier() != nullptr) client_->notifier()->finish();
    }

    // --- for operations
    static Dispatcher &of(fuse_req_t req);
    Volume &volume() { return volume_; }
    Client &client() { return *client_; }
    FileLocks &locks() { return clients_.locks(); }
    const DispatchOptions &options() const { return options_; }
    // How long the client's kernel may believe what the current request read, if so long.
    double timeout(double seconds) const;
    IoctlContext &ioctls() { return ioctls_; }
    // What was answered to this client is safe from a power cut, and its kernel keeps nothing in
    // its CPUs' caches (as a guest's window may): on a DAX medium there is nothing to sync.
    bool answered_is_durable() const {
        return client_->policy().is_host && !volume_.region().is_image();
    }
    // False when the kernel opens directories without asking, if only it is told so.
    bool opendir_needed() const { return opendir_needed_; }
    // Its kernel maps every file into its window (mount -o dax=always), so none of its opens goes
    // through a page cache.
    bool maps_all() const { return maps_all_; }
    // ... or at least sealed ones (mark_dax), which then are in no page cache of it.
    bool maps_sealed() const { return maps_sealed_; }

    // True when `result` holds a value and no access hit a bad page, so that the caller replies.
    // Otherwise the request was answered with the error, or parked, and `req` is gone: what the
    // volume counted for a value that nobody gets has to be given back.
    template <class T>
    bool proceed(fuse_req_t req, const Result<T> &result) {
        if (bad_page(req)) return false;
        if (result.ok()) [[likely]]
            return true;
        fail(req, result.error());
        return false;
    }
    // True when an access of this request hit a bad page, whatever came of it: what was read there
    // is zeroes.  It was answered with EIO and `req` is gone.  So it is, too, when the request met
    // a page that was not in memory (pm/no_waiting.h): it was run again.
    bool bad_page(fuse_req_t req) {
        if (pm::NoWaiting::met()) return read_in(req);
        if (!pm::take_fault()) [[likely]]
            return false;
        fail(req, Error(EIO, "the medium has a bad page here"));
        return true;
    }
    // Answers with an error, or parks the request if the error says so.  `req` is gone.
    void fail(fuse_req_t req, const Error &error);
    // The current request is going to wait: for a lease's holder, or for what ends without a
    // request of this client's, unless it is its kernel's write-back.  False: it must not, for too
    // many do; EAGAIN, then.
    bool takes_seat(bool for_lease = false);
    // The same for what has a copy of it, once the request itself is not at hand any more.
    std::function<Seats::Seat()> seats_for_current(bool for_lease = false);
    // True when all dirty pages of that range that a kernel can be asked for were written back for
    // this request.  If not, the request was parked for that, or answered if it may not wait, and
    // `req` is gone: return, it will be run again.  `wished`: rather than that it is not to wait.
    bool flushed(fuse_req_t req, const Notifier::Pages &pages, bool wished = false);
    // What a kernel has to write back before it hears these attributes of an inode, because
    // st_blocks counts that, too; nothing: nothing, or it needs them more than it needs st_blocks.
    Result<std::optional<Notifier::Pages>> unseen_pages(Attr &attr);
    // Too many wait already: a request of the background kind (a read, a write) must not.
    bool crowded() { return client_->notifier() != nullptr && client_->notifier()->crowded(); }
    // Runs `reply` once the client's kernel does not believe any more what is `stale`; `written`:
    // of which bytes its pages are.
    void tell(fuse_req_t req, Stale stale, const Notifier::Pages &written,
              std::function<void()> reply);
    // The mode is another one, and the request's answer does not tell the client's kernel.
    void mode_changed(InodeNo ino) {
        if (client_->notifier() != nullptr) client_->owe_attributes(ino);
    }
    // True when what this client changes is news for another one's kernel, which hears it by
    // tell_others() before `reply` runs.
    bool others_hear() { return clients_.others_hear(*client_); }
    void tell_others(fuse_req_t req, const News &news, std::function<void()> reply);
    // What answers the current request by `reply`, later and from whatever thread.
    template <class Reply>
    auto answering(Reply reply) {
        const Request &request = *Request::current();
        return [self = shared_from_this(), header = load<fuse_in_header>(request.message()),
                port = request.port(), told = request.told(),
                reply = std::move(reply)](const auto &...with) {
            const Late late(*self);
            const Request answering(port, bytes_of(header), true, told);
            reply(with...);
        };
    }
    // A completion that answers `req` with success or an error, from whatever thread.
    Completion answer_later(fuse_req_t req);
    // Answers when the client has the lock, or may not have it; with `waits` that may be later.
    void lock(fuse_req_t req, const LockRequest &wanted, bool waits);
    // Of the current request, which sets an access control list.
    bool drops_setgid(const Caller &caller) const;  // newer.cc
    // Of one that clears set-id bits of a file.
    bool kills_any_setgid(InodeNo ino, const Caller &caller);  // newer.cc
    // A handle of the client's is released, and its grants and locks end.
    void released(HandleId handle);

private:
    Dispatcher(Clients &clients, std::shared_ptr<Client> client, const DispatchOptions &options);
    struct Aside {  // a request that waits
        Port port;
        std::vector<std::byte> message;
        std::vector<iovec> apart;
        Progress progress;
        std::shared_ptr<FileLocks::Wait> lock;  // null: it waits for something else
        Seats::Seat seat;
    };
    // What is done for a request after dispatch() has returned.  leave() waits for those.
    class Late {
    public:
        explicit Late(Dispatcher &dispatcher) : dispatcher_(dispatcher) { ++dispatcher_.late_; }
        ~Late() {
            if (--dispatcher_.late_ == 0) dispatcher_.late_.notify_all();
        }
        Late(const Late &) = delete;
        Late &operator=(const Late &) = delete;

    private:
        Dispatcher &dispatcher_;
    };
    void dispatch(const Port &port, Bytes message, std::span<const iovec> apart, bool flushed,
                  Progress progress, Seats::Seat seat, unsigned read_ins);
    bool read_in(fuse_req_t req);
    using Waiting = std::unordered_map<std::uint64_t, std::shared_ptr<Aside>>;
    Waiting take_waiting() EXCLUDES(waiting_mutex_);
    void give_back_all();
    void run(Aside &aside, bool flushed);
    bool flush(const Notifier::Pages &pages, std::uint32_t user,
               const std::function<std::shared_ptr<Aside>()> &put_aside);
    static std::shared_ptr<Aside> put_aside(fuse_req_t req);
    static std::shared_ptr<Aside> copy_of(const Request &request);
    int objection(ConstBytes message);
    static void refuse(const Request &request, int error);
    void interrupt(const Request &request);
    static void answer(const Port &port, std::uint64_t unique, int error);
    void give_up(Aside &aside, std::uint64_t unique, int error);
    void wait_for_lock(fuse_req_t req, const LockRequest &wanted);
    Notifier::Kernel kernel();
    void statx(const Request &request);            // newer.cc
    void sync_filesystem(const Request &request);  // newer.cc
    bool start_waiting(std::uint64_t unique, std::shared_ptr<Aside> aside) EXCLUDES(waiting_mutex_);
    std::shared_ptr<Aside> stop_waiting(std::uint64_t unique, const FileLocks::Wait *lock = nullptr)
        EXCLUDES(waiting_mutex_);
    bool must_be_durable(const Request &request) const;
    ssize_t reply_when_durable(const Request &request, std::span<const iovec> reply);
    static ssize_t write_reply(int fd, iovec *iov, int count, void *userdata);
    static void on_init(void *userdata, fuse_conn_info *connection);
    void patch_reply(std::span<iovec> reply);
    void mark_dax(fuse_attr &attr);
    void patch_init(const fuse_init_in &offer, fuse_init_out &reply);

    Clients &clients_;
    Volume &volume_;
    const std::shared_ptr<Client> client_;
    const DispatchOptions options_;
    std::atomic<unsigned> late_{0};
    std::atomic<bool> ended_{false};
    std::atomic<bool> ready_{false};
    bool opendir_needed_ = true;  // settled by INIT
    bool maps_all_ = false;       // by INIT, as are the next ones
    bool maps_sealed_ = false;
    bool long_setxattr_ = false;
    bool rings_offered_ = false;
    bool rings_agreed_ = false;               // by INIT
    ReplyPort *notification_port_ = nullptr;  // set before the first request
    fuse_session *session_ = nullptr;
    IoctlContext ioctls_;

    Mutex waiting_mutex_;
    // Those that wait for leases, locks or another operation, by `unique`.
    Waiting waiting_ GUARDED_BY(waiting_mutex_);
    // The last ones that were interrupted and did not wait: they may be about to.
    std::array<std::uint64_t, 256> interrupted_ GUARDED_BY(waiting_mutex_) = {};
    std::size_t interrupted_next_ GUARDED_BY(waiting_mutex_) = 0;
};

}  // namespace pmfs::front
