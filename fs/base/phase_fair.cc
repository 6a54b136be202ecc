// Waiting for the other side's phase to end: see phase_fair.h.
#include "base/phase_fair.h"

namespace pmfs {

void PhaseFair::wait_for_phase(std::uint32_t writer) {
    for (;;) {
        const std::uint32_t in = readers_in_.load();
        if ((in & kWriter) != writer) return;
        readers_in_.wait(in);  // (readers that come end it as well)
    }
}

void PhaseFair::wait_for_readers(std::uint32_t in) {
    for (std::uint32_t out = readers_out_.load(); out != in; out = readers_out_.load())
        readers_out_.wait(out);
}

bool PhaseFair::try_lock_shared() {
    std::uint32_t in = readers_in_.load();
    do {
        if ((in & kWriter) != 0) return false;
    } while (!readers_in_.compare_exchange_weak(in, in + kReader));
    return true;
}

}  // namespace pmfs
