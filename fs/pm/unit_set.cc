// Bits in anonymous memory that is not reserved: 32 MiB of addresses for a terabyte of pages.
#include "pm/unit_set.h"

#include "base/bytes.h"

namespace pmfs::pm {

Result<UnitSet> UnitSet::make(std::uint64_t size, std::uint64_t unit) {
    UnitSet set;
    set.unit_ = unit;
    const std::uint64_t words = divide_up(divide_up(size, unit), 64);
    set.words_ = TRY(Mapping::make(-1, words * sizeof(std::uint64_t), PROT_READ | PROT_WRITE,
                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE));
    return set;
}

void UnitSet::add(std::uint64_t offset) {
    const std::uint64_t index = offset / unit_;
    word(index / 64).fetch_or(std::uint64_t{1} << (index % 64));
    count_.fetch_add(1, std::memory_order_release);
}

bool UnitSet::search(std::uint64_t offset, std::uint64_t size) const {
    if (size == 0) return false;
    for (std::uint64_t i = offset / unit_; i <= (offset + size - 1) / unit_; ++i)
        if ((word(i / 64).load() >> (i % 64) & 1) != 0) return true;
    return false;
}

}  // namespace pmfs::pm
