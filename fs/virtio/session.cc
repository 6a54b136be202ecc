// What each message does.
#include "virtio/session.h"

#include <poll.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <numeric>

namespace pmfs::virtio {
namespace {

using std::chrono::steady_clock;
using namespace std::chrono_literals;

// How long a front end that stops a queue may take to answer requests that are under way.  QEMU
// answers none while it waits for GET_VRING_BASE.
constexpr auto kAnswersWaitMax = 200ms;
constexpr auto kStopLogged = 5s;

constexpr std::uint64_t feature(unsigned number) {
    return std::uint64_t{1} << number;
}

bool has_answer(Request request) {
    switch (request) {
        case Request::get_features:
        case Request::get_protocol_features:
        case Request::get_queue_num:
        case Request::get_vring_base:
        case Request::get_config:
        case Request::get_max_mem_slots:
        case Request::get_status:
        case Request::get_shmem_config:
            return true;
        default:
            return false;
    }
}

// Probably an eventfd: an anonymous inode, which has no type.
Result<> check_event(const FileDescriptor &event) {
    struct stat status {};
    if (::fstat(event.get(), &status) != 0 || (status.st_mode & S_IFMT) != 0)
        return Error(EINVAL, "a queue's event is no eventfd");
    return {};
}

}  // namespace

Session::Session(Device &device, const SessionOptions &options, FileDescriptor socket, int stop,
                 std::shared_ptr<BackChannel> channel)
    : device_(device),
      options_(options),
      socket_(std::move(socket)),
      stop_(stop),
      channel_(std::move(channel)),
      memory_(device),
      queues_(device.queues()) {}

Session::~Session() {
    channel_->close();
    for (unsigned i = 0; i < queues_.size(); ++i) {
        if (!queues_[i].running) continue;
        queues_[i].thread->end();
        queues_[i].running->detach();
        device_.stopping(i);
    }
    for (Queue &queue : queues_) queue.thread.reset();
}

std::uint64_t Session::features_offered() const {
    return feature(VIRTIO_F_VERSION_1) | feature(VIRTIO_RING_F_INDIRECT_DESC) |
           feature(VIRTIO_RING_F_EVENT_IDX) | kFeatureProtocol;
}

std::uint64_t Session::protocol_offered() const {
    std::uint64_t offered = bit(Protocol::mq) | bit(Protocol::reply_ack) |
                            bit(Protocol::backend_req) | bit(Protocol::config) |
                            bit(Protocol::backend_send_fd) | bit(Protocol::reset_device) |
                            bit(Protocol::status);
    if (options_.memory_slots) offered |= bit(Protocol::configure_mem_slots);
    if (device_.window_size() != 0) offered |= bit(Protocol::shmem);
    return offered;
}

Result<> Session::step() {
    Message message = TRY(receive_message(socket_.get(), stop_));
    return handle(message);
}

Result<> Session::handle(Message &message) {
    const bool acknowledges = message.needs_reply() && (protocol_ & bit(Protocol::reply_ack)) != 0;
    if ((message.header.flags & Header::kReply) != 0)
        return Error(EPROTO, "the front end sent a reply without a request");
    if (!is_known(message.header.request, protocol_offered()) && acknowledges)
        return reply_number(message, 1);
    if (const char *fault = fault_of(message, protocol_offered())) return Error(EPROTO, fault);
    if (has_answer(message.request())) return answer(message);
    const auto done = obey(message);
    if (!done.ok() && done.error().errno_value() == ECONNRESET) return done;
    if (!acknowledges) {
        // (A guest may make its VMM send this one; the configuration is read-only.)
        return message.request() == Request::set_config ? Result<>() : done;
    }
    if (!done.ok()) options_.log(done.error().what());
    return reply_number(message, done.ok() ? 0 : 1);
}

Result<> Session::reply(const Message &message, ConstBytes payload) {
    const Header header = {message.header.request, Header::kVersion | Header::kReply, 0};
    return send_message(socket_.get(), stop_, header, payload);
}

Result<> Session::reply_number(const Message &message, std::uint64_t number) {
    return reply(message, bytes_of(number));
}

Result<> Session::answer(const Message &message) {
    switch (message.request()) {
        case Request::get_features:
            return reply_number(message, features_offered());
        case Request::get_protocol_features:
            return reply_number(message, protocol_offered());
        case Request::get_queue_num:
            return reply_number(message, queues_.size());
        case Request::get_max_mem_slots:
            return reply_number(message, kRegionsMax);
        case Request::get_status:
            return reply_number(message, status_);
        case Request::get_config:
            return answer_config(message);
        case Request::get_vring_base:
            return answer_base(message);
        default:
            break;
    }
    WindowSizes sizes{.count = 1, .padding = 0, .sizes = {device_.window_size()}};
    return reply(message, bytes_of(sizes));
}

// Without a payload: it cannot be read.
Result<> Session::answer_config(const Message &message) {
    const auto access = load<ConfigAccess>(message.payload);
    if (access.offset > kConfigMax || access.size > kConfigMax - access.offset)
        return reply(message, {});
    std::vector<std::byte> whole(kConfigMax);
    const ConstBytes config = device_.config();
    std::copy_n(config.begin(), std::min(config.size(), whole.size()), whole.begin());
    std::vector<std::byte> payload(message.payload);
    std::copy_n(whole.begin() + access.offset, access.size, payload.begin() + sizeof access);
    return reply(message, payload);
}

Result<> Session::answer_base(const Message &message) {
    const auto state = load<vhost_vring_state>(message.payload);
    Queue &queue = *TRY(queue_at(state.index));
    const unsigned index[] = {state.index};
    TRY(stop(index));
    const vhost_vring_state base = {state.index, queue.next};
    return reply(message, bytes_of(base));
}

Result<> Session::obey(Message &message) {
    switch (message.request()) {
        case Request::set_owner:
            return {};
        case Request::set_features:
            return set_features(load<std::uint64_t>(message.payload));
        case Request::set_protocol_features:
            return set_protocol(load<std::uint64_t>(message.payload));
        case Request::set_status:
            return set_status(load<std::uint64_t>(message.payload));
        case Request::set_config:
            return Error(EPERM, "the device's configuration is read-only");
        case Request::set_backend_req_fd:
            channel_->connect(std::move(message.fds[0]));
            return {};
        case Request::reset_owner:  // deprecated; it means no more than this
            for (Queue &queue : queues_) {
                queue.enabled = false;
                if (queue.thread) queue.thread->enable(false);
            }
            return {};
        case Request::reset_device:
            TRY(stop_all());
            queues_ = std::vector<Queue>(device_.queues());
            status_ = 0;
            device_.reset();
            return {};
        case Request::set_mem_table:
        case Request::add_mem_reg:
        case Request::rem_mem_reg:
            return obey_memory(message);
        default:
            return obey_queue(message);
    }
}

Result<> Session::obey_memory(Message &message) {
    if (message.request() == Request::set_mem_table) {
        std::vector<MemoryRegion> regions(load<std::uint32_t>(message.payload));
        for (std::size_t i = 0; i < regions.size(); ++i)
            regions[i] = load<MemoryRegion>(message.payload, 8 + i * sizeof(MemoryRegion));
        TRY(memory_.set(regions, message.fds));
    } else {
        const auto region = load<SingleRegion>(message.payload).region;
        if (message.request() == Request::add_mem_reg)
            TRY(memory_.add(region, message.fds[0]));
        else
            TRY(memory_.remove(region));
    }
    const auto table = memory_.table();
    for (Queue &queue : queues_) {
        if (queue.running) queue.running->set_memory(table);
    }
    return {};
}

Result<> Session::set_features(std::uint64_t features) {
    if ((features & ~features_offered()) != 0)
        return Error(EINVAL, "the front end wants features that were not offered");
    features_ = features;
    if ((features & kFeatureProtocol) != 0) return {};
    for (Queue &queue : queues_) {
        queue.enabled = true;
        if (queue.thread) queue.thread->enable(true);
    }
    return {};
}

Result<> Session::set_protocol(std::uint64_t features) {
    if ((features & ~protocol_offered()) != 0)
        return Error(EINVAL, "the front end wants protocol features that were not offered");
    protocol_ = features;
    channel_->negotiated(features);
    return {};
}

Result<> Session::set_status(std::uint64_t status) {
    if (status > 0xff) return Error(EINVAL, "a device status has only eight bits");
    if (status == 0) TRY(stop_all());
    status_ = static_cast<std::uint8_t>(status);
    device_.status(status_);
    return {};
}

Result<Session::Queue *> Session::queue_at(std::uint64_t index) {
    if (index >= queues_.size()) return Error(EINVAL, "the device has no such queue");
    return &queues_[index];
}

Result<> Session::obey_queue(Message &message) {
    const Request request = message.request();
    if (request == Request::set_vring_addr) {
        const auto rings = load<vhost_vring_addr>(message.payload);
        Queue &queue = *TRY(queue_at(rings.index));
        if (queue.running) return Error(EBUSY, "a queue that runs cannot be moved");
        queue.rings = rings;
        return {};
    }
    if (message.payload.size() == sizeof(vhost_vring_state) &&
        (request == Request::set_vring_num || request == Request::set_vring_base ||
         request == Request::set_vring_enable))
        return set_ring_state(request, load<vhost_vring_state>(message.payload));
    // set_vring_kick, _call, _err
    const auto index = load<std::uint64_t>(message.payload) & kQueueMask;
    Queue &queue = *TRY(queue_at(index));
    Virtqueue::Event event;
    if (!message.fds.empty()) {
        TRY(check_event(message.fds[0]));
        if (request == Request::set_vring_kick)
            return start(static_cast<unsigned>(index), std::move(message.fds[0]));
        event = std::make_shared<FileDescriptor>(std::move(message.fds[0]));
    } else if (request == Request::set_vring_kick) {
        return Error(EINVAL, "a queue needs an eventfd for notifications (SET_VRING_KICK)");
    }
    if (request == Request::set_vring_call) {
        queue.call = event;
        if (queue.running) queue.running->set_call(std::move(event));
    } else {
        queue.error = event;
        if (queue.running) queue.running->set_error(std::move(event));
    }
    return {};
}

Result<> Session::set_ring_state(Request request, const vhost_vring_state &state) {
    Queue &queue = *TRY(queue_at(state.index));
    if (request == Request::set_vring_enable) {
        if (state.num > 1) return Error(EINVAL, "a queue is enabled by 1 or disabled by 0");
        queue.enabled = state.num == 1;
        if (queue.thread) queue.thread->enable(queue.enabled);
        return {};
    }
    if (queue.running) return Error(EBUSY, "a queue that runs cannot be set up");
    if (request == Request::set_vring_num) {
        TRY(Virtqueue::check_size(state.num));
        queue.size = state.num;
        return {};
    }
    if (state.num > 0xffff) return Error(EINVAL, "a ring's index has 16 bits");
    queue.next = static_cast<std::uint16_t>(state.num);
    return {};
}

Result<> Session::start(unsigned index, FileDescriptor kick) {
    Queue &queue = queues_[index];
    if (queue.running) return Error(EBUSY, "a queue that runs is started");
    if (queue.size == 0 || !queue.rings)
        return Error(EINVAL, "a queue is started without its size or its rings");
    const Virtqueue::Setup setup = {
        .size = queue.size,
        .descriptors = queue.rings->desc_user_addr,
        .available = queue.rings->avail_user_addr,
        .used = queue.rings->used_user_addr,
        .next = queue.next,
        .indirect = (features_ & feature(VIRTIO_RING_F_INDIRECT_DESC)) != 0,
        .event_index = (features_ & feature(VIRTIO_RING_F_EVENT_IDX)) != 0,
        .bytes_max = options_.chain_bytes_max,
    };
    const auto broken = [&device = device_, log = options_.log, index](const std::string &why) {
        log("queue " + std::to_string(index) + " is broken: " + why);
        device.broken(index, why);
    };
    auto running = TRY(Virtqueue::make(setup, memory_.table(), device_, broken));
    running->set_call(queue.call);
    running->set_error(queue.error);
    queue.thread = TRY(QueueThread::start(
        device_, {index, running, std::move(kick), queue.enabled, options_.polling}));
    queue.running = std::move(running);
    return {};
}

Result<> Session::stop_all() {
    std::vector<unsigned> all(queues_.size());
    std::iota(all.begin(), all.end(), 0);
    return stop(all);
}

// ECONNRESET: the front end disconnects meanwhile, or the session ends; then the queues are torn
// down.
Result<> Session::stop(std::span<const unsigned> indices) {
    for (const unsigned index : indices) {
        Queue &queue = queues_[index];
        if (!queue.running) continue;
        queue.running->close();
        queue.thread->end();
        device_.stopping(index);
    }
    const auto since = steady_clock::now();
    bool told = false;
    for (const unsigned index : indices) {
        Queue &queue = queues_[index];
        if (!queue.running) continue;
        TRY(wait_idle(index, since, &told));
        queue.thread.reset();
        queue.next = queue.running->next();
        queue.running.reset();
    }
    channel_->resume();
    return {};
}

Result<> Session::wait_idle(unsigned index, steady_clock::time_point since, bool *told) {
    while (!queues_[index].running->wait_idle(20ms)) {
        device_.stopping(index);  // again, because a request may have begun to wait meanwhile
        if (gone()) return Error(ECONNRESET, "the front end is gone");
        const auto waited = steady_clock::now() - since;
        if (waited > kAnswersWaitMax) channel_->suspend();
        if (waited < kStopLogged || std::exchange(*told, true)) continue;
        options_.log("a front end waits for its queues to stop, and requests are under way");
    }
    return {};
}

bool Session::gone() const {
    pollfd both[] = {{socket_.get(), POLLRDHUP, 0}, {stop_, POLLIN, 0}};
    return ::poll(both, 2, 0) > 0;
}

}  // namespace pmfs::virtio
