// A reader-writer lock for short holds, which stays in use while the threads that wait are asleep.
//
// A thread that finds it free takes it, even if others sleep in the queue: waking one of them takes
// longer than a hold, and a lock that is handed to a sleeping thread is idle until that thread
// runs.  (On 16 processors 16 threads that made files had a tenth of what one thread had, when the
// lock was handed over in the order of arrival; on two busy ones, two threads a twentieth: decision
// 27.)  A few waiting threads poll it for a while; the others sleep in a queue.  Its head, once
// awake, is served after a bounded time: from then on no other thread is let in (kDue).  A writer
// that waits only for readers to leave lets no more of them in.
//
// Barging and a queue whose head cannot be overtaken for ever: Go's sync.Mutex, and WebKit's
// ParkingLot ("eventual fairness").  Not recursive: a reader that takes it a second time may wait
// for a writer, which waits for the reader's first hold to end.
#pragma once
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace pmfs {

class AdaptiveLock {
public:
    AdaptiveLock() = default;
    AdaptiveLock(const AdaptiveLock &) = delete;
    AdaptiveLock &operator=(const AdaptiveLock &) = delete;

    void lock_shared() {
        if (!try_lock_shared()) wait<&AdaptiveLock::enter_shared>();
    }
    void unlock_shared() {
        const std::uint32_t was = state_.fetch_sub(kReader);
        if (was - kReader == (was & kDue) + kAsleep) wake_head();
    }
    // False: a writer has it, or is next.
    bool try_lock_shared() { return enter_shared(false); }

    void lock() {
        if (!enter(false)) wait<&AdaptiveLock::enter>();
    }
    void unlock() {
        const bool head = owner_is_head_;
        owner_is_head_ = false;
        const std::uint32_t was = state_.fetch_sub(kWriter);
        if ((was & kAsleep) != 0) wake_head();
        if (head) pass_on();
    }
    // Called by the writer that holds it: whether any thread waits.
    bool contended() const { return waiting_.load() != 0; }

private:
    // Of state_: a writer is inside; the head of the queue is next; it sleeps until state_ changes.
    // Readers that are inside are counted above.
    static constexpr std::uint32_t kWriter = 1, kDue = 2, kAsleep = 4, kReader = 8;
    // Those in the queue sleep at different words, so that one is woken and not all.
    static constexpr std::size_t kTurns = 16;

    // Takes the lock if it is free.  The head takes it also when it is due, and is not due any
    // more.
    bool enter(bool head);
    bool enter_shared(bool head);
    template <bool (AdaptiveLock::*Enter)(bool)>
    void wait();
    template <bool (AdaptiveLock::*Enter)(bool)>
    bool look(bool head);
    template <bool (AdaptiveLock::*Enter)(bool)>
    void wait_as_head();
    void wake_head();
    void pass_on();

    alignas(64) std::atomic<std::uint32_t> state_{0};
    bool owner_is_head_ = false;  // of the writer inside: it came through the queue
    alignas(64) std::atomic<std::uint32_t> waiting_{0};  // all waiting threads
    std::atomic<std::uint32_t> looking_{0};  // those of them that poll, without the head
    alignas(64) std::atomic<std::uint32_t> next_ticket_{0};
    std::uint32_t ticket_ = 0;                                // the head's
    std::array<std::atomic<std::uint32_t>, kTurns> turns_{};  // the ticket that is head
};

}  // namespace pmfs
