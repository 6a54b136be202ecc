// A split virtqueue, seen from the device: requests that the driver offers become Chains, and
// completed chains go to the used ring.  Virtio 1.2, 2.7 "Split Virtqueues"; <linux/virtio_ring.h>.
//
// The driver is not trusted.  Each index and each descriptor is read once, into our own memory, and
// checked there.  A ring or a chain that contradicts the specification *breaks* the queue: nothing
// is taken from it any more, and its owner gets one sentence.  An address outside of the memory
// does not break it: it may be in a range of another device that no table contains, so the chain
// has a piece without a place, and the device answers that it cannot reach it.
#pragma once
#include <sys/uio.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/file_descriptor.h"
#include "base/mutex.h"
#include "base/result.h"
#include "virtio/guest_memory.h"
#include "virtio/kernel_headers.h"

namespace pmfs::virtio {

// QEMU's VIRTQUEUE_MAX_SIZE, too: of a queue's size, and of the descriptors in one chain.
inline constexpr unsigned kQueueSizeMax = 1024;

class Virtqueue;

// One request: descriptors that the device reads, then others that it writes.  Its memory stays
// mapped for as long as it lives.  Any thread may complete it, in any order with others.
class Chain {
public:
    // A chain that was not completed is completed with nothing written.
    ~Chain();
    Chain(const Chain &) = delete;
    Chain &operator=(const Chain &) = delete;

    // A piece whose iov_base is null is out of reach: see whole().
    std::span<const iovec> readable() const { return readable_.pieces; }
    std::span<const iovec> writable() const { return writable_.pieces; }
    std::size_t readable_size() const { return readable_.size; }
    std::size_t writable_size() const { return writable_.size; }
    // Whether every piece has a place.
    bool whole() const { return whole_; }

    // The readable bytes from that offset on, in place: valid until the chain is completed.  For a
    // chain that is whole.
    void readable_behind(std::size_t offset, std::vector<iovec> *pieces) const;
    // Some of its pieces are not the front end's memory, but were resolved by the device.
    bool borrows() const { return !holds_.empty(); }

    // Copies from the readable pieces, or to the writable ones, at an offset in them.  Gives the
    // number of bytes, up to the first one that does not exist or is out of reach.
    std::size_t read(std::size_t offset, Bytes to) const;
    std::size_t write(std::size_t offset, ConstBytes from) const;

    // Returns it to the driver: so many bytes were written, from the first writable one on. To be
    // called once; from then on the pieces belong to the driver.
    void complete(std::size_t written);

    // The chain is about to wait for another request.  False: waiting chains have half of the queue
    // already, and the driver must be able to send others.
    bool let_wait();

private:
    friend class Virtqueue;
    friend class Walk;
    struct Pieces {
        std::vector<iovec> pieces;
        std::size_t size = 0;
    };
    Chain(std::shared_ptr<Virtqueue> queue, std::uint16_t head,
          std::shared_ptr<const MemoryTable> memory);

    std::shared_ptr<Virtqueue> queue_;  // null: completed
    std::uint16_t head_;
    bool whole_ = true;
    unsigned entries_ = 0;  // of the descriptor table, in which an indirect one takes one
    bool waits_ = false;
    Pieces readable_, writable_;
    std::shared_ptr<const MemoryTable> memory_;
    std::vector<std::shared_ptr<const void>> holds_;
};

// One thread takes chains; another, that of the messages, changes memory and descriptors and
// closes.
class Virtqueue : public std::enable_shared_from_this<Virtqueue> {
public:
    struct Setup {
        unsigned size = 0;  // a power of two, kQueueSizeMax at most
        // The front end's own addresses.
        std::uint64_t descriptors = 0, available = 0, used = 0;
        std::uint16_t next = 0;  // which entry of the available ring comes first
        // VIRTIO_RING_F_INDIRECT_DESC, VIRTIO_RING_F_EVENT_IDX
        bool indirect = false, event_index = false;
        std::uint64_t bytes_max = 64 * kMiB;  // in a chain's readable pieces, and in its writable
    };
    using Broken = std::function<void(const std::string &sentence)>;

