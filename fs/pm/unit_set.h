// A set of a medium's units (pages, huge pages), made for a signal handler: one bit each, in
// memory that costs nothing until a unit is in it.
#pragma once
#include <atomic>
#include <cstdint>

#include "pm/mapping.h"

namespace pmfs::pm {

// Offsets and sizes are bytes from the start of the medium.  All but make() and moving may run in
// any thread and in a signal handler.
class UnitSet {
public:
    // `unit` is a power of two.  ENOMEM.
    static Result<UnitSet> make(std::uint64_t size, std::uint64_t unit);
    UnitSet(UnitSet &&o) noexcept
        : words_(std::move(o.words_)), unit_(o.unit_), count_(o.count_.load()) {}

    std::uint64_t unit() const { return unit_; }
    void add(std::uint64_t offset);
    // How many were added (a few more, if threads have added the same one).
    std::uint64_t count() const { return count_.load(std::memory_order_acquire); }
    // True when a byte of the range is in a unit of the set.
    bool overlaps(std::uint64_t offset, std::uint64_t size) const {
        return count() != 0 && search(offset, size);
    }

private:
    UnitSet() = default;
    std::atomic<std::uint64_t> &word(std::uint64_t index) const {
        return reinterpret_cast<std::atomic<std::uint64_t> *>(words_.start())[index];
    }
    bool search(std::uint64_t offset, std::uint64_t size) const;

    Mapping words_;
    std::uint64_t unit_ = 0;
    std::atomic<std::uint64_t> count_ = 0;
};

}  // namespace pmfs::pm
