// The dispatcher: libfuse's low-level session, fed by hand.
//
// A transport gives it whole requests; libfuse decodes them and calls the operations (ops.h); what
// they reply goes to the port that the request came by.  This class also does what the library
// cannot: it patches replies with flags newer than libfuse 3.14 (only those that the kernel
// offered), and it puts requests aside.
//
// A server thread never waits.  A request that cannot go on is put aside as the bytes it came as,
// with the place of its operation (volume/progress.h), and is dispatched again: so every operation
// can be parked, and none knows how.
#pragma once
#include <linux/fuse.h>

#include <array>
#include <atomic>
#include <memory>
#include <unordered_map>
#include <vector>

#include "base/bytes.h"
#include "base/mutex.h"
#include "front/requests/fuse_api.h"
#include "front/requests/ioctl.h"
#include "front/requests/notifier.h"
#include "front/transports/transport.h"
#include "pm/no_waiting.h"
#include "volume/volume.h"

namespace pmfs::front {

struct DispatchOptions {
    double attr_timeout_s = 3600;   // how long the kernel may believe attributes,
    double entry_timeout_s = 3600;  // and names, also absent ones
    bool writeback = false;         // the kernel keeps written data (docs/posix.md)
    // mount(8)'s `sync` and `dirsync`: changes, or those of directories, are on the disk when they
    // are answered.
    bool sync = false, dirsync = false;
};

class Request;

class Dispatcher final : public AttributeWatcher {
public:
    // Errors: ENOMEM, and what libfuse has to say.
    static Result<std::unique_ptr<Dispatcher>> create(Volume &volume,
                                                      const DispatchOptions &options);
    // Only when no transport runs and the volume is closed, so that nothing is put aside any more.
    ~Dispatcher() override;

    // Handles one whole request; the reply may come later.  `message` must be writable (libfuse
    // takes it so) and may be used again when the call returns.  It may hold anything: what is not
    // a whole request of its kind, or names what the client does not hold, is refused.
    void dispatch(ReplyPort &port, Bytes message) { dispatch(port, message, false, {}, 0); }

    // INIT was answered, and not with an error.
    bool ready() const { return ready_.load(std::memory_order_acquire); }
    // Where notifications go: the transport whose kernel keeps caches for us.
    void set_notification_port(ReplyPort *port) { notification_port_ = port; }
    // Who hands out the device for direct mappings; null: nobody.  Must outlive all requests.
    void set_broker(Broker *broker) { ioctls_.broker = broker; }

    // Before the volume closes: runs every notification that is due, and sends none from then on.
    void finish_notifications() { notifier_->finish(); }

    // AttributeWatcher
    void attributes_changed(InodeNo ino) override {
        notifier_->forget_attributes(ino, [] {});
    }

    // --- for operations
    static Dispatcher &of(fuse_req_t req);
    Volume &volume() { return volume_; }
    const DispatchOptions &options() const { return options_; }
    IoctlContext &ioctls() { return ioctls_; }
    // False when the kernel opens directories without asking, if only it is told so.
    bool opendir_needed() const { return opendir_needed_; }

    // True when `result` holds a value and no access hit a bad page, so that the caller replies.
    // Otherwise the request was answered with the error, or put aside, and `req` is gone: what the
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
    // Answers with an error, or puts the request aside when it says so.  `req` is gone.
    void fail(fuse_req_t req, const Error &error);
    // True when the kernel's dirty pages of that range were written back for this request.  If not,
    // the request was put aside for that and `req` is gone: return, it will be run again.
    bool flushed(fuse_req_t req, const Notifier::Pages &pages);
    // Too many wait already: a request of the background kind (a read, a write) must not.
    bool crowded() { return notifier_->crowded(); }
    // Runs `reply` once the kernel does not believe any more what is `stale`; `written`: of which
    // bytes its pages are.
    void tell(fuse_req_t req, Stale stale, const Notifier::Pages &written,
              std::function<void()> reply);
    // A completion that answers `req` with success or an error, from whatever thread.
    Completion answer_later(fuse_req_t req);
    // A handle was released: its grants have ended.
    void released(HandleId handle);

private:
    Dispatcher(Volume &volume, const DispatchOptions &options);
    struct Aside {  // a request that waits
        ReplyPort &port;
        std::vector<std::byte> message;
        Progress progress;
    };
    void dispatch(ReplyPort &port, Bytes message, bool flushed, Progress progress,
                  unsigned read_ins);
    bool read_in(fuse_req_t req);
    void run(Aside &aside, bool flushed);
    static std::shared_ptr<Aside> put_aside(fuse_req_t req);
    static std::shared_ptr<Aside> copy_of(const Request &request);
    int objection(ConstBytes message);
    static void refuse(const Request &request, int error);
    void interrupt(const Request &request);
    static void interrupted(ReplyPort &port, std::uint64_t unique);
    void statx(const Request &request);
    bool start_waiting(std::uint64_t unique, std::shared_ptr<Aside> aside) EXCLUDES(waiting_mutex_);
    std::shared_ptr<Aside> stop_waiting(std::uint64_t unique) EXCLUDES(waiting_mutex_);
    bool must_be_durable(const Request &request) const;
    ssize_t reply_when_durable(const Request &request, std::span<const iovec> reply);
    static ssize_t write_reply(int fd, iovec *iov, int count, void *userdata);
    static void on_init(void *userdata, fuse_conn_info *connection);
    void patch_reply(std::span<iovec> reply);
    void patch_init(const fuse_init_in &offer, fuse_init_out &reply);

    Volume &volume_;
    const DispatchOptions options_;
    std::atomic<bool> ready_{false};
    bool opendir_needed_ = true;              // settled by INIT
    ReplyPort *notification_port_ = nullptr;  // set before the first request
    fuse_session *session_ = nullptr;
    std::unique_ptr<Notifier> notifier_;
    IoctlContext ioctls_;

    Mutex waiting_mutex_;
    // Those that wait for leases or for another operation, by `unique`.
    std::unordered_map<std::uint64_t, std::shared_ptr<Aside>> waiting_ GUARDED_BY(waiting_mutex_);
    // The last ones that were interrupted and did not wait: they may be about to.
    std::array<std::uint64_t, 256> interrupted_ GUARDED_BY(waiting_mutex_) = {};
    std::size_t interrupted_next_ GUARDED_BY(waiting_mutex_) = 0;
};

}  // namespace pmfs::front
