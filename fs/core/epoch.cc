// Entering, and waiting for those inside: see epoch.h.
#include "core/epoch.h"

#include <algorithm>
#include <chrono>
#include <thread>

namespace pmfs::core {

namespace {

// The place that a thread tries first; only a hint, because any free one is right.
std::atomic<std::size_t> next_place{0};
thread_local const std::size_t place = next_place.fetch_add(1, std::memory_order_relaxed);

}  // namespace

std::size_t Epochs::enter() {
    for (std::size_t i = place;; ++i) {
        Slot &slot = slots_[i % kSlots];
        std::uint64_t nobody = 0;
        if (slot.epoch.load(std::memory_order_relaxed) == 0 &&
            slot.epoch.compare_exchange_strong(nobody, now_.load()))
            return i % kSlots;
        if ((i - place) % kSlots == kSlots - 1) std::this_thread::yield();
    }
}

std::uint64_t Epochs::oldest() const {
    std::uint64_t oldest = ~std::uint64_t{0};
    for (const Slot &slot : slots_)
        if (const std::uint64_t epoch = slot.epoch.load(); epoch != 0)
            oldest = std::min(oldest, epoch);
    return oldest;
}

void Epochs::wait_for_readers() {
    constexpr int kSpins = 100;
    const std::uint64_t epoch = advance();
    for (int i = 0; !left(epoch); ++i) {
        if (i < kSpins)
            std::this_thread::yield();
        else
            std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
}

}  // namespace pmfs::core
