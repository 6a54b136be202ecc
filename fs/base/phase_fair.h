// A reader-writer lock that makes nobody wait for long: phases of readers and writers alternate.
//
// A reader waits for one writer at most, however many writers there are; a writer waits for the
// writers that came before it, and before each of them for the readers that were there already. So
// a stream of either kind starves nobody.  The ticket lock PF-T of Brandenburg and Anderson,
// "Spin-based reader-writer synchronization for multiprocessor real-time systems", Real-Time
// Systems 46 (2010), with waits that sleep (std::atomic::wait, a futex) in the place of spinning.
//
// Not recursive, in no way: a reader that comes a second time may wait for a writer that waits for
// its first visit.
#pragma once
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace pmfs {

class PhaseFair {
public:
    PhaseFair() = default;
    PhaseFair(const PhaseFair &) = delete;
    PhaseFair &operator=(const PhaseFair &) = delete;

    void lock_shared() {
        const std::uint32_t writer = readers_in_.fetch_add(kReader) & kWriter;
        if (writer != 0) wait_for_phase(writer);
    }
    void unlock_shared() {
        readers_out_.fetch_add(kReader);
        if ((readers_in_.load() & kPresent) != 0) readers_out_.notify_one();
    }
    // False: a writer has it, or is next.
    bool try_lock_shared();

    void lock() {
        const std::uint32_t ticket = next_ticket_.fetch_add(1);
        if (turns_[ticket % kTurns].load() != ticket) wait_for_turn(ticket);
        ticket_ = ticket;
        const std::uint32_t in = readers_in_.fetch_add(kPresent | (ticket & kPhase));
        // (Its low bits are clear: no writer was there.)
        if (readers_out_.load() != in) wait_for_readers(in);
    }
    // Asked by the writer that has it: whether somebody waits.
    bool contended() const {
        return (readers_in_.load() & ~kWriter) != readers_out_.load() ||
               next_ticket_.load() != ticket_ + 1;
    }
    void unlock() {
        const std::uint32_t next = ticket_ + 1;
        readers_in_.fetch_and(~kWriter);
        readers_in_.notify_all();
        std::atomic<std::uint32_t> &turn = turns_[next % kTurns];
        turn.store(next);
        turn.notify_all();
    }

private:
    // Of readers_in_: a writer is there, and which of two phases it is; readers are counted above.
    static constexpr std::uint32_t kPhase = 1, kPresent = 2, kWriter = 3, kReader = 4;
    // Writers that wait sleep at different words, so that one is woken and not all.
    static constexpr std::size_t kTurns = 16;

    template <class Done>
    void wait_until(const std::atomic<std::uint32_t> &word, Done done);
    void wait_for_phase(std::uint32_t writer);
    void wait_for_turn(std::uint32_t ticket);
    void wait_for_readers(std::uint32_t in);

    alignas(64) std::atomic<std::uint32_t> readers_in_{0};
    alignas(64) std::atomic<std::uint32_t> readers_out_{0};  // only counts, in units of kReader
    alignas(64) std::atomic<std::uint32_t> next_ticket_{0};
    std::uint32_t ticket_ = 0;                                // of the writer that has the lock
    std::array<std::atomic<std::uint32_t>, kTurns> turns_{};  // the ticket that may go on
    alignas(64) std::atomic<bool> spinning_{false};           // one of those who wait
};

}  // namespace pmfs
