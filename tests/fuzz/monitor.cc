// See monitor.h.
#include "fuzz/monitor.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstring>

namespace pmfs::test {
namespace {

constexpr unsigned kQueueSize = 64, kSentMax = 8;
constexpr std::size_t kRam = 8 * kMiB, kRamLeft = 3 * kMiB;
constexpr auto kStopMax = std::chrono::seconds(10);

FileDescriptor copy_of(const FileDescriptor &fd) {
    return FileDescriptor(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 0));
}

}  // namespace

// --- the VMM

Monitor::Monitor(front::VhostFs &device) : device_(device), stop_(::eventfd(0, EFD_CLOEXEC)) {
    int pair[2];
    PMFS_ASSERT(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    socket_ = FileDescriptor(pair[0]);
    channel_ = virtio::BackChannel::make().take();
    channel_->connect(FileDescriptor(pair[1]));
    channel_->negotiated(~std::uint64_t{0});
    device_.connected({::getpid(), ::getuid(), ::getgid()}, channel_);
    thread_ = std::thread([this] { serve(); });
}

Monitor::~Monitor() {
    channel_->close();
    const std::uint64_t one = 1;
    (void)!::write(stop_.get(), &one, sizeof one);
    thread_.join();
}

void Monitor::serve() {
    for (;;) {
        const auto message = virtio::receive_message(socket_.get(), stop_.get());
        if (!message.ok()) return;
        virtio::Header header = message.value().header;
        if (mode_ == kHangsUp) {
            (void)::shutdown(socket_.get(), SHUT_RDWR);
            continue;
        }
        const std::uint64_t answer = obey(message.value());
        header.flags = virtio::Header::kVersion | virtio::Header::kReply;
        header.size = sizeof answer;
        if (mode_ == kBabbles) ++header.request;
        if (!virtio::send_message(socket_.get(), stop_.get(), header, bytes_of(answer)).ok())
            return;
    }
}

std::uint64_t Monitor::obey(const virtio::Message &message) {
    const auto what = static_cast<virtio::BackEndRequest>(message.header.request);
    if (message.payload.size() != sizeof(virtio::WindowMap)) return 0;  // a barrier
    const auto map = load<virtio::WindowMap>(message.payload);
    if (what == virtio::BackEndRequest::shmem_map) {
        if (mode_ == kRefusesMaps || message.fds.size() != 1) return 1;
        mapped_.emplace(map.window_offset, copy_of(message.fds[0]));
        // As QEMU does, before it answers.
        if (mode_ != kTellsNothing)
            (void)device_.owns({kWindow + map.window_offset, map.size, 0x1000, map.fd_offset},
                               message.fds[0].get());
        return 0;
    }
    const auto found = mapped_.find(map.window_offset);
    if (found == mapped_.end()) return 1;
    if (mode_ == kRefusesUnmaps || mode_ == kLies) {
        lied_ = true;
        kept_.push_back(std::move(found->second));
    }
    mapped_.erase(found);
    return mode_ == kRefusesUnmaps ? 1 : 0;
}

// --- the guest

FuzzGuest::FuzzGuest(front::VhostFs &device) : device_(device), ram_(kRam), memory_(device) {
    PMFS_ASSERT(memory_.add(ram_.region(), FileDescriptor(::dup(ram_.fd()))).ok());
    driver_ = std::make_unique<DriverQueue>(ram_, DriverQueue::Options{.size = kQueueSize});
    ram_empty_ = ram_.used();
    start();
}

void FuzzGuest::start() {
    monitor_ = std::make_unique<Monitor>(device_);
    driver_->restart();
    ram_.give_back_to(ram_empty_);
    const vhost_vring_addr rings = driver_->address(0);
    const virtio::Virtqueue::Setup setup = {.size = kQueueSize,
                                            .descriptors = rings.desc_user_addr,
                                            .available = rings.avail_user_addr,
                                            .used = rings.used_user_addr};
    // The driver's rings are good, and so are its chains: only addresses are not.
    auto broken = [](const std::string &) { PMFS_ASSERT(false && "the queue is broken"); };
    queue_ = virtio::Virtqueue::make(setup, memory_.table(), device_, broken).take();
}

void FuzzGuest::stop() {
    queue_->close();
    stop_waiting();
    collect();
    lied_ = lied();
}

FuzzGuest::~FuzzGuest() {
    stop();
    queue_->detach();
    device_.disconnected();
    monitor_.reset();
}

void FuzzGuest::reconnect() {
    stop();
    queue_->detach();
    device_.disconnected();
    start();
}

void FuzzGuest::reset() {
    stop();
    device_.reset();
    start();
}

void FuzzGuest::stop_waiting() {
    const auto end = std::chrono::steady_clock::now() + kStopMax;
    while (!queue_->wait_idle(std::chrono::milliseconds(1))) {
        device_.stopping(1);
        PMFS_ASSERT(std::chrono::steady_clock::now() < end && "a request never ends");
    }
}

std::optional<unsigned> FuzzGuest::send(const std::string &message, const Step &twisted) {
    const auto twist = static_cast<Twist>(twisted.twist % kTwists);
    const std::size_t room = twist == kLittleRoom ? twisted.twist_where % 40
                             : twist == kNoRoom   ? 0
                                                  : std::size_t{1} << 20;
    const bool pages = twist == kManyPieces;
    if (sent_.size() >= kSentMax || ram_.size() - ram_.used() < kRamLeft) {
        stop_waiting();
        return std::nullopt;
    }
    std::vector<DriverQueue::Piece> chain;
    const auto add = [&](std::size_t size, bool write) {
        const std::size_t at = ram_.take(size);
        chain.push_back({ram_.guest(at), static_cast<std::uint32_t>(size), write});
        return at;
    };
    const std::size_t first = pages ? std::min<std::size_t>(message.size(), 7 + twisted.more) : 0;
    if (first != 0) std::memcpy(ram_.at(add(first, false)), message.data(), first);
    if (first != message.size())
        std::memcpy(ram_.at(add(message.size() - first, false)), message.data() + first,
                    message.size() - first);
    const std::uint64_t in_window = Monitor::kWindow + twisted.twist_where % 8 * 0x100000;
    if (twist == kBadSource) chain.back().guest += kRam;
    // The payload of a write.
    if (twist == kWindowSource && message.size() > sizeof(fuse_in_header) + 40) {
        const std::uint32_t rest =
            chain.back().size - static_cast<std::uint32_t>(sizeof(fuse_in_header)) - 40;
        chain.back().size -= rest;
        chain.push_back({in_window, rest, false});
    }
    if (twist == kBadTarget || twist == kWindowTarget) {
        add(sizeof(fuse_out_header), true);
        chain.push_back({twist == kBadTarget ? 0 : in_window, 4096, true});
    } else if (room != 0) {
        if (pages) add(5, true);
        add(room, true);
    }
    if (chain.empty()) return std::nullopt;
    const unsigned id = driver_->submit(chain);
    sent_[id] = {++next_, std::move(chain)};
    auto taken = queue_->take();
    PMFS_ASSERT(taken != nullptr);
    const unsigned sequence = next_;
    device_.request(twist == kUrgentQueue ? 0 : 1, std::move(taken));
    return sequence;
}

void FuzzGuest::collect() {
    while (const auto used = driver_->poll()) {
        const auto found = sent_.find(used->id);
        PMFS_ASSERT(found != sent_.end());  // completed once
        Answer one{.sequence = found->second.sequence, .written = used->written, .bytes = {}};
        for (const auto &piece : found->second.pieces) {
            const std::uint64_t at = piece.guest - ram_.guest(0);
            if (!piece.write || at >= kRam) continue;
            const std::size_t size =
                std::min<std::size_t>(used->written - one.bytes.size(), piece.size);
            one.bytes.insert(one.bytes.end(), ram_.at(at), ram_.at(at) + size);
        }
        sent_.erase(found);
        answers_.push_back(std::move(one));
    }
    if (sent_.empty()) ram_.give_back_to(ram_empty_);
}

std::vector<Answer> FuzzGuest::answers() {
    collect();
    return std::exchange(answers_, {});
}

}  // namespace pmfs::test
