// The dispatcher: libfuse's low-level session, fed by hand.
//
// A transport gives it whole requests; libfuse decodes them and calls the operations (ops.h); what
// they reply goes to the port that the request came by.  This class also does what the library
// cannot: it patches replies with flags newer than libfuse 3.14 (only those that the kernel
// offered), and it puts requests aside.
//
// A server thread never waits.  An operation that cannot go on is put aside as the bytes it came
// as, and dispatched again from its start: so every operation can be parked, and none knows how.
#pragma once
#include <linux/fuse.h>

#include <array>
#include <atomic>
#include <memory>
#include <unordered_map>

#include "base/bytes.h"
#include "base/mutex.h"
#include "front/fuse_api.h"
#include "front/ioctl.h"
#include "front/notifier.h"
#include "front/transport.h"
#include "volume/volume.h"

namespace pmfs::front {

struct DispatchOptions {
    double attr_timeout_s = 3600;   // how long the kernel may believe attributes,
    double entry_timeout_s = 3600;  // and names, also absent ones
    bool writeback = false;         // the kernel keeps written data (docs/posix.md)
};

class Request;

class Dispatcher {
public:
    // Errors: ENOMEM, and what libfuse has to say.
    static Result<std::unique_ptr<Dispatcher>> create(Volume &volume,
                                                      const DispatchOptions &options);
    // Only when no transport runs and the volume is closed, so that nothing is put aside any more.
    ~Dispatcher();

    // Handles one whole request; the reply may come later.  `message` must be writable (libfuse
    // takes it so) and may be used again when the call returns.
    void dispatch(ReplyPort &port, Bytes message) { dispatch(port, message, false); }

    // INIT was answered, and not with an error.
    bool ready() const { return ready_.load(std::memory_order_acquire); }
    // Where notifications go: the transport whose kernel keeps caches for us.
    void set_notification_port(ReplyPort *port) { notification_port_ = port; }
    // Who hands out the device for direct mappings; null: nobody.  Must outlive all requests.
    void set_broker(Broker *broker) { ioctls_.broker = broker; }

    // Before the volume closes: runs every notification that is due, and sends none from then on.
    void finish_notifications() { notifier_.reset(); }

    // --- for operations
    static Dispatcher &of(fuse_req_t req);
    Volume &volume() { return volume_; }
    const DispatchOptions &options() const { return options_; }
    IoctlContext &ioctls() { return ioctls_; }
    // False when the kernel opens directories without asking, if only it is told so.
    bool opendir_needed() const { return opendir_needed_; }

    // True when `result` holds a value and no access hit a bad page, so that the caller replies.
    // Otherwise the request was answered with the error, or put aside, and `req` is gone.
    template <class T>
    bool proceed(fuse_req_t req, const Result<T> &result) {
        if (result.ok() && !pm::take_fault()) [[likely]]
            return true;
        fail(req, result.ok() ? Error(EIO, "the medium has a bad page here") : result.error());
        return false;
    }
    // Answers with an error, or puts the request aside when it says so.  `req` is gone.
    void fail(fuse_req_t req, const Error &error);
    // True when the kernel's dirty pages of `ino` were written back for this request.  If not, the
    // request was put aside for that and `req` is gone: return, it will be run again.
    bool flushed(fuse_req_t req, InodeNo ino);
    // A completion that answers `req` with success or an error, from whatever thread.
    Completion answer_later(fuse_req_t req);
    // A handle was released: its grants have ended.
    void released(HandleId handle);

private:
    Dispatcher(Volume &volume, const DispatchOptions &options);
    void dispatch(ReplyPort &port, Bytes message, bool flushed);
    static std::function<void(bool flushed)> put_aside(fuse_req_t req);
    bool interrupt(const Request &request);
    void statx(const Request &request);
    bool start_waiting(std::uint64_t unique, ReplyPort &port) EXCLUDES(waiting_mutex_);
    ReplyPort *stop_waiting(std::uint64_t unique) EXCLUDES(waiting_mutex_);
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
    // Those that wait for leases, by `unique`, and where each is to be answered.
    std::unordered_map<std::uint64_t, ReplyPort *> waiting_ GUARDED_BY(waiting_mutex_);
    // The last ones that were interrupted and did not wait: they may be about to.
    std::array<std::uint64_t, 256> interrupted_ GUARDED_BY(waiting_mutex_) = {};
    std::size_t interrupted_next_ GUARDED_BY(waiting_mutex_) = 0;
};

}  // namespace pmfs::front
