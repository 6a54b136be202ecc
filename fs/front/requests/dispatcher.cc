// Between transports and operations: replies, refusals, and requests that are parked.
#include "front/requests/dispatcher.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <vector>

#include "base/message_limit.h"
#include "base/pieces.h"
#include "front/broker/broker.h"
#include "front/requests/convert.h"
#include "front/requests/message_check.h"
#include "front/requests/newer.h"
#include "front/requests/ops.h"
#include "front/requests/request.h"
#include "front/requests/translate.h"

namespace pmfs::front {
namespace {

// The kernel's limit of background requests in flight (read-ahead, write-back, asynchronous
// direct): the largest possible, because some wait for others (Notifier::crowded).
constexpr unsigned kMaxBackground = 65535;
constexpr unsigned kCongested = 48;  // from so many on, the kernel delays read-ahead

// INIT, in flags2: FUSE_OVER_IO_URING, since Linux 6.14.
constexpr std::uint32_t kOverUring = std::uint32_t{1} << (41 - 32);

// libfuse asks for a read function and calls it only from loops that pmfs does not run.
ssize_t never_read(int, void *, std::size_t, void *) {
    errno = ENOSYS;
    return -1;
}

bool gives_entry(std::uint32_t opcode) {
    return opcode == FUSE_LOOKUP || opcode == FUSE_MKNOD || opcode == FUSE_MKDIR ||
           opcode == FUSE_SYMLINK || opcode == FUSE_LINK || opens_new(opcode);
}

// What a kernel that cannot be notified must not cache: no other client can make it write back.
DispatchOptions options_for(const Policy &policy, DispatchOptions options) {
    if (policy.notifiable) return options;
    options.attr_timeout_s = options.entry_timeout_s = 0;
    options.writeback = false;
    return options;
}

}  // namespace

namespace {

void log_error(const std::string &sentence) {
    spdlog::error("{}", sentence);
}

void log_bad_page() {
    static MessageLimit limit;
    limit.log({}, "the medium has a bad page under a file that was read", log_error);
}

// libfuse has something to say of requests that it does not understand, and replies that fail.
void log_libfuse(fuse_log_level, const char *format, va_list words) {
    static MessageLimit limit;
    char sentence[300];
    int length = std::vsnprintf(sentence, sizeof sentence, format, words);
    length = std::clamp(length, 0, static_cast<int>(sizeof sentence) - 1);
    while (length > 0 && sentence[length - 1] == '\n') --length;
    limit.log({format}, std::string(sentence, static_cast<std::size_t>(length)), log_error);
}

}  // namespace

void log_damage(const Error &error) {
    const int value = error.errno_value();
    if (value != EIO && value != EUCLEAN) return;
    static MessageLimit limit;  // a program may meet the same damage again and again
    limit.log({error.file(), static_cast<unsigned>(error.line())},
              fmt::format("{} ({}:{})", error.what(), error.file(), error.line()), log_error);
}

Dispatcher::Dispatcher(Clients &clients, std::shared_ptr<Client> client,
                       const DispatchOptions &options)
    : clients_(clients),
      volume_(clients.volume()),
      client_(std::move(client)),
      options_(options_for(client_->policy(), options)),
      ioctls_{.volume = volume_, .clients = clients_, .client = *client_, .broker = nullptr} {}

Result<std::shared_ptr<Dispatcher>> Dispatcher::create(Clients &clients,
                                                       std::shared_ptr<Client> client,
                                                       const DispatchOptions &options) {
    ::fuse_set_log_func(log_libfuse);
    std::shared_ptr<Dispatcher> dispatcher(new Dispatcher(clients, std::move(client), options));
    fuse_lowlevel_ops operations = front::operations();
    operations.init = on_init;

    char name[] = "pmfs";
    char *arguments[] = {name, nullptr};
    fuse_args args = FUSE_ARGS_INIT(1, arguments);
    dispatcher->session_ =
        fuse_session_new(&args, &operations, sizeof operations, dispatcher.get());
    fuse_opt_free_args(&args);  // the library has put its own copy there
    if (dispatcher->session_ == nullptr) return Error(ENOMEM, "libfuse could not create a session");

    // The library needs a descriptor of its own; every message goes through a port instead.
    const int unused = ::open("/dev/null", O_RDWR | O_CLOEXEC);
    fuse_custom_io io{};
    io.writev = write_reply;
    io.read = never_read;
    if (unused < 0 || fuse_session_custom_io(dispatcher->session_, &io, unused) != 0) {
        if (unused >= 0) ::close(unused);
        return Error(EIO, "libfuse did not accept input and output functions");
    }
    if (dispatcher->client_->policy().notifiable)
        TRY(dispatcher->client_->start_notifier(dispatcher->kernel()));
    return dispatcher;
}

Dispatcher::~Dispatcher() {
    finish_notifications();
    if (session_ != nullptr) fuse_session_destroy(session_);
}

void Dispatcher::leave() {
    client_->set_gone();
    for (unsigned running = late_; running != 0; running = late_) late_.wait(running);
    drop_waiting();
    give_back_all();
    clients_.dismiss(*client_);
}

void Dispatcher::drop_waiting() {
    for (const auto &[unique, parked] : take_waiting()) {
        if (parked->lock) (void)locks().cancel(*parked->lock);
        drop(*parked, [] {});
    }
}

void Dispatcher::interrupt_all() {
    for (const auto &[unique, parked] : take_waiting())
        give_up(*parked, unique, parked->lock ? ENOLCK : EINTR);
}

Dispatcher::Waiting Dispatcher::take_waiting() {
    Lock held(waiting_mutex_);
    return std::exchange(waiting_, {});
}

void Dispatcher::give_back_all() {
    client_->forget_all([this](HandleId handle) { released(handle); });
}

double Dispatcher::timeout(double seconds) const {
    // (The kernel is told of later changes by other clients.)
    const Request *request = Request::current();
    const bool old = request != nullptr && request->told() != clients_.told_so_far();
    return old ? 0 : seconds;
}

Dispatcher &Dispatcher::of(fuse_req_t req) {
    return *static_cast<Dispatcher *>(fuse_req_userdata(req));
}

void Dispatcher::dispatch(const Port &port, Bytes message, std::span<const iovec> apart) {
    // A guest may leave at any time, with its queues running.
    std::optional<Late> counted;
    if (!client_->policy().notifiable) counted.emplace(*this);
    if (client_->gone()) return;
    if (message.size() >= sizeof(fuse_in_header))
        client_->count_request(load<fuse_in_header>(message).opcode);
    int error = check_message(message, Pieces(apart).size(), long_setxattr_);
    if (error == 0) error = translate(message, *client_);
    if (error != 0) return refuse(Request(port, message, false, 0), error);
    dispatch(port, message, apart, false, {}, {}, 0);
}

void Dispatcher::dispatch(const Port &port, Bytes message, std::span<const iovec> apart,
                          bool flushed, Progress progress, Seats::Seat seat, unsigned read_ins) {
    const Request request(port, message, flushed, clients_.told_so_far(), read_ins, apart);
    request.progress() = std::move(progress);
    request.seat() = std::move(seat);
    const pm::FaultScope faults;
    if (const int error = objection(message)) return refuse(request, error);
    const pm::NoWaiting absent(read_ins < pm::kReadInsMax && may_run_again(request.opcode()));
    if (request.opcode() == FUSE_INTERRUPT) return interrupt(request);
    if (request.opcode() == kFuseStatx) return statx(request);
    if (request.opcode() == FUSE_SYNCFS) return sync_filesystem(request);
    std::vector<std::byte> older;
    const Bytes known = in_older_words(message, long_setxattr_, &older);
    fuse_buf buffer{};
    buffer.mem = known.data();
    buffer.size = known.size();
    fuse_session_process_buf(session_, &buffer);
    if (request.opcode() == FUSE_DESTROY) {  // the client unmounted
        give_back_all();
        ended_.store(true, std::memory_order_release);
    }
}

// Reads in the page that the request met, with no lock held, and runs the request again.
bool Dispatcher::read_in(fuse_req_t req) {
    const unsigned read_ins = Request::current()->read_ins() + 1;
    const bool flushed = Request::current()->flushed();
    pm::NoWaiting::take().read_in();
    const auto parked = park_current(req);
    dispatch(parked->port, parked->message, parked->apart, flushed, std::move(parked->progress),
             std::move(parked->seat), read_ins);
    return true;
}

// 0, or the errno for a request that the client may not make and libfuse must not see.
int Dispatcher::objection(ConstBytes message) {
    if (client_->policy().read_only && may_change(message)) return EROFS;
    const auto errno_of = [](const auto &result) {
        return result.ok() ? 0 : result.error().errno_value();
    };
    const Subject subject = subject_of(message);
    if (subject.gives_node || subject.gives_handle)
        if (const auto room = client_->check_room(subject.gives_node, subject.gives_handle);
            !room.ok())
            return errno_of(room);
    if (subject.handle) {  // a client that has the file open holds it
        if (!subject.node) return EBADF;
        return errno_of(
            client_->check_handle(*subject.handle, InodeNo(*subject.node), subject.writes));
    }
    if (subject.node)
        if (const int error =
                errno_of(client_->check_node(InodeNo(*subject.node), subject.by_number)))
            return error;
    return subject.other_node ? errno_of(client_->check_node(InodeNo(*subject.other_node), false))
                              : 0;
}

void Dispatcher::refuse(const Request &request, int error) {
    if (!has_reply(request.message())) return;
    const std::uint64_t unique = load<fuse_in_header>(request.message()).unique;
    fuse_out_header header{sizeof header, -error, unique};
    const iovec piece{&header, sizeof header};
    (void)request.port()->send(std::span(&piece, 1));  // fails only when the connection has ended
}

void Dispatcher::fail(fuse_req_t req, const Error &error) {
    if (pm::NoWaiting::met()) {
        read_in(req);
        return;
    }
    if (!must_park(error)) {
        log_damage(error);
        fuse_reply_err(req, error.errno_value());
        return;
    }
    const int value = error.errno_value();
    if ((value == kBreakErrno || value == kClaimErrno) && !takes_seat(value == kBreakErrno)) {
        fuse_reply_err(req, EAGAIN);
        return;
    }
    const bool flushed = Request::current()->flushed();
    const std::uint32_t user = fuse_req_ctx(req)->uid;
    const std::uint64_t unique = load<fuse_in_header>(Request::current()->message()).unique;
    const auto parked = park_current(req);
    if (value == kParkErrno)
        return volume_.when_ready(
            error, [self = shared_from_this(), parked, flushed] { self->run(*parked, flushed); },
            user);
    // A lease's holder may take its time, so the waiting caller can be interrupted.
    if (!start_waiting(unique, parked)) return give_up(*parked, unique, EINTR);
    volume_.when_ready(
        error,
        [self = shared_from_this(), unique, flushed] {
            if (const auto waited = self->stop_waiting(unique)) self->run(*waited, flushed);
        },
        user);
}

// False: it was interrupted meanwhile (or a request with its number waits already).
bool Dispatcher::start_waiting(std::uint64_t unique, std::shared_ptr<Parked> parked) {
    Lock held(waiting_mutex_);
    const auto found = std::find(interrupted_.begin(), interrupted_.end(), unique);
    if (found != interrupted_.end()) return false;
    return waiting_.emplace(unique, std::move(parked)).second;
}

// Null: it does not wait, or not for that lock.
std::shared_ptr<Dispatcher::Parked> Dispatcher::stop_waiting(std::uint64_t unique,
                                                             const FileLocks::Wait *lock) {
    Lock held(waiting_mutex_);
    const auto found = waiting_.find(unique);
    if (found == waiting_.end() || found->second->lock.get() != lock) return nullptr;
    auto parked = std::move(found->second);
    waiting_.erase(found);
    return parked;
}

void Dispatcher::answer(const Port &port, std::uint64_t unique, int error) {
    fuse_out_header header{sizeof header, -error, unique};
    const iovec piece{&header, sizeof header};
    (void)port->send(std::span(&piece, 1));  // fails only when the connection has ended
}

// Called after it was taken out of waiting_.  Its claims are released.
void Dispatcher::give_up(Parked &parked, std::uint64_t unique, int error) {
    if (parked.lock)
        if (const int result = locks().cancel(*parked.lock); result != EINTR) error = result;
    drop(parked, [port = parked.port, unique, error] { answer(port, unique, error); });
}

// A waiting request is answered with EINTR, through its own port: the kernel accepts a reply only
// there.  The number of one that does not wait is remembered for a while.  (libfuse is not told: it
// would only keep a list.)
void Dispatcher::interrupt(const Request &request) {
    const std::uint64_t unique = request.argument<fuse_interrupt_in>().unique;
    std::shared_ptr<Parked> parked;
    {
        Lock held(waiting_mutex_);
        const auto found = waiting_.find(unique);
        if (found == waiting_.end()) {
            interrupted_[interrupted_next_++ % interrupted_.size()] = unique;
            return;
        }
        parked = std::move(found->second);
        waiting_.erase(found);
    }
    give_up(*parked, unique, EINTR);
}

// False: there is no kernel to ask.  `park_current` parks the current request, to be run again.
bool Dispatcher::flush(const Notifier::Pages &pages, std::uint32_t user,
                       const std::function<std::shared_ptr<Parked>()> &park_current) {
    if (!clients_.cached(*client_, pages.ino)) return false;
    Notifier::Pages asked = pages;
    asked.thread = Request::current()->waiting_thread();
    clients_.flush(*client_, asked, user, [self = shared_from_this(), parked = park_current()] {
        self->run(*parked, true);
    });
    return true;
}

bool Dispatcher::flushed(fuse_req_t req, const Notifier::Pages &pages, bool wished) {
    if (Request::current()->flushed() || !clients_.cached(*client_, pages.ino)) return true;
    if (!takes_seat()) {
        if (!wished) fuse_reply_err(req, EAGAIN);
        return wished;
    }
    return !flush(pages, fuse_req_ctx(req)->uid, [req] { return park_current(req); });
}

Result<std::optional<Notifier::Pages>> Dispatcher::unseen_pages(Attr &attr) {
    if (!attr.unsettled) {
        client_->paid_attributes(attr.ino);
        return std::nullopt;
    }
    if (client_->owes_attributes(attr.ino)) {
        attr.blocks = std::max(attr.blocks, kBlocksKeptBack);
        return std::nullopt;
    }
    const auto unseen = TRY(volume_.unseen_from(attr.ino));
    if (!unseen) return std::nullopt;
    return Notifier::Pages{.ino = attr.ino, .offset = *unseen};
}

// Takes a copy of the current request and gives `req` back to libfuse unanswered.  When the copy is
// run, libfuse makes a new `req` of it, with the same identity for the kernel.
std::shared_ptr<Dispatcher::Parked> Dispatcher::park_current(fuse_req_t req) {
    const Request *request = Request::current();
    PMFS_ASSERT(request != nullptr && !request->message().empty());
    auto parked = copy_of(*request);
    fuse_reply_none(req);
    return parked;
}

std::shared_ptr<Dispatcher::Parked> Dispatcher::copy_of(const Request &request) {
    const ConstBytes message = request.message();
    const std::span<const iovec> apart = request.apart();
    return std::make_shared<Parked>(Parked{request.port(),
                                           {message.begin(), message.end()},
                                           {apart.begin(), apart.end()},
                                           std::move(request.progress()),
                                           {},
                                           std::move(request.seat())});
}

void Dispatcher::run(Parked &parked, bool flushed) {
    const Late late(*this);
    if (client_->gone()) return drop(parked, [] {});
    dispatch(parked.port, parked.message, parked.apart, flushed, std::move(parked.progress),
             std::move(parked.seat), 0);
}

Completion Dispatcher::answer_later(fuse_req_t req) {
    return answering([req](const Result<> &result) {
        if (!result.ok()) log_damage(result.error());
        fuse_reply_err(req, result.ok() ? 0 : result.error().errno_value());
    });
}

void Dispatcher::released(HandleId handle) {
    if (!client_->closed(handle)) return;
    // First grants whose device was not handed out: the volume takes the others for mapped.
    if (ioctls_.broker != nullptr) ioctls_.broker->handle_released(handle);
    locks().released(handle);
    volume_.release(handle);
}

// --- replies

ssize_t Dispatcher::write_reply(int, iovec *iov, int count, void *userdata) {
    auto &self = *static_cast<Dispatcher *>(userdata);
    const std::span<iovec> reply(iov, static_cast<std::size_t>(count));
    const auto *header = static_cast<const fuse_out_header *>(iov[0].iov_base);
    const bool notification = header->unique == 0;
    const Request *request = Request::current();
    PMFS_ASSERT(notification || request != nullptr);
    ReplyPort *port = notification ? self.notification_port_ : request->port().get();
    if (port == nullptr || self.client_->gone()) {
        errno = notification ? ENOTCONN : ENOENT;  // as if the kernel no longer wanted the reply
        return -1;
    }
    if (!notification && header->error == 0) {
        self.patch_reply(reply);
        if (self.must_be_durable(*request)) return self.reply_when_durable(*request, reply);
    }
    const ssize_t sent = port->send(reply);
    if (sent >= 0) return sent;
    // ENOENT: the kernel no longer wants this reply.  ENODEV: the connection has ended.  EFAULT:
    // the reply's bytes are on a bad page, and the kernel has answered EIO in our place.
    const int error = errno;
    if (error == EFAULT) log_bad_page();
    errno = !notification && (error == ENODEV || error == EFAULT) ? ENOENT : error;
    return -1;
}

// A change that was made and that, with `-o sync` or `-o dirsync`, must wait for the disk.
bool Dispatcher::must_be_durable(const Request &request) const {
    switch (request.opcode()) {
        case FUSE_CREATE:
        case FUSE_MKNOD:
        case FUSE_MKDIR:
        case FUSE_SYMLINK:
        case FUSE_LINK:
        case FUSE_UNLINK:
        case FUSE_RMDIR:
        case FUSE_RENAME:
        case FUSE_RENAME2:
            return options_.sync || options_.dirsync;
        case FUSE_OPEN:  // O_TRUNC
            return options_.sync && (request.argument<fuse_open_in>().flags & O_TRUNC) != 0;
        case FUSE_WRITE:  // after write-back the kernel sends an fsync if necessary
            return options_.sync &&
                   (request.argument<fuse_write_in>().write_flags & FUSE_WRITE_CACHE) == 0;
        case FUSE_SETATTR:
        case FUSE_FALLOCATE:
        case FUSE_COPY_FILE_RANGE:
        case FUSE_SETXATTR:
        case FUSE_REMOVEXATTR:
            return options_.sync;
        default:
            return false;
    }
}

// Keeps the reply until a group commit has covered the change.  Waiting replies share one commit.
ssize_t Dispatcher::reply_when_durable(const Request &request, std::span<const iovec> reply) {
    auto copy = std::make_shared<std::vector<std::byte>>();
    for (const iovec &piece : reply) {
        const auto *bytes = static_cast<const std::byte *>(piece.iov_base);
        copy->insert(copy->end(), bytes, bytes + piece.iov_len);
    }
    const auto size = static_cast<ssize_t>(copy->size());
    const bool opens = request.opcode() == FUSE_OPEN || request.opcode() == FUSE_CREATE;
    const auto answer = [self = shared_from_this(), copy, opens,
                         port = request.port()](Result<> done) {
        const Late late(*self);
        auto header = load<fuse_out_header>(*copy);
        if (!done.ok()) {
            log_damage(done.error());
            header = {sizeof header, -done.error().errno_value(), header.unique};
        }
        std::memcpy(copy->data(), &header, sizeof header);
        const iovec whole{copy->data(), header.len};
        const bool sent = !self->client_->gone() && port->send(std::span(&whole, 1)) >= 0;
        // The kernel will not release a handle that it did not get.
        if (opens && !(sent && done.ok()))
            self->released(load<fuse_open_out>(*copy, copy->size() - sizeof(fuse_open_out)).fh);
    };
    volume_.fsync(InodeNo(FUSE_ROOT_ID), answer);
    return size;
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
    if (options_.dax && reply.size() == 2) {
        if (gives_entry(request.opcode()) && reply[1].iov_len >= sizeof(fuse_entry_out))
            mark_dax(static_cast<fuse_entry_out *>(reply[1].iov_base)->attr);
        if (request.opcode() == FUSE_GETATTR || request.opcode() == FUSE_SETATTR)
            mark_dax(static_cast<fuse_attr_out *>(reply[1].iov_base)->attr);
    }
    if (request.opcode() != FUSE_OPEN && !opens_new(request.opcode())) return;
    // All end with a fuse_open_out.  Direct writes need no order among themselves from the kernel:
    // the volume gives each its own.
    iovec &last = reply.back();
    PMFS_ASSERT(last.iov_len >= sizeof(fuse_open_out));
    auto *opened = reinterpret_cast<fuse_open_out *>(static_cast<std::byte *>(last.iov_base) +
                                                     last.iov_len - sizeof(fuse_open_out));
    if (opened->open_flags & FOPEN_DIRECT_IO) opened->open_flags |= FOPEN_PARALLEL_DIRECT_WRITES;
}

// --- INIT

void Dispatcher::on_init(void *userdata, fuse_conn_info *connection) {
    auto &self = *static_cast<Dispatcher *>(userdata);
    const auto want = [connection](unsigned capability, bool wanted) {
        connection->want &= ~capability;
        if (wanted) connection->want |= connection->capable & capability;
    };
    connection->max_write = kPayloadMax;
    connection->max_background = kMaxBackground;
    connection->congestion_threshold = kCongested;
    connection->time_gran = 1;
    // A splice of memory is three times slower than a copy (measured).
    want(FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE, false);
    // Files change only through this kernel, or it is notified, so a new modification time is no
    // reason to drop pages; unless it cannot be notified.
    const bool told = self.client_->policy().notifiable;
    want(FUSE_CAP_AUTO_INVAL_DATA, !told);
    want(FUSE_CAP_EXPLICIT_INVAL_DATA, told);
    want(FUSE_CAP_HANDLE_KILLPRIV, false);  // its successor: see patch_init
    want(FUSE_CAP_EXPORT_SUPPORT | FUSE_CAP_CACHE_SYMLINKS, true);
    // The kernel enforces access control lists, and leaves the umask to the server, which knows a
    // directory's default list.
    want(FUSE_CAP_POSIX_ACL | FUSE_CAP_DONT_MASK, true);
    want(FUSE_CAP_WRITEBACK_CACHE, self.options_.writeback);
    // After an OPEN that truncates the kernel asks, too late, whether the file may be truncated
    // (Landlock) and whether it is a program that runs; and it forgets the size without a lock.
    want(FUSE_CAP_ATOMIC_O_TRUNC, false);
    want(FUSE_CAP_POSIX_LOCKS, self.client_->policy().shares_ranges);
    want(FUSE_CAP_FLOCK_LOCKS, self.client_->policy().shares_wholes);
    // READDIRPLUS has no field for what the answer about a single file says (mark_dax).
    if (self.options_.dax) want(FUSE_CAP_READDIRPLUS | FUSE_CAP_READDIRPLUS_AUTO, false);
}

// The kernel reads this flag when it first meets the file (mount -o dax=inode).  Through a window
// every program may store, so protected files are not mapped there: their reads are requests.
void Dispatcher::mark_dax(fuse_attr &attr) {
    if (!S_ISREG(attr.mode)) return;
    const auto found = volume_.getattr(InodeNo(attr.ino));
    if (!found.ok() || !found.value().sealed) return;
    const auto flags = volume_.file_flags(InodeNo(attr.ino));
    if (flags.ok() && !flags.value().immutable && !flags.value().append_only)
        attr.flags |= FUSE_ATTR_DAX;
}

void Dispatcher::patch_init(const fuse_init_in &offer, fuse_init_out &reply) {
    if (options_.dax && (offer.flags & FUSE_MAP_ALIGNMENT) != 0) {
        constexpr std::uint16_t kPageShift = 12;
        reply.flags |= FUSE_MAP_ALIGNMENT | (offer.flags & FUSE_INIT_EXT);
        reply.map_alignment = kPageShift;
        if ((offer.flags & FUSE_INIT_EXT) != 0)
            reply.flags2 |= offer.flags2 & static_cast<std::uint32_t>(FUSE_HAS_INODE_DAX >> 32);
        maps_sealed_ = true;
        maps_all_ = (reply.flags2 & static_cast<std::uint32_t>(FUSE_HAS_INODE_DAX >> 32)) == 0;
    }
    if (rings_offered_ && (offer.flags & FUSE_INIT_EXT) != 0 && (offer.flags2 & kOverUring) != 0) {
        reply.flags |= FUSE_INIT_EXT;
        reply.flags2 |= kOverUring;
        rings_agreed_ = true;
    }
    // KILLPRIV_V2: the volume clears set-id bits, so that the kernel need not ask for an xattr
    // before each write.  PARALLEL_DIROPS: libfuse 3.14 forgets to pass it on.
    // SETXATTR_EXT: setting an access control list may clear the set-group-ID bit.
    reply.flags |=
        offer.flags & (FUSE_HANDLE_KILLPRIV_V2 | FUSE_PARALLEL_DIROPS | FUSE_SETXATTR_EXT);
    long_setxattr_ = (reply.flags & FUSE_SETXATTR_EXT) != 0;
}

}  // namespace pmfs::front
