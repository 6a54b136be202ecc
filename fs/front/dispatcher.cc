// Between transports and operations: replies, refusals, and requests that are put aside.
#include "front/dispatcher.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include <algorithm>
#include <vector>

#include "front/broker.h"
#include "front/ops.h"
#include "front/request.h"
#include "front/statx.h"

namespace pmfs::front {
namespace {

constexpr unsigned kMaxWrite = 1u << 20;
constexpr unsigned kMaxBackground = 64;  // read-ahead and the like in flight, by the kernel

// libfuse asks for a read function and calls it only from loops that pmfs does not run.
ssize_t never_read(int, void *, std::size_t, void *) {
    errno = ENOSYS;
    return -1;
}

// Sentences for the log about what an administrator should know, and not what any client can cause.
void log_damage(const Error &error) {
    const int value = error.errno_value();
    if (value != EIO && value != EUCLEAN) return;
    spdlog::error("{} ({}:{})", error.what(), error.file(), error.line());
}

}  // namespace

Dispatcher::Dispatcher(Volume &volume, const DispatchOptions &options)
    : volume_(volume),
      options_(options),
      ioctls_{.volume = volume,
              .broker = nullptr,
              .flush =
                  [this](InodeNo ino, std::function<void()> then) {
                      notifier_->flush_then(ino, std::move(then));
                  },
              .writeback = options.writeback} {}

Result<std::unique_ptr<Dispatcher>> Dispatcher::create(Volume &volume,
                                                       const DispatchOptions &options) {
    std::unique_ptr<Dispatcher> dispatcher(new Dispatcher(volume, options));
    fuse_lowlevel_ops operations = front::operations();
    operations.init = on_init;

    char name[] = "pmfs";
    char *arguments[] = {name, nullptr};
    fuse_args args = FUSE_ARGS_INIT(1, arguments);
    dispatcher->session_ =
        fuse_session_new(&args, &operations, sizeof operations, dispatcher.get());
    fuse_opt_free_args(&args);  // the library has put its own copy there
    if (dispatcher->session_ == nullptr) return Error(ENOMEM, "libfuse gave no session");

    // The library wants a descriptor of its own; every message goes by a port instead.
    const int unused = ::open("/dev/null", O_RDWR | O_CLOEXEC);
    fuse_custom_io io{};
    io.writev = write_reply;
    io.read = never_read;
    if (unused < 0 || fuse_session_custom_io(dispatcher->session_, &io, unused) != 0) {
        if (unused >= 0) ::close(unused);
        return Error(EIO, "libfuse refused its input and output functions");
    }

    fuse_session *session = dispatcher->session_;
    dispatcher->notifier_ = std::make_unique<Notifier>(
        [session](InodeNo ino) { fuse_lowlevel_notify_inval_inode(session, ino.value(), 0, 0); });
    return dispatcher;
}

Dispatcher::~Dispatcher() {
    notifier_.reset();
    if (session_ != nullptr) fuse_session_destroy(session_);
}

Dispatcher &Dispatcher::of(fuse_req_t req) {
    return *static_cast<Dispatcher *>(fuse_req_userdata(req));
}

void Dispatcher::dispatch(ReplyPort &port, Bytes message, bool flushed) {
    const Request request(port, message, flushed);
    if (request.opcode() == FUSE_INTERRUPT && interrupt(request)) return;
    if (request.opcode() == kFuseStatx) return statx(request);
    fuse_buf buffer{};
    buffer.mem = message.data();
    buffer.size = message.size();
    fuse_session_process_buf(session_, &buffer);
}

void Dispatcher::fail(fuse_req_t req, const Error &error) {
    if (!must_park(error)) {
        log_damage(error);
        fuse_reply_err(req, error.errno_value());
        return;
    }
    const bool flushed = Request::current()->flushed();
    if (error.errno_value() == kParkErrno)
        return volume_.when_ready(error, [run = put_aside(req), flushed] { run(flushed); });
    // This may take as long as a lease's holder likes to, so the one who waits can be interrupted.
    const std::uint64_t unique = load<fuse_in_header>(Request::current()->message()).unique;
    if (!start_waiting(unique, Request::current()->port())) {
        fuse_reply_err(req, EINTR);
        return;
    }
    const auto run = put_aside(req);
    volume_.when_ready(error, [this, unique, run, flushed] {
        if (stop_waiting(unique) != nullptr) run(flushed);
    });
}

// False: it was interrupted on its way here.
bool Dispatcher::start_waiting(std::uint64_t unique, ReplyPort &port) {
    Lock held(waiting_mutex_);
    const auto found = std::find(interrupted_.begin(), interrupted_.end(), unique);
    if (found != interrupted_.end()) return false;
    waiting_.emplace(unique, &port);
    return true;
}

// Null: it does not wait.
ReplyPort *Dispatcher::stop_waiting(std::uint64_t unique) {
    Lock held(waiting_mutex_);
    const auto found = waiting_.find(unique);
    if (found == waiting_.end()) return nullptr;
    ReplyPort *port = found->second;
    waiting_.erase(found);
    return port;
}

// True when the request was about one that waits for a lease, which was answered with EINTR: by the
// port that it came by, for the kernel takes a reply nowhere else.
bool Dispatcher::interrupt(const Request &request) {
    const std::uint64_t unique = request.argument<fuse_interrupt_in>().unique;
    ReplyPort *port = nullptr;
    {
        Lock held(waiting_mutex_);
        const auto found = waiting_.find(unique);
        if (found == waiting_.end()) {
            interrupted_[interrupted_next_++ % interrupted_.size()] = unique;
            return false;
        }
        port = found->second;
        waiting_.erase(found);
    }
    fuse_out_header header{sizeof header, -EINTR, unique};
    const iovec piece{&header, sizeof header};
    (void)port->send(std::span(&piece, 1));  // fails only when the connection has ended
    return true;
}

// In the library's place, which would answer ENOSYS.
void Dispatcher::statx(const Request &request) {
    const auto header = load<fuse_in_header>(request.message());
    Result<Attr> attr = volume_.getattr(InodeNo(header.nodeid));
    if (pm::take_fault()) attr = Error(EIO, "the medium has a bad page here");
    if (!attr.ok()) log_damage(attr.error());
    StatxOut body{};
    if (attr.ok()) body = to_statx(attr.value(), options_.attr_timeout_s);
    fuse_out_header head{sizeof head, 0, header.unique};
    if (attr.ok())
        head.len += sizeof body;
    else
        head.error = -attr.error().errno_value();
    const iovec pieces[] = {{&head, sizeof head}, {&body, sizeof body}};
    // Fails only when the connection has ended.
    (void)request.port().send(std::span(pieces, attr.ok() ? 2 : 1));
}

bool Dispatcher::flushed(fuse_req_t req, InodeNo ino) {
    if (Request::current()->flushed()) return true;
    notifier_->flush_then(ino, [run = put_aside(req)] { run(true); });
    return false;
}

// Takes a copy of the current request and gives `req` back to libfuse unanswered.  What it returns
// dispatches the copy: libfuse makes a new `req` of it, with the same identity for the kernel.
std::function<void(bool)> Dispatcher::put_aside(fuse_req_t req) {
    const Request *request = Request::current();
    PMFS_ASSERT(request != nullptr && !request->message().empty());
    const ConstBytes message = request->message();
    auto copy = std::make_shared<std::vector<std::byte>>(message.begin(), message.end());
    Dispatcher &dispatcher = of(req);
    ReplyPort &port = request->port();
    fuse_reply_none(req);
    return [&dispatcher, &port, copy](bool flushed) { dispatcher.dispatch(port, *copy, flushed); };
}

Completion Dispatcher::answer_later(fuse_req_t req) {
    PMFS_ASSERT(Request::current() != nullptr);
    ReplyPort &port = Request::current()->port();
    return [req, &port](Result<> result) {
        const Request answering(port);
        if (!result.ok()) log_damage(result.error());
        fuse_reply_err(req, result.ok() ? 0 : result.error().errno_value());
    };
}

void Dispatcher::released(HandleId handle) {
    // First the grants of which nobody took the device; the volume takes the others for mapped.
    if (ioctls_.broker != nullptr) ioctls_.broker->handle_released(handle);
    volume_.release(handle);
}

// --- what goes out

ssize_t Dispatcher::write_reply(int, iovec *iov, int count, void *userdata) {
    auto &self = *static_cast<Dispatcher *>(userdata);
    const std::span<iovec> reply(iov, static_cast<std::size_t>(count));
    const auto *header = static_cast<const fuse_out_header *>(iov[0].iov_base);
    const bool notification = header->unique == 0;
    const Request *request = Request::current();
    PMFS_ASSERT(notification || request != nullptr);
    ReplyPort *port = notification ? self.notification_port_ : &request->port();
    if (port == nullptr) {
        errno = ENOTCONN;
        return -1;
    }
    if (!notification && header->error == 0) self.patch_reply(reply);
    const ssize_t sent = port->send(reply);
    if (sent >= 0) return sent;
    // ENOENT: the kernel no longer wants this reply.  ENODEV: the connection has ended.  EFAULT:
    // the reply's bytes are on a bad page, and the kernel has answered EIO in our place.
    if (errno == EFAULT) spdlog::error("the medium has a bad page under a file that was read");
    if (!notification && (errno == ENODEV || errno == EFAULT)) errno = ENOENT;
    return -1;
}

void Dispatcher::patch_reply(std::span<iovec> reply) {
    const Request &request = *Request::current();
    if (request.opcode() == FUSE_INIT) {
        PMFS_ASSERT(reply.size() == 2 && reply[1].iov_len <= sizeof(fuse_init_out));
        // The kernel is at least as new as 5.x, so the reply is whole (minor 23 and up).
        patch_init(request.argument<fuse_init_in>(),
                   *static_cast<fuse_init_out *>(reply[1].iov_base));
        ready_.store(true, std::memory_order_release);
        return;
    }
    const bool opens = request.opcode() == FUSE_OPEN || request.opcode() == FUSE_CREATE;
    if (!opens) return;
    // Both end with a fuse_open_out.  Direct writes need no order among themselves from the kernel:
    // the volume gives each its own.
    iovec &last = reply.back();
    PMFS_ASSERT(last.iov_len >= sizeof(fuse_open_out));
    auto *opened = reinterpret_cast<fuse_open_out *>(static_cast<std::byte *>(last.iov_base) +
                                                     last.iov_len - sizeof(fuse_open_out));
    if (opened->open_flags & FOPEN_DIRECT_IO) opened->open_flags |= FOPEN_PARALLEL_DIRECT_WRITES;
}

// --- what is agreed at the start

void Dispatcher::on_init(void *userdata, fuse_conn_info *connection) {
    auto &self = *static_cast<Dispatcher *>(userdata);
    const auto want = [connection](unsigned capability, bool wanted) {
        connection->want &= ~capability;
        if (wanted) connection->want |= connection->capable & capability;
    };
    connection->max_write = kMaxWrite;
    connection->max_background = kMaxBackground;
    connection->congestion_threshold = kMaxBackground * 3 / 4;
    connection->time_gran = 1;
    // A splice of memory is three times slower than a copy (measured).
    want(FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE, false);
    // Files change only through this kernel or with its cache told, so a new modification time is
    // no reason to drop pages.
    want(FUSE_CAP_AUTO_INVAL_DATA, false);
    want(FUSE_CAP_EXPLICIT_INVAL_DATA, true);
    want(FUSE_CAP_HANDLE_KILLPRIV, false);  // its successor: see patch_init
    want(FUSE_CAP_EXPORT_SUPPORT | FUSE_CAP_CACHE_SYMLINKS, true);
    want(FUSE_CAP_WRITEBACK_CACHE, self.options_.writeback);
    self.opendir_needed_ = (connection->capable & FUSE_CAP_NO_OPENDIR_SUPPORT) == 0;
}

void Dispatcher::patch_init(const fuse_init_in &offer, fuse_init_out &reply) {
    // KILLPRIV_V2: the volume clears set-id bits, so that the kernel need not ask for an xattr
    // before each write.  PARALLEL_DIROPS: libfuse 3.14 forgets to pass it on.
    reply.flags |= offer.flags & (FUSE_HANDLE_KILLPRIV_V2 | FUSE_PARALLEL_DIROPS);
}

}  // namespace pmfs::front
