// Which threads read or write file data without the volume's lock, so that no block is given to
// another file while they use it.
//
// A thread enters before it reads a block map, and leaves when it no longer needs the blocks. Code
// that unmaps blocks then advances the epoch, with the lock held exclusively: threads that saw the
// old map entered in that epoch or before it. The blocks can be reused when these have left.
// Entering costs one atomic operation on a cache line that is mostly the thread's own.
#pragma once
#include <array>
#include <atomic>
#include <cstdint>

namespace pmfs::core {

class Epochs {
public:
    // Inside, for a scope.
    class Section {
    public:
        explicit Section(Epochs &epochs) : epochs_(epochs), slot_(epochs.enter()) {}
        ~Section() { epochs_.leave(slot_); }
        Section(const Section &) = delete;
        Section &operator=(const Section &) = delete;

    private:
        Epochs &epochs_;
        const std::size_t slot_;
    };

    // Blocks that were unmapped until now have no readers any more when left() is true for the
    // returned epoch.
    std::uint64_t advance() { return now_.fetch_add(1); }
    // The epoch of the reader that entered first; the largest number when no thread is inside.
    std::uint64_t oldest() const;
    bool left(std::uint64_t epoch) const { return oldest() > epoch; }
    // Waits until all threads that are inside now have left.  Not to be called from inside, nor
    // with the lock held.
    void wait_for_readers();

private:
    struct alignas(64) Slot {
        std::atomic<std::uint64_t> epoch{0};  // 0: no thread
    };
    static constexpr std::size_t kSlots = 64;

    std::size_t enter();
    void leave(std::size_t slot) { slots_[slot].epoch.store(0, std::memory_order_release); }

    std::atomic<std::uint64_t> now_{1};
    std::array<Slot, kSlots> slots_;
};

}  // namespace pmfs::core