    // EINVAL: an invalid size, or rings that are not in memory or not aligned.  `owner` outlives
    // the queue.  `broken` is called once at most, by any thread, with no lock held.
    static Result<std::shared_ptr<Virtqueue>> make(const Setup &setup,
                                                   std::shared_ptr<const MemoryTable> memory,
                                                   MemoryOwner &owner, Broken broken);
    static Result<> check_size(unsigned size);

    // The next chain; null: there is none now.
    std::unique_ptr<Chain> take() EXCLUDES(mutex_);
    // Whether take() would find one.
    bool pending() const EXCLUDES(mutex_);
    // Tells the driver not to kick, or to kick again.  True: something was offered meanwhile,
    // possibly without a kick.
    void stop_kicks() EXCLUDES(mutex_);
    bool want_kicks() EXCLUDES(mutex_);

    // The eventfds that notify the driver of completions, and of a broken queue.  Null: it polls.
    using Event = std::shared_ptr<const FileDescriptor>;
    void set_call(Event call) EXCLUDES(mutex_);
    void set_error(Event error) EXCLUDES(mutex_);
    // If the rings are not in the new table, the queue breaks.
    void set_memory(std::shared_ptr<const MemoryTable> memory) EXCLUDES(mutex_);

    // From now on take() returns nothing.
    void close() EXCLUDES(mutex_);
    // The same, and the driver is gone: completions are not reported.
    void detach() EXCLUDES(mutex_);
    // Waits until no chain is under way; false: the time is over.
    bool wait_idle(std::chrono::milliseconds time_max) EXCLUDES(mutex_);
    std::uint16_t next() const EXCLUDES(mutex_);

private:
    friend class Chain;
    struct Rings {
        const vring_desc *descriptors = nullptr;
        vring_avail *available = nullptr;
        vring_used *used = nullptr;
    };
    Virtqueue(const Setup &setup, MemoryOwner &owner, Broken broken);
    Result<Rings> find_rings(const MemoryTable &memory) const;
    // Gives the reason why the entry may not be taken; null: it may.
    const char *next_head_locked(std::uint16_t available, std::uint16_t *head) REQUIRES(mutex_);
    void complete(std::uint16_t head, std::uint32_t written, unsigned waiting) EXCLUDES(mutex_);
    bool let_wait(unsigned entries) EXCLUDES(mutex_);
    bool driver_wants_call_locked() const REQUIRES(mutex_);
    // Drops a chain without completing it.
    void forget(Chain &chain) EXCLUDES(mutex_);
    void leave_locked() REQUIRES(mutex_);
    void break_off(const char *why) EXCLUDES(mutex_);
    bool break_locked() REQUIRES(mutex_);

    const Setup setup_;
    MemoryOwner &owner_;
    const Broken on_broken_;

    mutable Mutex mutex_;
    CondVar idle_;
    std::shared_ptr<const MemoryTable> memory_ GUARDED_BY(mutex_);
    Rings rings_ GUARDED_BY(mutex_);  // all null: they are gone, and the queue is broken
    Event call_ GUARDED_BY(mutex_), error_ GUARDED_BY(mutex_);
    std::uint16_t next_ GUARDED_BY(mutex_);
    std::uint16_t used_next_ GUARDED_BY(mutex_) = 0;
    unsigned under_way_ GUARDED_BY(mutex_) = 0;
    unsigned waiting_ GUARDED_BY(mutex_) = 0;  // entries of chains that wait
    bool broken_ GUARDED_BY(mutex_) = false;
    bool closed_ GUARDED_BY(mutex_) = false;
    bool detached_ GUARDED_BY(mutex_) = false;
    bool told_ GUARDED_BY(mutex_) = false;  // the first completion is always notified
};

}  // namespace pmfs::virtio
