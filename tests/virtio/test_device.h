// A device that answers with the bytes that it was sent, unless a test gives it something else to
// do; and what it has seen.
#pragma once
#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "virtio/back_end.h"
#include "virtio/front_end.h"

namespace pmfs::test {

class TestDevice : public virtio::Device {
public:
    using Request = std::function<void(unsigned queue, std::unique_ptr<virtio::Chain> chain)>;

    static void echo(virtio::Chain &chain) {
        std::string bytes(chain.readable_size(), '\0');
        const Bytes all(reinterpret_cast<std::byte *>(bytes.data()), bytes.size());
        chain.complete(chain.write(0, all.first(chain.read(0, all))));
    }

    unsigned queues() const override { return 3; }
    ConstBytes config() const override { return std::as_bytes(std::span(config_)); }
    std::uint64_t window_size() const override { return window; }

    void connected(const virtio::Peer &peer,
                   std::shared_ptr<virtio::BackChannel> channel) override {
        Lock lock(mutex_);
        peer_ = peer;
        channel_ = std::move(channel);
        ++connections;
    }
    void request(unsigned queue, std::unique_ptr<virtio::Chain> chain) override {
        ++requests;
        if (on_request) return on_request(queue, std::move(chain));
        echo(*chain);
    }
    void stopping(unsigned queue) override {
        if (on_stopping) on_stopping(queue);
    }
    void reset() override { ++resets; }
    void broken(unsigned, const std::string &why) override {
        Lock lock(mutex_);
        why_broken_ = why;
        ++breaks;
    }
    void disconnected() override { ++disconnections; }
    bool owns(const virtio::MemoryRegion &region, int fd) override {
        return on_owns && on_owns(region, fd);
    }
    Answer resolve(std::uint64_t guest, std::uint64_t size, virtio::Access access,
                   std::vector<iovec> *pieces, std::shared_ptr<const void> *hold) override {
        return on_resolve ? on_resolve(guest, size, access, pieces, hold) : Answer::not_mine;
    }
    Result<std::shared_ptr<const virtio::MemoryGuard>> guard(std::byte *, std::size_t,
                                                             std::size_t) override {
        struct Counted final : virtio::MemoryGuard {
            explicit Counted(std::atomic<int> &of) : count(of) { ++count; }
            ~Counted() override { --count; }
            bool lost(std::size_t, std::size_t) const override { return false; }
            std::atomic<int> &count;
        };
        if (cannot_guard) return Error(ENOMEM, "no memory for a guard");
        return std::shared_ptr<const virtio::MemoryGuard>(std::make_shared<Counted>(mapped));
    }

    std::shared_ptr<virtio::BackChannel> channel() {
        Lock lock(mutex_);
        return channel_;
    }
    virtio::Peer peer() {
        Lock lock(mutex_);
        return peer_;
    }
    std::string why_broken() {
        Lock lock(mutex_);
        return why_broken_;
    }

    // Set before a front end connects.
    Request on_request;
    std::function<void(unsigned)> on_stopping;
    std::function<bool(const virtio::MemoryRegion &, int)> on_owns;
    std::function<Answer(std::uint64_t, std::uint64_t, virtio::Access, std::vector<iovec> *,
                         std::shared_ptr<const void> *)>
        on_resolve;
    std::uint64_t window = 0;
    std::atomic<int> requests = 0, resets = 0, breaks = 0, connections = 0, disconnections = 0;
    std::atomic<int> mapped = 0;  // mappings that there are
    bool cannot_guard = false;

private:
    std::vector<char> config_ = {'p', 'm', 'f', 's'};
    Mutex mutex_;
    virtio::Peer peer_ GUARDED_BY(mutex_);
    std::string why_broken_ GUARDED_BY(mutex_);
    std::shared_ptr<virtio::BackChannel> channel_ GUARDED_BY(mutex_);
};

// False: not within ten seconds.
template <class Condition>
bool eventually(Condition condition) {
    for (int i = 0; i < 10'000; ++i) {
        if (condition()) return true;
        ::usleep(1000);
    }
    return false;
}

// A back end with such a device, at a socket of its own.
class World {
public:
    explicit World(virtio::SessionOptions options = {}) : options_(std::move(options)) {
        options_.log = [this](const std::string &sentence) {
            Lock lock(mutex_);
            log_ += sentence + "\n";
        };
    }
    // After the device has been told what to do.
    std::string path() {
        if (!back_end_) back_end_ = virtio::BackEnd::listen(device, place_.path(), options_).take();
        return place_.path();
    }
    void end() { back_end_.reset(); }
    std::string log() {
        Lock lock(mutex_);
        return log_;
    }

    TestDevice device;

private:
    SocketPlace place_;
    Mutex mutex_;
    std::string log_ GUARDED_BY(mutex_);
    virtio::SessionOptions options_;
    std::unique_ptr<virtio::BackEnd> back_end_;
};

// Which has negotiated everything and shared its memory.  When it ends, so have the threads that
// served it: whatever a test gave the device to work with is to be made before.
struct Ready {
    explicit Ready(World &world, std::uint64_t features = FrontEnd::kAll)
        : front(world.path()), device(world.device) {
        front.negotiate(features);
        front.share_memory();
        number = device.connections;
    }
    ~Ready() {
        front.hang_up();
        eventually([this] { return device.disconnections >= number; });
    }
    FrontEnd front;
    TestDevice &device;
    int number;
};

}  // namespace pmfs::test
