// Between chains and messages: see vhost_fs.h.
#include "front/transports/vhost_fs.h"

#include <fmt/format.h>
#include <linux/fuse.h>

#include <algorithm>
#include <cstring>

#include "front/requests/message_check.h"
#include "pm/fault.h"
#include "pm/unit_set.h"

namespace pmfs::front {
namespace {

constexpr std::uint64_t kPage = 4096;
// INIT agreed on this maximum; larger messages are refused.
constexpr std::size_t kMessageMax = kPayloadMax + kPage;
// From this size on the payload of a WRITE is copied only once, to its place in the file.
constexpr std::size_t kCopiedOnceFrom = 32 << 10;
constexpr std::size_t kWriteFixed = sizeof(fuse_in_header) + sizeof(fuse_write_in);

// Carries the reply of one request.  A chain without an answer is returned when the port is
// destroyed: so it is with requests that have no reply, and with those of a client that has gone.
class ChainPort final : public ReplyPort {
public:
    explicit ChainPort(std::unique_ptr<virtio::Chain> chain) : chain_(std::move(chain)) {}

    ssize_t send(std::span<const iovec> message) override {
        if (!chain_) {
            errno = ENOENT;  // it was answered
            return -1;
        }
        const pm::FaultScope faults;
        std::size_t size = 0;
        for (const iovec &piece : message) {
            const ConstBytes bytes(static_cast<const std::byte *>(piece.iov_base), piece.iov_len);
            if (chain_->write(size, bytes) != bytes.size()) return refuse(message, EFAULT);
            size += bytes.size();
        }
        if (pm::take_client_fault()) return refuse(message, EFAULT);
        // What was copied is file data, too, and a page of it may be bad.
        if (pm::take_fault()) return refuse(message, EIO);
        complete(size);
        return static_cast<ssize_t>(size);
    }
    bool let_wait(std::uint32_t) override { return chain_ != nullptr && chain_->let_wait(); }

private:
    ssize_t refuse(std::span<const iovec> message, int error) {
        fuse_out_header header{};
        std::memcpy(&header, message.front().iov_base, sizeof header);
        header.len = sizeof header;
        header.error = -error;
        complete(chain_->write(0, bytes_of(header)));
        errno = ENOENT;  // the client did not get what the reply gives it
        return -1;
    }
    void complete(std::size_t size) {
        chain_->complete(size);
        chain_.reset();
    }

