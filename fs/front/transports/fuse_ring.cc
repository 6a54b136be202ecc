// Entries, and how they go to the kernel and come back.  The kernel's side is fs/fuse/dev_uring.c.
#include "front/transports/fuse_ring.h"

#include <sched.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <span>
#include <utility>

#include "front/requests/message_check.h"
#include "pm/fault.h"

namespace pmfs::front {
namespace {

constexpr std::size_t kPage = 4096;
// The fixed part of a request lies right before its payload, as in a message of /dev/fuse.
constexpr std::size_t kEntrySize = kPage + kPayloadMax;
constexpr std::size_t kFixedMax = sizeof(FuseUringHeader::operation);
static_assert(sizeof(FuseUringHeader) + sizeof(fuse_in_header) + kFixedMax <= kPage);

constexpr unsigned kSubmissions = 64, kCompletions = 1024;
constexpr std::size_t kEntriesAtOnce = 8;

// The only files that a ring may use.
enum File : int { kDevice, kWake };

// A number that the kernel never gives a request: its own are even, and count from 2.
constexpr std::uint64_t kAsked = std::uint64_t{1} << 63;

// The ring of this thread.
thread_local const FuseRing *here = nullptr;

bool connection_ended(int error) {
    return error == ENOTCONN || error == ECONNABORTED || error == ECANCELED || error == ENODEV;
}

}  // namespace

// --- an entry

class FuseRing::Entry final : public ReplyPort {
public:
    Entry(FuseRing &ring, Queue &of, std::byte *memory)
        : queue(of),
          header(reinterpret_cast<FuseUringHeader *>(memory)),
          payload(memory + kPage),
          registered{{memory, sizeof(FuseUringHeader)}, {payload, kPayloadMax}},
          ring_(ring) {}

    ssize_t send(std::span<const iovec> message) override;
    bool let_wait(std::uint32_t user) override;
    void send_nothing();

    Queue &queue;
    FuseUringHeader *const header;
    std::byte *const payload;
    const iovec registered[2];
    std::atomic<std::uint64_t> unique{0};  // of its unanswered request; 0: none
    std::uint64_t node = 0;                // the node that it concerns
    std::uint64_t commit_id = 0;
    std::size_t touched = 0;  // bytes of the payload, since its memory was given back
    bool new_here = true;     // the kernel may still refuse it
    bool taken = false;       // it has an unanswered request
    std::uint64_t round = 0;  // in which it was last answered

private:
    std::size_t copy(std::span<const iovec> message, int *error);

