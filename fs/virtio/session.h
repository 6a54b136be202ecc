// One front end, from its first message until it is gone: what it has negotiated, the guest's
// memory, the queues.  One thread reads its messages; each started queue has its own.
//
// A queue is started by SET_VRING_KICK, when its size and its rings are known, and stopped by
// GET_VRING_BASE, RESET_DEVICE or status 0.  Whether it is enabled is a separate state
// (docs/interop/vhost-user.rst, "Ring states"); a queue that is not enabled is not served.
#pragma once
#include <array>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "virtio/device.h"
#include "virtio/queue_thread.h"
#include "virtio/vhost_user.h"

namespace pmfs::virtio {

struct SessionOptions {
    // Offers VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS: regions one by one, and more than 8.
    bool memory_slots = false;
    std::chrono::microseconds polling{0};       // QueueThread::Setup
    std::uint64_t chain_bytes_max = 64 * kMiB;  // Virtqueue::Setup
    std::function<void(const std::string &sentence)> log = [](const std::string &) {};
};

class Session {
public:
    // `stop`: an eventfd that becomes readable when the session is to end.
    Session(Device &device, const SessionOptions &options, FileDescriptor socket, int stop,
            std::shared_ptr<BackChannel> channel);
    // Tears everything down.
    ~Session();
    Session(const Session &) = delete;
    Session &operator=(const Session &) = delete;

    // Reads the next message and executes it.  ECONNRESET: the front end is gone; ECANCELED: the
    // session is to end; other errors: the message is invalid, and ends the connection.
    Result<> step();

    // Of the device, and of the protocol.
    std::uint64_t features_offered() const;
    std::uint64_t protocol_offered() const;

private:
    struct Queue {
        unsigned size = 0;
        std::optional<vhost_vring_addr> rings;
        std::uint16_t next = 0;
        bool enabled = false;
        Virtqueue::Event call, error;
        // Either both are set (the queue is started) or none.
        std::shared_ptr<Virtqueue> running;
        std::unique_ptr<QueueThread> thread;
    };

    Result<> handle(Message &message);
    Result<> answer(const Message &message);  // requests that have an answer of their own
    Result<> answer_config(const Message &message);
    Result<> answer_base(const Message &message);
    Result<> obey(Message &message);  // and those that have none
    Result<> obey_queue(Message &message);
    Result<> obey_memory(Message &message);
    Result<> reply(const Message &message, ConstBytes payload);
    Result<> reply_number(const Message &message, std::uint64_t number);

    Result<> set_features(std::uint64_t features);
    Result<> set_protocol(std::uint64_t features);
    Result<> set_status(std::uint64_t status);
    Result<> set_ring_state(Request request, const vhost_vring_state &state);
    Result<> start(unsigned index, FileDescriptor kick);
    Result<Queue *> queue_at(std::uint64_t index);
    Result<> stop(std::span<const unsigned> indices);
    Result<> stop_all();
    Result<> wait_idle(unsigned index, std::chrono::steady_clock::time_point since, bool *told);
    bool gone() const;

    Device &device_;
    const SessionOptions options_;
    const FileDescriptor socket_;
    const int stop_;
    const std::shared_ptr<BackChannel> channel_;
    GuestMemory memory_;
    std::uint64_t features_ = 0, protocol_ = 0;
    std::uint8_t status_ = 0;
    std::vector<Queue> queues_;
};

}  // namespace pmfs::virtio