    std::unique_ptr<virtio::Chain> chain_;
};

// An answer without a body; error 0: success.
void answer(ReplyPort &port, ConstBytes message, int error) {
    const fuse_out_header header{sizeof header, -error, load<fuse_in_header>(message).unique};
    const iovec piece{const_cast<fuse_out_header *>(&header), sizeof header};
    (void)port.send(std::span(&piece, 1));  // fails if the guest's own memory is gone
}

// Lets our SIGBUS handler serve the guest's memory: a VMM may truncate it at any time.  What has
// lost more units than these is out of reach as a whole, because for each lost one the server has
// zeroes of its own (pm/fault.h).  Memory that fails loses a page now and then.
struct Guarded final : virtio::MemoryGuard {
    static constexpr std::uint64_t kLostMax = 32;
    explicit Guarded(pm::UnitSet set) : units(std::move(set)) {}
    bool lost(std::size_t offset, std::size_t size) const override {
        return units.count() > kLostMax || units.overlaps(offset, size);
    }
    pm::UnitSet units;
    pm::FaultGuard guard;
};

}  // namespace

VhostFs::VhostFs(Clients &clients, const DispatchOptions &dispatch, const GuestOptions &options,
                 Log log)
    : clients_(clients), dispatch_(dispatch), options_(options), log_(std::move(log)) {
    std::memcpy(config_.tag, options.tag.data(), std::min(options.tag.size(), sizeof config_.tag));
    config_.num_request_queues = options.request_queues;
    dispatch_.dax = options.window != 0;
    if (options.window != 0)
        window_ = std::make_unique<DaxWindow>(clients.volume(), options.window);
}

Result<std::unique_ptr<VhostFs>> VhostFs::start(Clients &clients, const DispatchOptions &dispatch,
                                                const GuestOptions &options,
                                                virtio::Listener listener, Log log) {
    std::unique_ptr<VhostFs> device(new VhostFs(clients, dispatch, options, std::move(log)));
    virtio::SessionOptions session;
    session.polling = options.polling;
    session.log = [raw = device.get()](const std::string &sentence) { raw->log(sentence); };
    device->back_end_ = TRY(virtio::BackEnd::start(*device, std::move(listener), session));
    return device;
}

VhostFs::~VhostFs() {
    back_end_.reset();
    end_client();
}

void VhostFs::log(const std::string &sentence, const char *file, unsigned line) {
    limit_.log({file, line}, fmt::format("{}: {}", options_.socket, sentence), log_);
}

void VhostFs::connected(const virtio::Peer &peer, std::shared_ptr<virtio::BackChannel> channel) {
    monitor_pid_ = static_cast<std::uint32_t>(peer.pid);
    {
        ExclusiveLock held(mutex_);
        refused_.clear();
    }
    if (window_) window_->connect(peer, std::move(channel));
    log(fmt::format("process {} has connected", peer.pid));
}

void VhostFs::disconnected() {
    reset();
    log("the virtual machine is gone");
}

// Its VMM has dropped all ranges of the window.
void VhostFs::reset() {
    end_client();
    if (window_) window_->forget();
}

bool VhostFs::owns(const virtio::MemoryRegion &region, int fd) {
    return window_ && window_->owns(region, fd);
}

VhostFs::Answer VhostFs::resolve(std::uint64_t guest, std::uint64_t size, virtio::Access,
                                 std::vector<iovec> *pieces, std::shared_ptr<const void> *hold) {
    return window_ ? window_->resolve(guest, size, pieces, hold) : Answer::not_mine;
}

void VhostFs::broken(unsigned queue, const std::string &why) {
    log(fmt::format("queue {} is not served any more: {}", queue, why));
}

Result<std::shared_ptr<const virtio::MemoryGuard>> VhostFs::guard(std::byte *start,
                                                                  std::size_t size,
                                                                  std::size_t unit) {
    auto guarded = std::make_shared<Guarded>(TRY(pm::UnitSet::make(size, unit)));
    guarded->guard = pm::FaultGuard(start, size, guarded->units, pm::FaultGuard::Whose::client);
    return std::shared_ptr<const virtio::MemoryGuard>(std::move(guarded));
}

// --- clients

void VhostFs::begin_client() {
    unmounted();  // a client that was there before
    auto client = clients_.admit(options_.policy, {.name = options_.socket, .pid = monitor_pid_});
    if (!client.ok()) return log(fmt::format("no client: {}", client.error().what()));
    auto dispatcher = Dispatcher::create(clients_, client.value(), dispatch_);
    if (!dispatcher.ok()) {
        clients_.dismiss(*client.value());
        return log(fmt::format("no client: {}", dispatcher.error().what()));
    }
    ExclusiveLock held(mutex_);
    dispatcher_ = std::move(dispatcher).take();
}

void VhostFs::end_client() {
    std::shared_ptr<Dispatcher> dispatcher;
    {
        ExclusiveLock held(mutex_);  // no request is in dispatch()
        dispatcher = std::move(dispatcher_);
    }
    if (dispatcher) dispatcher->leave();
}

// The VMM continues, and still maps the client's ranges of the window.
void VhostFs::unmounted() {
    end_client();
    if (window_) (void)window_->remove(0, window_->size());
}

// The VMM waits until all requests are answered.
void VhostFs::stopping(unsigned) {
    SharedLock held(mutex_);
    if (dispatcher_) dispatcher_->interrupt_all();
}

// --- the window

int VhostFs::set_up_mapping(ConstBytes message) {
    if (message.size() != sizeof(fuse_in_header) + sizeof(fuse_setupmapping_in)) return EINVAL;
    const auto in = load<fuse_setupmapping_in>(message, sizeof(fuse_in_header));
    InodeNo ino;
    {
        SharedLock held(mutex_);
        if (!dispatcher_) return ENOTCONN;
        Client &client = dispatcher_->client();
        const auto named = client.inode_of(load<fuse_in_header>(message).nodeid);
        if (!named) return ESTALE;
        if (const auto node = client.check_node(*named, false); !node.ok())
            return node.error().errno_value();
        ino = *named;
    }
    const auto done = window_->set_up(ino, in);
    if (done.ok()) return 0;
    const int error = done.error().errno_value();
    const auto first = [&] {
        ExclusiveLock held(mutex_);
        return refused_.insert(error).second;
    };
    if (first())
        log(fmt::format("no range of inode {} is mapped: {}; more of this kind are not logged",
                        ino.value(), done.error().what()));
    return error;
}

int VhostFs::remove_mappings(ConstBytes message) {
    constexpr std::size_t kFixed = sizeof(fuse_in_header) + sizeof(fuse_removemapping_in);
    if (message.size() < kFixed) return EINVAL;
    const auto count = load<fuse_removemapping_in>(message, sizeof(fuse_in_header)).count;
    if ((message.size() - kFixed) / sizeof(fuse_removemapping_one) != count) return EINVAL;
    int error = 0;
    for (std::size_t i = 0; i < count; ++i) {
        const auto one =
            load<fuse_removemapping_one>(message, kFixed + i * sizeof(fuse_removemapping_one));
        if (const int failed = window_->remove(one.moffset, one.len); failed != 0) error = failed;
    }
    return error;
}

// --- requests

// Whether a WRITE's bytes need not be gathered first.  On an image they must be: a system call
// stores them there, and bad guest memory would make it fail like a bad medium.  Bytes from the
// window must be, too: they may belong to the file that is written to.
bool VhostFs::stays_apart(const virtio::Chain &chain) const {
    fuse_in_header header{};
    return chain.readable_size() >= kWriteFixed + kCopiedOnceFrom && chain.whole() &&
           !chain.borrows() && !clients_.volume().region().is_image() &&
           chain.read(0, writable_bytes_of(header)) == sizeof header && header.opcode == FUSE_WRITE;
}

void VhostFs::request(unsigned, std::unique_ptr<virtio::Chain> chain) {
    thread_local std::vector<std::byte> message;
    const std::size_t size = chain->readable_size();
    if (size < sizeof(fuse_in_header) || size > kMessageMax)
        return log("the guest sent what is no request");
    thread_local std::vector<iovec> apart;
    apart.clear();
    pm::FaultScope faults;
    message.resize(stays_apart(*chain) ? kWriteFixed : size);
    if (message.size() != size) chain->readable_behind(kWriteFixed, &apart);
    const std::size_t got = chain->read(0, message);
    const Port port = std::make_shared<ChainPort>(std::move(chain));
    if (got < sizeof(fuse_in_header)) return;
    // A piece of it is at an address that we cannot reach.
    if (got != message.size() || pm::take_client_fault() || faults.met())
        return answer(*port, message, EFAULT);
    const std::uint32_t opcode = load<fuse_in_header>(message).opcode;
    if (window_ && (opcode == FUSE_SETUPMAPPING || opcode == FUSE_REMOVEMAPPING)) count(opcode);
    if (window_ && opcode == FUSE_SETUPMAPPING)
        return answer(*port, message, set_up_mapping(message));
    if (window_ && opcode == FUSE_REMOVEMAPPING)
        return answer(*port, message, remove_mappings(message));
    if (opcode == FUSE_INIT) begin_client();
    if (!dispatch(port, message, apart) && has_reply(message)) answer(*port, message, ENOTCONN);
    if (opcode == FUSE_DESTROY) unmounted();
}

// Requests that no dispatcher sees.
void VhostFs::count(std::uint32_t opcode) {
    SharedLock held(mutex_);
    if (dispatcher_) dispatcher_->client().count_request(opcode);
}

// False: there is no client, before INIT or after the end.
bool VhostFs::dispatch(const Port &port, Bytes message, std::span<const iovec> apart) {
    SharedLock held(mutex_);
    if (dispatcher_) dispatcher_->dispatch(port, message, apart);
    return dispatcher_ != nullptr;
}

}  // namespace pmfs::front