    FuseRing &ring_;
    bool waits_ = false;
    std::uint32_t user_ = 0;  // the user that waits
};

// Gives the size of the payload.
std::size_t FuseRing::Entry::copy(std::span<const iovec> message, int *error) {
    const pm::FaultScope faults;
    std::size_t size = 0, skip = sizeof(fuse_out_header);
    for (const iovec &piece : message) {
        const std::size_t skipped = std::min(skip, piece.iov_len);
        const std::size_t length = piece.iov_len - skipped;
        skip -= skipped;
        if (length > kPayloadMax - size) {
            *error = EIO;
            return 0;
        }
        std::memcpy(payload + size, static_cast<const std::byte *>(piece.iov_base) + skipped,
                    length);
        size += length;
    }
    // What was copied is file data, too, and a page of it may be bad.
    if (pm::take_fault()) *error = EFAULT;
    return *error == 0 ? size : 0;
}

// By any thread, and once: a second answer is for a request that was interrupted, and is dropped.
ssize_t FuseRing::Entry::send(std::span<const iovec> message) {
    fuse_out_header out{};
    std::memcpy(&out, message.front().iov_base, sizeof out);
    std::uint64_t expected = out.unique;
    if (ring_.over_ || expected == 0 || !unique.compare_exchange_strong(expected, 0)) {
        errno = ring_.over_ ? ENODEV : ENOENT;
        return -1;
    }
    int error = 0;
    const std::size_t size = copy(message, &error);
    if (error != 0) out = {sizeof out, -EIO, out.unique};
    std::memcpy(header->in_out, &out, sizeof out);
    header->entry.payload_size = static_cast<std::uint32_t>(size);
    if (std::exchange(waits_, false)) {
        Lock held(ring_.mutex_);
        ring_.waiting_.give_back(user_);
    }
    ring_.answered(*this);
    if (error == 0) return static_cast<ssize_t>(sizeof out + size);
    errno = error;
    return -1;
}

bool FuseRing::Entry::let_wait(std::uint32_t user) {
    if (waits_) return true;
    user_ = user;
    Lock held(ring_.mutex_);
    return waits_ = ring_.waiting_.take(user, kWaitingMax / 2) == Places::Taken::yes;
}

// For a request without an answer: returns only its entry.
void FuseRing::Entry::send_nothing() {
    fuse_out_header out{sizeof out, 0, unique.load()};
    const iovec piece{&out, sizeof out};
    (void)send(std::span(&piece, 1));
}

// --- making

void FuseRing::Unmap::operator()(std::byte *memory) const {
    ::munmap(memory, size);
}

FuseRing::FuseRing(Dispatcher &dispatcher, Traffic &traffic, int device, unsigned cpu,
                   std::vector<unsigned> queues, std::size_t resident_max)
    : dispatcher_(dispatcher),
      traffic_(traffic),
      device_(device),
      cpu_(cpu),
      resident_max_(resident_max),
      queues_(queues.size()),
      wake_(::eventfd(0, EFD_CLOEXEC)) {
    for (std::size_t i = 0; i < queues.size(); ++i) queues_[i].number = queues[i];
}

FuseRing::~FuseRing() {
    if (has_ring_) ::io_uring_queue_exit(&ring_);
}

// Binds this thread to a CPU.  False: that is offline.
bool FuseRing::run_on(unsigned cpu) {
    cpu_set_t only;
    CPU_ZERO(&only);
    CPU_SET(cpu, &only);
    return ::sched_setaffinity(0, sizeof only, &only) == 0;
}

Result<> FuseRing::set_up() {
    here = this;
    if (!run_on(cpu_)) return Error(errno, "cannot bind a thread to its CPU");
    if (!wake_.ok()) return Error(EMFILE, "no descriptor is left (RLIMIT_NOFILE)");
    TRY(make_ring());
    listen();  // this also shows whether the ring can be entered
    if (const int code = ::io_uring_submit(&ring_); code < 0)
        return Error(-code, "io_uring cannot be used");
    return {};
}

Result<> FuseRing::make_ring() {
    io_uring_params params{};
    // A single thread does everything, and the kernel does its part when that thread enters the
    // ring: so the kernel touches entries at no other time.
    params.flags = IORING_SETUP_SQE128 | IORING_SETUP_CQSIZE | IORING_SETUP_SINGLE_ISSUER |
                   IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_R_DISABLED;
    params.cq_entries = kCompletions;
    if (const int code = ::io_uring_queue_init_params(kSubmissions, &ring_, &params); code != 0) {
        if (code == -EPERM)
            return Error(EPERM, "io_uring is forbidden (kernel.io_uring_disabled, or a container)");
        return Error(-code, "this kernel does not support the io_uring that is needed");
    }
    has_ring_ = true;
    return restrict_ring();
}

// A ring bypasses the filter of system calls, so it is restricted to two operations on two files.
Result<> FuseRing::restrict_ring() {
    std::array<io_uring_restriction, 4> only{};
    only[0].opcode = only[1].opcode = IORING_RESTRICTION_SQE_OP;
    only[0].sqe_op = IORING_OP_URING_CMD;
    only[1].sqe_op = IORING_OP_READ;
    only[2].opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED;
    only[3].opcode = IORING_RESTRICTION_SQE_FLAGS_REQUIRED;
    only[2].sqe_flags = only[3].sqe_flags = IOSQE_FIXED_FILE;
    const int files[] = {device_, wake_.get()};
    // (liburing 2.3 declares functions for two of these, and does not export them.)
    const auto tell = [fd = static_cast<unsigned>(ring_.ring_fd)](unsigned what, const void *with,
                                                                  std::size_t count) {
        return ::io_uring_register(fd, what, with, static_cast<unsigned>(count));
    };
    int code = tell(IORING_REGISTER_FILES, files, std::size(files));
    if (code == 0) code = tell(IORING_REGISTER_RESTRICTIONS, only.data(), only.size());
    if (code == 0) code = tell(IORING_REGISTER_ENABLE_RINGS, nullptr, 0);
    if (code != 0) return Error(-code, "an io_uring cannot be restricted here");
    return {};
}

// --- what goes to the kernel

io_uring_sqe *FuseRing::next_sqe() {
    io_uring_sqe *sqe = ::io_uring_get_sqe(&ring_);
    if (sqe == nullptr) {
        (void)::io_uring_submit(&ring_);  // errors are reported when it is entered next
        sqe = ::io_uring_get_sqe(&ring_);
    }
    if (sqe != nullptr) std::memset(sqe, 0, 2 * sizeof *sqe);
    return sqe;
}

void FuseRing::prepare(Entry &entry, FuseUringCommand command) {
    io_uring_sqe *const sqe = next_sqe();
    if (sqe == nullptr) return;
    sqe->opcode = IORING_OP_URING_CMD;
    sqe->flags = IOSQE_FIXED_FILE;
    sqe->fd = kDevice;
    sqe->cmd_op = static_cast<std::uint32_t>(command);
    ::io_uring_sqe_set_data(sqe, &entry);
    FuseUringCommandBody body{.commit_id = entry.commit_id,
                              .queue = static_cast<std::uint16_t>(entry.queue.number)};
    if (command == FuseUringCommand::register_entry) {
        sqe->addr = reinterpret_cast<std::uintptr_t>(entry.registered);
        sqe->len = std::size(entry.registered);
    }
    std::memcpy(sqe->cmd, &body, sizeof body);
}

// Wakes the ring's thread for answers of other threads, and for orders.
void FuseRing::listen() {
    io_uring_sqe *const sqe = next_sqe();
    if (sqe == nullptr) return;
    ::io_uring_prep_read(sqe, kWake, &woken_, sizeof woken_, 0);
    sqe->flags = IOSQE_FIXED_FILE;
    ::io_uring_sqe_set_data(sqe, nullptr);
}

Result<> FuseRing::add_entries(Queue &queue, std::size_t count) {
    const std::size_t size = count * kEntrySize;
    void *memory = ::mmap(nullptr, size, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return Error(errno, "there is no memory for requests");
    ::madvise(memory, size, MADV_NOHUGEPAGE);  // most requests touch a page or two
    memory_.emplace_back(static_cast<std::byte *>(memory), Unmap{size});
    for (std::size_t i = 0; i < count; ++i) {
        queue.entries.push_back(
            std::make_unique<Entry>(*this, queue, memory_.back().get() + i * kEntrySize));
        ++queue.usable;
        prepare(*queue.entries.back(), FuseUringCommand::register_entry);
    }
    return {};
}

Result<> FuseRing::enlist() {
    for (Queue &queue : queues_) TRY(add_entries(queue, kEntriesAtOnce));
    if (const int code = ::io_uring_submit(&ring_); code < 0)
        return Error(-code, "io_uring cannot be used");
    TRY(take_completions());  // the kernel has refused by now those that it refuses
    for (const Queue &queue : queues_)
        if (queue.usable == 0)
            return Error(refusal_, "the kernel does not accept memory for requests over io_uring");
    return {};
}

// --- what comes

Result<> FuseRing::serve() {
    Result<> result;
    for (Command command = kServe; command != kEnd && !gone_ && result.ok();) {
        const int code = ::io_uring_submit_and_wait(&ring_, 1);
        if (code < 0 && code != -EINTR && code != -EAGAIN && code != -EBUSY)
            result = Error(-code, "io_uring cannot be used any more");
        if (::io_uring_sq_ready(&ring_) == 0) ++round_;
        command = command_.load();
        if (command == kHold && !holds_.exchange(true)) holds_.notify_all();
        if (result.ok()) result = take_completions();
        // (Where a CPU goes offline the kernel moves its threads elsewhere, and leaves them there.)
        if (::sched_getcpu() != static_cast<int>(cpu_)) (void)run_on(cpu_);
        for (Queue &queue : queues_) make_room(queue);
        give_memory_back();
    }
    over_ = holds_ = true;
    holds_.notify_all();
    return result;
}

Result<> FuseRing::take_completions() {
    io_uring_cqe *cqe = nullptr;
    unsigned head = 0, count = 0;
    Result<> result;
    io_uring_for_each_cqe(&ring_, head, cqe) {
        ++count;
        if (result.ok()) result = completed(*cqe);
    }
    ::io_uring_cq_advance(&ring_, count);
    return result;
}

Result<> FuseRing::completed(const io_uring_cqe &cqe) {
    auto *const entry = static_cast<Entry *>(::io_uring_cqe_get_data(&cqe));
    if (entry == nullptr) {
        if (cqe.res < 0) return Error(-cqe.res, "a ring cannot be woken");
        take_handed_over();
        listen();
        return {};
    }
    const bool was_new = std::exchange(entry->new_here, false);
    if (cqe.res == 0) return handle(*entry);
    if (connection_ended(-cqe.res)) {
        gone_ = true;
        return {};
    }
    if (!was_new) return Error(-cqe.res, "the kernel refused an answer over io_uring");
    refusal_ = -cqe.res;
    --entry->queue.usable;
    return {};
}

Result<> FuseRing::handle(Entry &entry) {
    entry.taken = true;
    ++entry.queue.taken;
    const auto in = load<fuse_in_header>(entry.header->in_out);
    const std::size_t payload = entry.header->entry.payload_size;
    if (payload > kPayloadMax || in.len < sizeof in + payload ||
        in.len > sizeof in + kFixedMax + payload)
        return Error(EPROTO, "a request over io_uring is incomplete");
    const std::size_t fixed = in.len - sizeof in - payload;  // (its size is nowhere else)
    entry.commit_id = entry.header->entry.commit_id;
    entry.node = in.nodeid;
    entry.unique = in.unique;
    touch(entry, payload);
    if (in.opcode == FUSE_NOTIFY_REPLY) {  // the answer to our own request
        entry.send_nothing();
    } else if (!holds_.load(std::memory_order_relaxed)) {
        std::byte *const message = entry.payload - fixed - sizeof in;
        std::memcpy(message, entry.header->in_out, sizeof in);
        std::memcpy(message + sizeof in, entry.header->operation, fixed);
        traffic_.note();
        dispatcher_.dispatch(entry, Bytes(message, in.len));
    }
    // Only after the dispatcher is done with the message, because the next one may replace it.
    for (Entry *done : answered_) commit(*done);
    answered_.clear();
    return {};
}

// --- answers

void FuseRing::answered(Entry &entry) {
    if (here == this) return answered_.push_back(&entry);
    bool first;
    {
        Lock held(mutex_);
        first = handed_over_.empty();
        handed_over_.push_back(&entry);
    }
    if (first) ::eventfd_write(wake_.get(), 1);
}

void FuseRing::take_handed_over() {
    std::vector<Entry *> entries;
    {
        Lock held(mutex_);
        entries.swap(handed_over_);
    }
    for (Entry *entry : entries) commit(*entry);
}

void FuseRing::commit(Entry &entry) {
    entry.taken = false;
    entry.round = round_;
    --entry.queue.taken;
    touch(entry, entry.header->entry.payload_size);
    prepare(entry, FuseUringCommand::commit_and_fetch);
}

// --- room

// When all entries are taken, further requests may wait in the kernel, which gives them only to
// entries whose answer it takes, and not to new entries.  So each new entry gets a request that we
// cause, and answer.
void FuseRing::make_room(Queue &queue) {
    if (holds_ || gone_ || refusal_ != 0) return;
    if (queue.taken >= queue.usable && queue.entries.size() < kEntriesMax &&
        add_entries(queue, kEntriesAtOnce).ok()) {
        (void)::io_uring_submit(&ring_);
        queue.requests_wait = true;
    }
    if (queue.requests_wait) queue.requests_wait = !ask_for_requests(queue);
}

// The kernel queues a request by the CPU that causes it, so this thread has to be on the queue's.
// False: that is offline, and nothing but its return can help.
bool FuseRing::ask_for_requests(const Queue &queue) {
    if (!run_on(queue.number)) return false;
    std::size_t asked = 0;
    for (std::size_t i = 0; i + kEntriesAtOnce < queue.entries.size(); ++i) {
        const std::uint64_t node = queue.entries[i]->node;
        while (asked < kEntriesAtOnce && ask_for_request(node)) ++asked;
    }
    const bool was_there = ::sched_getcpu() == static_cast<int>(queue.number);
    if (queue.number != cpu_) (void)run_on(cpu_);
    return was_there;
}

// FUSE_NOTIFY_RETRIEVE of an empty range: the kernel sends FUSE_NOTIFY_REPLY.  False: `node` is no
// file.  (Requests that wait for others concern files.)
bool FuseRing::ask_for_request(std::uint64_t node) {
    fuse_notify_retrieve_out body{};
    body.notify_unique = kAsked | (++asked_ << 1);
    body.nodeid = node;
    fuse_out_header header{sizeof header + sizeof body, FUSE_NOTIFY_RETRIEVE, 0};
    const iovec pieces[] = {{&header, sizeof header}, {&body, sizeof body}};
    return ::writev(device_, pieces, std::size(pieces)) > 0;
}

void FuseRing::touch(Entry &entry, std::size_t size) {
    if (size <= entry.touched) return;
    resident_ += size - entry.touched;
    entry.touched = size;
}

// Gives back memory of entries that the kernel has and that are empty, but not of those whose
// answer it takes when the ring is entered next.  (The kernel writes to entries only while this
// thread is in the ring.)
void FuseRing::give_memory_back() {
    if (resident_ <= resident_max_) return;
    for (Queue &queue : queues_)
        for (const auto &entry : queue.entries) {
            if (entry->touched == 0 || entry->taken || entry->round == round_) continue;
            ::madvise(entry->payload, align_up(entry->touched, kPage), MADV_DONTNEED);
            resident_ -= std::exchange(entry->touched, 0);
        }
}

// --- orders

void FuseRing::order(Command command) {
    command_ = command;
    ::eventfd_write(wake_.get(), 1);
}

void FuseRing::hold() {
    order(kHold);
    holds_.wait(false);
}

void FuseRing::end() {
    order(kEnd);
}

}  // namespace pmfs::front
