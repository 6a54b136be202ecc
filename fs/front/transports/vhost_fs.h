// The transport of a guest: a virtio-fs device, whose requests come by virtqueues from a VMM that
// speaks vhost-user (QEMU, and others).  Virtio 1.2, 5.11 "File System Device".
//
// A mount of the device in a guest is one client, from its INIT until DESTROY, a new INIT, or the
// end of its VMM; then everything that it held is released.  The VMM may connect again.
#pragma once
#include <linux/virtio_fs.h>

#include <chrono>
#include <functional>
#include <memory>
#include <set>
#include <string>

#include "base/message_limit.h"
#include "base/mutex.h"
#include "front/clients/clients.h"
#include "front/requests/dispatcher.h"
#include "front/transports/dax_window.h"
#include "virtio/back_end.h"

namespace pmfs::front {

struct GuestOptions {
    std::string socket;        // where the VMM connects
    std::string tag = "pmfs";  // what the guest mounts; 36 bytes at most
    std::string root;          // the directory that it sees; empty: the volume's root
    // The number of request queues, without the high-priority queue.  QEMU needs one more (num_vqs,
    // or num-request-queues).
    unsigned request_queues = 1;
    std::uint64_t window = 0;  // bytes of its DAX window, a multiple of DaxWindow::kRange; 0: none
    std::chrono::microseconds polling{0};  // how long a queue is polled before its thread sleeps
    Policy policy = Policy::guest();
    std::vector<IdRange> users, groups;  // none: its ids are the volume's
};

class VhostFs final : public virtio::Device {
public:
    using Log = std::function<void(const std::string &sentence)>;
    // Serves each VMM that connects.  `clients` must outlive it.
    static Result<std::unique_ptr<VhostFs>> start(Clients &clients, const DispatchOptions &dispatch,
                                                  const GuestOptions &options,
                                                  virtio::Listener listener, Log log);
    // Disconnects the VMM, and releases what the guest held.
    ~VhostFs() override;

    // virtio::Device
    unsigned queues() const override { return 1 + options_.request_queues; }
    ConstBytes config() const override { return bytes_of(config_); }
    void connected(const virtio::Peer &peer, std::shared_ptr<virtio::BackChannel> channel) override;
    void request(unsigned queue, std::unique_ptr<virtio::Chain> chain) override;
    std::uint64_t window_size() const override { return options_.window; }
    void stopping(unsigned queue) override;
    void reset() override;
    void broken(unsigned queue, const std::string &why) override;
    void disconnected() override;
    bool owns(const virtio::MemoryRegion &region, int fd) override;
    Answer resolve(std::uint64_t guest, std::uint64_t size, virtio::Access access,
                   std::vector<iovec> *pieces, std::shared_ptr<const void> *hold) override;
    Result<std::shared_ptr<const virtio::MemoryGuard>> guard(std::byte *start, std::size_t size,
                                                             std::size_t unit) override;

private:
    VhostFs(Clients &clients, const DispatchOptions &dispatch, const GuestOptions &options,
            Log log);
    int set_up_mapping(ConstBytes message) EXCLUDES(mutex_);
    int remove_mappings(ConstBytes message);
    void count(std::uint32_t opcode) EXCLUDES(mutex_);
    bool stays_apart(const virtio::Chain &chain) const;
    bool dispatch(const Port &port, Bytes message, std::span<const iovec> apart) EXCLUDES(mutex_);
    void begin_client() EXCLUDES(mutex_);
    void end_client() EXCLUDES(mutex_);
    void unmounted() EXCLUDES(mutex_);
    void log(const std::string &sentence, const char *file = __builtin_FILE(),
             unsigned line = __builtin_LINE());

    Clients &clients_;
    DispatchOptions dispatch_;
    const GuestOptions options_;
    const Log log_;
    MessageLimit limit_;
    virtio_fs_config config_{};

    std::unique_ptr<DaxWindow> window_;  // null: there is none
    std::atomic<std::uint32_t> monitor_pid_{0};

    // Shared by requests while they are dispatched, so that a client ends between requests.
    SharedMutex mutex_;
    std::shared_ptr<Dispatcher> dispatcher_ GUARDED_BY(mutex_);
    std::set<int> refused_ GUARDED_BY(mutex_);  // errors of mapping: each is logged once

    std::unique_ptr<virtio::BackEnd> back_end_;  // the last member: its threads use the others
};

}  // namespace pmfs::front
