// The dispatcher: libfuse's low-level session, fed by hand. Each client has one.
//
// A transport gives it whole requests; libfuse decodes them and calls the operations (ops.h); their
// replies go to the port that the request came from. This class also does what the library cannot:
// it patches replies with flags that are newer than libfuse 3.14 (only those that the kernel
// offered), and it parks requests.
//
// A server thread never waits. A request that cannot continue is kept as the bytes in which it
// came, with the progress of its operation (volume/progress.h), and is dispatched again later. So
// every operation can be parked, and none has code for it.
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

// Logs a sentence that an administrator should read; not for events that any client can cause.
void log_damage(const Error &error);

struct DispatchOptions {
    double attr_timeout_s = 3600;   // how long the kernel may cache attributes,
    double entry_timeout_s = 3600;  // and names, also absent ones
    bool writeback = false;         // the kernel keeps written data (docs/posix.md)
    // `sync` and `dirsync` of mount(8): changes, or changes of directories, are answered only when
    // they are on the disk.
    bool sync = false, dirsync = false;
    // The client has a DAX window: it maps sealed files, and others if it chooses to.
    bool dax = false;
};

class Dispatcher final : public std::enable_shared_from_this<Dispatcher> {
public:
    // For a client that `clients` has admitted; they must outlive it.  It lives as long as any
    // parked request.  Errors: ENOMEM, and those of libfuse.
    static Result<std::shared_ptr<Dispatcher>> create(Clients &clients,
                                                      std::shared_ptr<Client> client,
                                                      const DispatchOptions &options);
    ~Dispatcher();

    // Handles one whole request; the reply may come later.  `message` must be writable (libfuse
    // takes it so) and may be used again when the call returns.  It may contain anything: a message
    // that is not a whole request of its kind, or that names what the client does not hold, is
    // refused.  `apart`: the payload of a WRITE, if it is not in the message; valid as long as the
    // port lives.
    void dispatch(const Port &port, Bytes message, std::span<const iovec> apart = {});
    // The port must live until leave(), or until the volume is closed.
    void dispatch(ReplyPort &port, Bytes message) {
        dispatch(Port(std::shared_ptr<void>(), &port), message);
    }

    // The client has gone: its waiting requests are dropped, nothing is sent to a port any more,
    // and everything that it held is released.  To be called once, and not from inside dispatch().
    // For a client whose kernel is notified of changes, no thread may be in dispatch(); for others,
    // later requests are dropped.
    void leave();
    // Releases everything that the client holds, after its last request.  (A kernel that unmounts
    // sends FORGET and RELEASE, but the connection may end before they are read.)
    void give_back_all();
    // Drops waiting requests, which keep this object alive, without answers.
    void drop_waiting() EXCLUDES(waiting_mutex_);
    // Answers all waiting requests with EINTR, as if the client had interrupted them. Locks get
    // ENOLCK: the kernel turns EINTR into ERESTARTSYS, which a program sees as errno 512 if no
    // signal is pending.
    void interrupt_all() EXCLUDES(waiting_mutex_);

    // INIT was answered without an error.
    bool ready() const { return ready_.load(std::memory_order_acquire); }
    // DESTROY has come: everything was released, and libfuse accepts no other INIT.  For what the
    // client sends from now on, call leave() and create another dispatcher.
    bool ended() const { return ended_.load(std::memory_order_acquire); }
    // Before INIT: the transport has rings for requests.  Whether the kernel will use them is known
    // when INIT has been answered.
    void offer_rings() { rings_offered_ = true; }
    bool rings_agreed() const { return rings_agreed_; }
    // Where notifications go: the transport of the kernel that caches.
    void set_notification_port(ReplyPort *port) { notification_port_ = port; }
    // Hands out the device for direct mappings; null: there are none.  Must outlive all requests.
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
    // `seconds`, or less if the client's kernel may not cache for that long what the current
    // request read.
    double timeout(double seconds) const;
    IoctlContext &ioctls() { return ioctls_; }
    // Whatever this client was answered is safe from a power cut, and no stores of it are only in
    // CPU caches (as a guest's window may have): on a DAX medium there is nothing to sync.
    bool answered_is_durable() const {
        return client_->policy().is_host && !volume_.region().is_image();
    }
    // The kernel keeps what is written, and sizes.
    bool writeback() const { return options_.writeback; }
    // Its kernel maps every file into its window (mount -o dax=always), so none of its opens goes
    // through a page cache.
    bool maps_all() const { return maps_all_; }
    // ... or at least sealed ones (mark_dax), which then are not in its page cache.
    bool maps_sealed() const { return maps_sealed_; }

