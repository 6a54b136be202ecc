// Requests to the front end, one at a time.
#include "virtio/back_channel.h"

#include <sys/eventfd.h>
#include <unistd.h>

namespace pmfs::virtio {

Result<std::shared_ptr<BackChannel>> BackChannel::make() {
    std::shared_ptr<BackChannel> channel(new BackChannel);
    channel->cancel_ = FileDescriptor(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!channel->cancel_.ok()) return Error(errno, "cannot make an eventfd");
    return channel;
}

void BackChannel::connect(FileDescriptor socket) {
    if (connected_) return;  // the first one is kept
    socket_ = std::move(socket);
    connected_ = true;
}

void BackChannel::negotiated(std::uint64_t features) {
    const auto has = [features](Protocol feature) { return (features & bit(feature)) != 0; };
    const bool asks = has(Protocol::backend_req) && has(Protocol::reply_ack);
    has_barrier_ = asks && has(Protocol::config);
    has_window_ = asks && has(Protocol::backend_send_fd) && has(Protocol::shmem);
}

void BackChannel::suspend() {
    suspended_ = true;
    const std::uint64_t one = 1;
    (void)!::write(cancel_.get(), &one, sizeof one);
}

void BackChannel::resume() {
    if (closed_ || !suspended_) return;
    std::uint64_t count = 0;
    (void)!::read(cancel_.get(), &count, sizeof count);
    suspended_ = false;
}

void BackChannel::close() {
    closed_ = true;
    suspend();
}

Result<> BackChannel::map(int fd, std::uint64_t fd_offset, std::uint64_t window_offset,
                          std::uint64_t size, bool writable) {
    if (!has_window()) return Error(ENOTCONN, "the front end has no window");
    const WindowMap map = {
        0, {}, fd_offset, window_offset, size, writable ? WindowMap::kWritable : 0};
    return ask(BackEndRequest::shmem_map, bytes_of(map), fd);
}

Result<> BackChannel::unmap(std::uint64_t window_offset, std::uint64_t size) {
    if (!has_window()) return Error(ENOTCONN, "the front end has no window");
    const WindowMap map = {0, {}, 0, window_offset, size, 0};
    return ask(BackEndRequest::shmem_unmap, bytes_of(map), -1);
}

Result<> BackChannel::barrier() {
    if (!has_barrier_) return Error(ENOTCONN, "the front end does not support a barrier");
    return ask(BackEndRequest::config_change, {}, -1);
}

Result<> BackChannel::ask(BackEndRequest request, ConstBytes payload, int fd) {
    Lock lock(turn_);
    if (closed_ || !connected_ || lost_) return Error(ENOTCONN, "the front end is gone");
    if (suspended_) return Error(ECANCELED, "the front end stops its queues");
    const auto asked = ask_locked(request, payload, fd);
    if (!asked.ok() && closed_) return Error(ENOTCONN, "the front end is gone");
    return asked;
}

// Answers have no number, but come in the order of the requests.
Result<> BackChannel::settle_locked() {
    for (; owed_ != 0; --owed_) {
        if (!TRY(wait_readable(socket_.get(), cancel_.get())))
            return Error(ECANCELED, "the front end stops its queues");
        if (const auto late = receive_message(socket_.get(), cancel_.get()); !late.ok()) {
            lost_ = true;
            return Error(ENOTCONN, "the front end is gone");
        }
    }
    return {};
}

Result<std::uint64_t> BackChannel::answer_locked(int socket, std::uint32_t request) {
    const Message message = TRY(receive_message(socket, cancel_.get()));
    if (message.header.request != request || (message.header.flags & Header::kReply) == 0 ||
        message.payload.size() != sizeof(std::uint64_t))
        return Error(EPROTO, "the front end's answer is invalid");
    return load<std::uint64_t>(message.payload);
}

Result<> BackChannel::ask_locked(BackEndRequest request, ConstBytes payload, int fd) {
    TRY(settle_locked());
    const auto number = static_cast<std::uint32_t>(request);
    const Header header = {number, Header::kVersion | Header::kNeedReply, 0};
    if (const auto sent = send_message(socket_.get(), cancel_.get(), header, payload, fd);
        !sent.ok()) {
        if (sent.error().errno_value() == ECANCELED) return sent;
        lost_ = true;
        return Error(ENOTCONN, "the front end is gone");
    }
    if (!TRY(wait_readable(socket_.get(), cancel_.get()))) {
        ++owed_;
        return Error(ECANCELED, "the front end stops its queues");
    }
    const auto answer = answer_locked(socket_.get(), number);
    if (!answer.ok()) {
        lost_ = true;
        return Error(ENOTCONN, "the front end is gone");
    }
    if (answer.value() != 0) return Error(EIO, "the front end refused to change its window");
    return {};
}

}  // namespace pmfs::virtio
