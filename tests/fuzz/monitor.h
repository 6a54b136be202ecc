// A guest and its VMM in this process, for the requests fuzzer: a client that sends FUSE by a
// virtqueue to the device, and a thread that answers what the device asks of the VMM, truly or not.
#pragma once
#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "front/transports/vhost_fs.h"
#include "fuzz/steps.h"
#include "virtio/driver_queue.h"
#include "virtio/guest_ram.h"

namespace pmfs::test {

// The VMM's end of the back-end channel.
class Monitor {
public:
    static constexpr std::uint64_t kWindow = 0x40'0000'0000;  // the window's address in the guest

    explicit Monitor(front::VhostFs &device);
    // Closes the socket and drops every mapping.
    ~Monitor();
    Monitor(const Monitor &) = delete;
    Monitor &operator=(const Monitor &) = delete;

    void set_mode(std::uint8_t mode) { mode_ = mode; }
    // It did not unmap what it was told to, or says so.
    bool lied() const { return lied_; }

private:
    void serve();
    std::uint64_t obey(const virtio::Message &message);

    front::VhostFs &device_;
    FileDescriptor socket_, stop_;
    std::shared_ptr<virtio::BackChannel> channel_;
    std::atomic<std::uint8_t> mode_ = kObeys;
    std::atomic<bool> lied_ = false;
    std::multimap<std::uint64_t, FileDescriptor> mapped_;  // by offset; the thread's
    std::vector<FileDescriptor> kept_;
    std::thread thread_;
};

// What a request got; nothing: its chain is not complete yet.
struct Answer {
    unsigned sequence = 0;  // of the request, among those of the guest
    std::uint32_t written = 0;
    std::vector<std::byte> bytes;
};

class FuzzGuest {
public:
    explicit FuzzGuest(front::VhostFs &device);
    // As a session ends: the queues first, then the device hears that the VMM is gone.
    ~FuzzGuest();
    FuzzGuest(const FuzzGuest &) = delete;
    FuzzGuest &operator=(const FuzzGuest &) = delete;

    // Sends one message; gives its sequence number, or nothing: there is no room in the queue.
    std::optional<unsigned> send(const std::string &message, const Step &twisted);
    std::vector<Answer> answers();
    // Has every waiting request answered.
    void stop_waiting();

    void reset();
    void reconnect();
    Monitor &monitor() { return *monitor_; }
    // A VMM that was here did not unmap.
    bool lied() const { return lied_ || monitor_->lied(); }

private:
    struct Sent {
        unsigned sequence;
        std::vector<DriverQueue::Piece> pieces;
    };
    void start();
    void stop();
    void collect();

    front::VhostFs &device_;
    GuestRam ram_;
    virtio::GuestMemory memory_;
    std::unique_ptr<Monitor> monitor_;
    std::unique_ptr<DriverQueue> driver_;
    std::shared_ptr<virtio::Virtqueue> queue_;
    std::size_t ram_empty_ = 0;
    std::map<unsigned, Sent> sent_;  // by chain
    std::vector<Answer> answers_;
    unsigned next_ = 0;
    bool lied_ = false;
};

}  // namespace pmfs::test
