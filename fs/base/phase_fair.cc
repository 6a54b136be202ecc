// Waiting for the other side's phase to end: see phase_fair.h.
#include "base/phase_fair.h"

#include "base/clock.h"

namespace pmfs {

namespace {

// A hold takes 50 us at most, as a rule, and to be woken takes a thread as long.
constexpr std::uint64_t kSpinNs = 60'000;

}  // namespace

// Until `word` is such that done(word).  One thread at a time looks at it for a while: so where
// there are more threads than processors, no more than that is wasted.
template <class Done>
void PhaseFair::wait_until(const std::atomic<std::uint32_t> &word, Done done) {
    if (!spinning_.exchange(true)) {
        const std::uint64_t end = monotonic_ns() + kSpinNs;
        bool is_done = false;
        while (!is_done && monotonic_ns() < end) is_done = done(word.load());
        spinning_.store(false);
        if (is_done) return;
    }
    for (std::uint32_t now = word.load(); !done(now); now = word.load()) word.wait(now);
}

void PhaseFair::wait_for_phase(std::uint32_t writer) {
    // (Readers that come change the word, too.)
    wait_until(readers_in_, [&](std::uint32_t in) { return (in & kWriter) != writer; });
}

void PhaseFair::wait_for_turn(std::uint32_t ticket) {
    wait_until(turns_[ticket % kTurns], [&](std::uint32_t turn) { return turn == ticket; });
}

void PhaseFair::wait_for_readers(std::uint32_t in) {
    wait_until(readers_out_, [&](std::uint32_t out) { return out == in; });
}

bool PhaseFair::try_lock_shared() {
    std::uint32_t in = readers_in_.load();
    do {
        if ((in & kWriter) != 0) return false;
    } while (!readers_in_.compare_exchange_weak(in, in + kReader));
    return true;
}

}  // namespace pmfs