    // True when `result` holds a value and no access hit a bad page, so that the caller replies.
    // Otherwise the request was answered with the error, or parked, and `req` is gone: the caller
    // must release what the volume counted for a value that is not delivered.
    template <class T>
    bool proceed(fuse_req_t req, const Result<T> &result) {
        if (bad_page(req)) return false;
        if (result.ok()) [[likely]]
            return true;
        fail(req, result.error());
        return false;
    }
    // True when an access of this request hit a bad page, which reads as zeroes: the request was
    // answered with EIO and `req` is gone.  True also when it met a page that was not in memory
    // (pm/no_waiting.h): it was run again.
    bool bad_page(fuse_req_t req) {
        if (pm::NoWaiting::met()) return read_in(req);
        if (!pm::take_fault()) [[likely]]
            return false;
        fail(req, Error(EIO, "the medium has a bad page here"));
        return true;
    }
    // Answers with an error, or parks the request if the error says so.  `req` is gone.
    void fail(fuse_req_t req, const Error &error);
    // The current request is about to wait: for the holder of a lease, or for something that ends
    // without a request of this client, unless it is its kernel's write-back.  False: it must not,
    // because too many wait; answer EAGAIN.
    bool takes_seat(bool for_lease = false);
    // The same for code that has only a copy of the request.
    std::function<Seats::Seat()> seats_for_current(bool for_lease = false);
    // True when all dirty pages of that range that a kernel can be asked for were written back for
    // this request.  If not, the request was parked for that, or answered if it may not wait, and
    // `req` is gone: return, it will be run again.  `wished`: the flush may be left out if the
    // request cannot wait.
    bool flushed(fuse_req_t req, const Notifier::Pages &pages, bool wished = false);
    // The pages that a kernel must write back before these attributes are sent, because st_blocks
    // counts them, too; nothing: none, or the attributes are needed more than an exact st_blocks.
    Result<std::optional<Notifier::Pages>> unseen_pages(Attr &attr);
    // Too many wait already: a background request (a read, a write) must not wait.
    bool crowded() { return client_->notifier() != nullptr && client_->notifier()->crowded(); }
    // Runs `reply` once the client's kernel has dropped what is `stale`; `written`: the range of
    // its pages.
    void tell(fuse_req_t req, Stale stale, const Notifier::Pages &written,
              std::function<void()> reply);
    // Runs `reply` when the client's kernel has dropped these pages; may_wait() is true.
    void drop_first(fuse_req_t req, const Notifier::Pages &pages, std::function<void()> reply);
    // For a write past the cache whose pages have been dropped: if the kernel has written back
    // pages of the file since, perhaps with bytes from before it, it is executed again.
    void write_again(const Notifier::Pages &written, ConstBytes bytes, const Caller &caller,
                     std::uint64_t write_backs);
    // Whether the current request may wait for a notification.
    bool may_wait() { return client_->notifier() != nullptr && !crowded() && takes_seat(); }
    // The mode has changed, and the request's answer does not tell the client's kernel.
    void mode_changed(InodeNo ino) {
        if (client_->notifier() != nullptr) client_->owe_attributes(ino);
    }
    // True when another client's kernel must be told of changes of this client; tell_others() does
    // that before `reply` runs.
    bool others_hear() { return clients_.others_hear(*client_); }
    void tell_others(fuse_req_t req, const News &news, std::function<void()> reply);
    // A function that answers the current request with `reply`, later and from any thread.
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
    // A completion that answers `req` with success or an error, from any thread.
    Completion answer_later(fuse_req_t req);
    // Answers when the client has got the lock or was refused; with `waits`, possibly later.
    void lock(fuse_req_t req, const LockRequest &wanted, bool waits);
    // For the current request, which sets an access control list.
    bool drops_setgid(const Caller &caller) const;  // newer.cc
    // For a request that clears set-id bits of a file.
    bool kills_any_setgid(InodeNo ino, const Caller &caller);  // newer.cc
    // Releases a handle of the client, and ends its grants and locks.
    void released(HandleId handle);

private:
    Dispatcher(Clients &clients, std::shared_ptr<Client> client, const DispatchOptions &options);
    struct Parked {  // a waiting request
        Port port;
        std::vector<std::byte> message;
        std::vector<iovec> apart;
        Progress progress;
        std::shared_ptr<FileLocks::Wait> lock;  // null: it waits for something else
        Seats::Seat seat;
    };
    // Work for a request after dispatch() has returned.  leave() waits for it.
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
    using Waiting = std::unordered_map<std::uint64_t, std::shared_ptr<Parked>>;
    Waiting take_waiting() EXCLUDES(waiting_mutex_);
    void run(Parked &parked, bool flushed);
    bool flush(const Notifier::Pages &pages, std::uint32_t user,
               const std::function<std::shared_ptr<Parked>()> &park_current);
    static std::shared_ptr<Parked> park_current(fuse_req_t req);
    static std::shared_ptr<Parked> copy_of(const Request &request);
    int objection(ConstBytes message);
    static void refuse(const Request &request, int error);
    void interrupt(const Request &request);
    static void answer(const Port &port, std::uint64_t unique, int error);
    void give_up(Parked &parked, std::uint64_t unique, int error);
    // Ends a request that waits, and runs `then` once other clients' kernels know what it has done.
    void drop(Parked &parked, const std::function<void()> &then);
    void wait_for_lock(fuse_req_t req, const LockRequest &wanted);
    Notifier::Kernel kernel();
    void statx(const Request &request);            // newer.cc
    void sync_filesystem(const Request &request);  // newer.cc
    bool start_waiting(std::uint64_t unique, std::shared_ptr<Parked> parked)
        EXCLUDES(waiting_mutex_);
    std::shared_ptr<Parked> stop_waiting(std::uint64_t unique,
                                         const FileLocks::Wait *lock = nullptr)
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
    bool maps_all_ = false;  // by INIT, as are the next ones
    bool maps_sealed_ = false;
    bool long_setxattr_ = false;
    bool rings_offered_ = false;
    bool rings_agreed_ = false;               // by INIT
    ReplyPort *notification_port_ = nullptr;  // set before the first request
    fuse_session *session_ = nullptr;
    IoctlContext ioctls_;

    Mutex waiting_mutex_;
    // Requests that wait for leases, locks or another operation, by `unique`.
    Waiting waiting_ GUARDED_BY(waiting_mutex_);
    // The last requests that were interrupted and were not waiting: they may be about to wait.
    std::array<std::uint64_t, 256> interrupted_ GUARDED_BY(waiting_mutex_) = {};
    std::size_t interrupted_next_ GUARDED_BY(waiting_mutex_) = 0;
};

}  // namespace pmfs::front
