// A front end without a guest: speaks vhost-user over the socket, has memory and drives virtqueues.
// For attacks every message can be sent as bytes.  What does not happen in time throws.
//
//     FrontEnd front(path);
//     front.negotiate();
//     front.share_memory();
//     DriverQueue &queue = front.add_queue(0);
//     queue.submit("a request", 64);
//     CHECK(queue.wait()->bytes == "an answer");
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "base/bytes.h"
#include "base/file_descriptor.h"
#include "virtio/driver_queue.h"
#include "virtio/guest_ram.h"
#include "virtio/vhost_user.h"

namespace pmfs::test {

class FrontEnd {
public:
    static constexpr std::uint64_t kAll = ~std::uint64_t{0};

    explicit FrontEnd(const std::string &path, std::size_t ram_size = 4 * kMiB);
    ~FrontEnd();
    FrontEnd(const FrontEnd &) = delete;
    FrontEnd &operator=(const FrontEnd &) = delete;

    // What the back end offers, of these.
    void negotiate(std::uint64_t features = kAll, std::uint64_t protocol = kAll);
    std::uint64_t features() const { return features_; }
    std::uint64_t protocol() const { return protocol_; }

    GuestRam &ram() { return ram_; }
    void share_memory();  // SET_MEM_TABLE with ram()
    // A queue with rings in ram(), set up, started and enabled.
    DriverQueue &add_queue(unsigned index, unsigned size = 16, bool indirect = false);
    DriverQueue &queue(unsigned index) { return *queues_.at(index); }
    // Sets up and starts what was stopped.
    void start(unsigned index, std::uint16_t base = 0);
    std::uint16_t stop(unsigned index);  // GET_VRING_BASE

    // A request that has to be acknowledged (REPLY_ACK); 0: it went well.
    std::uint64_t ask(virtio::Request request, ConstBytes payload = {},
                      std::span<const int> fds = {});
    std::uint64_t ask_number(virtio::Request request, std::uint64_t number,
                             std::span<const int> fds = {});
    std::uint64_t ask_state(virtio::Request request, unsigned index, unsigned number);
    // A request with an answer of its own: its payload.
    std::vector<std::byte> get(virtio::Request request, ConstBytes payload = {});
    std::uint64_t get_number(virtio::Request request);

    // Without an answer, and with any header.
    void send(virtio::Header header, ConstBytes payload, std::span<const int> fds = {});
    void send_bytes(ConstBytes bytes, std::span<const int> fds = {});
    // Whether the back end hangs up, in time.
    bool hung_up();
    void hang_up();
    int socket() const { return socket_.get(); }

    // Answers what the back end asks, in a thread of its own; 0: it went well.  The descriptor is
    // closed behind the call.
    using Answer =
        std::function<std::uint64_t(virtio::BackEndRequest, const virtio::WindowMap &, int fd)>;
    void answer_back_end(Answer answer);

private:
    std::vector<std::byte> receive(virtio::Request request);
    void serve_back_end(const Answer &answer);

    GuestRam ram_;
    FileDescriptor socket_, back_socket_;
    std::uint64_t features_ = 0, protocol_ = 0;
    std::vector<std::unique_ptr<DriverQueue>> queues_;
    std::thread back_thread_;
};

// A directory for a socket; it goes with what is in it.
class SocketPlace {
public:
    SocketPlace();
    ~SocketPlace();
    SocketPlace(const SocketPlace &) = delete;
    SocketPlace &operator=(const SocketPlace &) = delete;
    std::string path() const { return directory_ + "/socket"; }

private:
    std::string directory_;
};

}  // namespace pmfs::test
