// See front_end.h.
#include "virtio/front_end.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <stdexcept>

#include "base/descriptor_message.h"

namespace pmfs::test {

using virtio::Header;
using virtio::Request;

namespace {

constexpr int kWaitMs = 10'000;

[[noreturn]] void fail(const std::string &what) {
    throw std::runtime_error("front end: " + what);
}

// False: the other side is gone.
bool read_all(int socket, void *to, std::size_t size, std::vector<FileDescriptor> *fds = nullptr) {
    for (std::size_t done = 0; done < size;) {
        pollfd one = {socket, POLLIN, 0};
        if (::poll(&one, 1, kWaitMs) <= 0) fail("no answer in time");
        const Bytes rest(static_cast<std::byte *>(to) + done, size - done);
        std::vector<FileDescriptor> ignored;
        const ssize_t got = receive_with(socket, rest, fds != nullptr ? fds : &ignored, 0);
        if (got <= 0) return false;
        done += static_cast<std::size_t>(got);
    }
    return true;
}

}  // namespace

FrontEnd::FrontEnd(const std::string &path, std::size_t ram_size)
    : ram_(ram_size), socket_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
    if (::connect(socket(), reinterpret_cast<const sockaddr *>(&address), sizeof address) != 0)
        fail("cannot connect");
}

FrontEnd::~FrontEnd() {
    hang_up();
}

void FrontEnd::hang_up() {
    ::shutdown(socket(), SHUT_RDWR);
    ::shutdown(back_socket_.get(), SHUT_RDWR);
    if (back_thread_.joinable()) back_thread_.join();
    socket_.reset();
    back_socket_.reset();
}

void FrontEnd::send_bytes(ConstBytes bytes, std::span<const int> fds) {
    // (A peer that has hung up meanwhile is noticed when we read.)
    (void)!send_with(socket(), bytes, fds, 0);
}

void FrontEnd::send(Header header, ConstBytes payload, std::span<const int> fds) {
    std::vector<std::byte> bytes(sizeof header + payload.size());
    std::memcpy(bytes.data(), &header, sizeof header);
    if (!payload.empty()) std::memcpy(bytes.data() + sizeof header, payload.data(), payload.size());
    send_bytes(bytes, fds);
}

std::vector<std::byte> FrontEnd::receive(Request request) {
    Header header;
    if (!read_all(socket(), &header, sizeof header)) fail("the back end has hung up");
    if (header.request != static_cast<std::uint32_t>(request) ||
        header.flags != (Header::kVersion | Header::kReply) || header.size > 65536)
        fail("an answer to something else");
    std::vector<std::byte> payload(header.size);
    if (!read_all(socket(), payload.data(), payload.size())) fail("the back end has hung up");
    return payload;
}

std::uint64_t FrontEnd::ask(Request request, ConstBytes payload, std::span<const int> fds) {
    send({static_cast<std::uint32_t>(request), Header::kVersion | Header::kNeedReply,
          static_cast<std::uint32_t>(payload.size())},
         payload, fds);
    return load<std::uint64_t>(receive(request));
}

std::uint64_t FrontEnd::ask_number(Request request, std::uint64_t number,
                                   std::span<const int> fds) {
    return ask(request, bytes_of(number), fds);
}

std::uint64_t FrontEnd::ask_state(Request request, unsigned index, unsigned number) {
    const vhost_vring_state state = {index, number};
    return ask(request, bytes_of(state));
}

std::vector<std::byte> FrontEnd::get(Request request, ConstBytes payload) {
    send({static_cast<std::uint32_t>(request), Header::kVersion,
          static_cast<std::uint32_t>(payload.size())},
         payload);
    return receive(request);
}

std::uint64_t FrontEnd::get_number(Request request) {
    return load<std::uint64_t>(get(request));
}

void FrontEnd::negotiate(std::uint64_t features, std::uint64_t protocol) {
    const auto tell = [this](Request request, std::uint64_t number) {
        send({static_cast<std::uint32_t>(request), Header::kVersion, sizeof number},
             bytes_of(number));
    };
    features_ = get_number(Request::get_features) & features;
    protocol_ = get_number(Request::get_protocol_features) & protocol;
    tell(Request::set_protocol_features, protocol_);
    send({static_cast<std::uint32_t>(Request::set_owner), Header::kVersion, 0}, {});
    tell(Request::set_features, features_);
}

