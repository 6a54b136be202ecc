// What a thread does when a Mutex is held: see mutex.h.
#include "base/mutex.h"

namespace pmfs {
namespace {

// Pauses between two tries: 1, 2, 4, ... to this, 127 in all (2 to 6 us on x86-64).
constexpr unsigned kPausesMax = 64;

void pause_processor() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

}  // namespace

void Mutex::lock_contended() {
    for (unsigned pauses = 1; pauses <= kPausesMax; pauses *= 2) {
        for (unsigned i = 0; i < pauses; ++i) pause_processor();
        if (mutex_.try_lock()) return;
    }
    mutex_.lock();
}

}  // namespace pmfs
