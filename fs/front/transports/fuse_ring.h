// One ring of FUSE over io_uring: the requests of one CPU, and the memory that they come in.
//
// An entry is a piece of memory into which the kernel puts one request, and from which it takes the
// reply: it is in use until its request has been answered. Because requests may wait for others
// here, a ring must never have all of its entries in use: it makes more (docs/decisions/0025).
//
// The ring's own thread does everything except answers: a thread that answers elsewhere fills in
// the entry and hands it over.
#pragma once
#include <liburing.h>

#include <atomic>
#include <memory>
#include <vector>

#include "base/bytes.h"
#include "base/file_descriptor.h"
#include "base/mutex.h"
#include "base/places.h"
#include "front/requests/dispatcher.h"
#include "front/transports/fuse_uring_abi.h"
#include "front/transports/transport.h"

namespace pmfs::front {

class FuseRing {
public:
    // `cpu`: where its thread runs.  `queues`: those of the kernel that it serves, its CPU's first;
    // the others belong to CPUs that are offline at the start.  `device`: /dev/fuse, mounted.
    // `resident_max`: bytes of its unused entries that stay in memory.
    FuseRing(Dispatcher &dispatcher, Traffic &traffic, int device, unsigned cpu,
             std::vector<unsigned> queues, std::size_t resident_max);
    ~FuseRing();
    FuseRing(const FuseRing &) = delete;
    FuseRing &operator=(const FuseRing &) = delete;

    // --- by its own thread
    // Does everything that needs system calls which the server gives up later: makes the ring, and
    // sets the thread's CPU.
    Result<> set_up();
    // Gives the kernel its entries.  When all rings have done so, requests come.
    Result<> enlist();
    // Until the connection ends or end() is called; errors: the ring does not work any more.
    Result<> serve();

    // --- by others
    // Returns when no request is being handled, and none will be; answers are still sent.
    void hold();
    // Makes serve() return.
    void end();

private:
    class Entry;
    struct Queue {
        unsigned number = 0;
        std::vector<std::unique_ptr<Entry>> entries;
        std::size_t usable = 0;      // of the entries: those that the kernel has not refused
        std::size_t taken = 0;       // and of those: that have a request that is not answered
        bool requests_wait = false;  // perhaps, in the kernel: it has not been asked for them
    };
    struct Unmap {
        std::size_t size;
        void operator()(std::byte *memory) const;
    };
    enum Command : unsigned { kServe, kHold, kEnd };
    static constexpr std::size_t kEntriesMax = 4096;  // of one queue
    static constexpr std::size_t kWaitingMax = kEntriesMax / 2;

    static bool run_on(unsigned cpu);
    Result<> make_ring();
    Result<> restrict_ring();
    Result<> add_entries(Queue &queue, std::size_t count);
    io_uring_sqe *next_sqe();
    void prepare(Entry &entry, FuseUringCommand command);
    void listen();
    void order(Command command);
    Result<> take_completions();
    Result<> completed(const io_uring_cqe &cqe);
    Result<> handle(Entry &entry);
    void answered(Entry &entry);
    void commit(Entry &entry);
    void take_handed_over() EXCLUDES(mutex_);
    void make_room(Queue &queue);
    bool ask_for_requests(const Queue &queue);
    bool ask_for_request(std::uint64_t node);
    void touch(Entry &entry, std::size_t size);
    void give_memory_back();

    Dispatcher &dispatcher_;
    Traffic &traffic_;
    const int device_;
    const unsigned cpu_;
    const std::size_t resident_max_;
    std::vector<Queue> queues_;

    // --- its own thread's
    io_uring ring_{};
    bool has_ring_ = false;
    bool gone_ = false;              // the connection
    int refusal_ = 0;                // why the kernel refused an entry
    std::size_t resident_ = 0;       // bytes of payloads that were written to
    std::uint64_t round_ = 1;        // counts submissions
    std::uint64_t asked_ = 0;        // requests of the kernel
    std::uint64_t woken_ = 0;        // the buffer for reading wake_
    std::vector<Entry *> answered_;  // while the current request was handled
    std::vector<std::unique_ptr<std::byte, Unmap>> memory_;

    // --- everybody's
    FileDescriptor wake_;  // an eventfd
    std::atomic<Command> command_{kServe};
    std::atomic<bool> holds_{false};  // no request is handled any more
    std::atomic<bool> over_{false};   // and no answer is taken
    Mutex mutex_;
    std::vector<Entry *> handed_over_ GUARDED_BY(mutex_);
    // Requests that wait without a time limit.
    Places waiting_ GUARDED_BY(mutex_){kWaitingMax};
};

}  // namespace pmfs::front