void FrontEnd::share_memory() {
    struct {
        std::uint32_t count = 1, padding = 0;
        virtio::MemoryRegion region;
    } table{.region = ram_.region()};
    const int fds[] = {ram_.fd()};
    if (ask(Request::set_mem_table, bytes_of(table), fds) != 0) fail("memory was refused");
}

DriverQueue &FrontEnd::add_queue(unsigned index, unsigned size, bool indirect) {
    if (queues_.size() <= index) queues_.resize(index + 1);
    const bool event_index = (features_ & (std::uint64_t{1} << VIRTIO_RING_F_EVENT_IDX)) != 0;
    queues_[index] =
        std::make_unique<DriverQueue>(ram_, DriverQueue::Options{size, event_index, indirect});
    start(index);
    return *queues_[index];
}

void FrontEnd::start(unsigned index, std::uint16_t base) {
    const DriverQueue &queue = *queues_.at(index);
    const int call[] = {queue.call_fd()}, kick[] = {queue.kick_fd()}, error[] = {queue.error_fd()};
    const vhost_vring_addr address = queue.address(index);
    if (ask_state(Request::set_vring_num, index, queue.size()) != 0 ||
        ask_state(Request::set_vring_base, index, base) != 0 ||
        ask(Request::set_vring_addr, bytes_of(address)) != 0 ||
        ask_number(Request::set_vring_call, index, call) != 0 ||
        ask_number(Request::set_vring_err, index, error) != 0 ||
        ask_number(Request::set_vring_kick, index, kick) != 0 ||
        ask_state(Request::set_vring_enable, index, 1) != 0)
        fail("a queue was refused");
}

std::uint16_t FrontEnd::stop(unsigned index) {
    const vhost_vring_state state = {index, 0};
    const auto base = load<vhost_vring_state>(get(Request::get_vring_base, bytes_of(state)));
    return static_cast<std::uint16_t>(base.num);
}

bool FrontEnd::hung_up() {
    char byte;
    return !read_all(socket(), &byte, 1);
}

void FrontEnd::answer_back_end(Answer answer) {
    int pair[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) fail("no socket pair");
    back_socket_ = FileDescriptor(pair[0]);
    const FileDescriptor theirs(pair[1]);
    const int fds[] = {pair[1]};
    if (ask(Request::set_backend_req_fd, {}, fds) != 0) fail("a back-end channel was refused");
    back_thread_ = std::thread([this, call = std::move(answer)] { serve_back_end(call); });
}

void FrontEnd::serve_back_end(const Answer &answer) {
    for (;;) {
        pollfd one = {back_socket_.get(), POLLIN, 0};
        if (::poll(&one, 1, -1) < 0) continue;
        Header header;
        std::vector<FileDescriptor> handed;
        if (!read_all(back_socket_.get(), &header, sizeof header, &handed)) return;
        const int fd = handed.empty() ? -1 : handed.front().get();
        virtio::WindowMap map{};
        if (header.size > sizeof map || !read_all(back_socket_.get(), &map, header.size)) return;
        struct {
            Header header;
            std::uint64_t result;
        } __attribute__((packed))
        reply = {{header.request, Header::kVersion | Header::kReply, sizeof(std::uint64_t)},
                 answer(static_cast<virtio::BackEndRequest>(header.request), map, fd)};
        if ((header.flags & Header::kNeedReply) != 0)
            (void)!::send(back_socket_.get(), &reply, sizeof reply, MSG_NOSIGNAL);
    }
}

SocketPlace::SocketPlace() {
    std::string name = std::filesystem::temp_directory_path() / "pmfs-vhost-XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) fail("no directory");
    directory_ = name;
}

SocketPlace::~SocketPlace() {
    std::error_code ignored;
    std::filesystem::remove_all(directory_, ignored);
}

}  // namespace pmfs::test
