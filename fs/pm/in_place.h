// Blocks that are written to their places without the journal: by mkfs, and by changes of the
// superblock. No other code uses these blocks meanwhile.
#pragma once
#include "pm/region.h"

namespace pmfs::pm {

class InPlace {
public:
    explicit InPlace(Region &region) : region_(region) {}

    void put(std::uint64_t offset, std::span<const std::byte> bytes) {
        if (region_.is_image())
            region_.store_home(offset, bytes);
        else
            unfenced_.add(region_.write(offset, bytes));
    }
    // When it returns, all blocks that were put are safe from a power cut, on every medium.
    Result<> settle() {
        region_.fence(std::move(unfenced_));
        return region_.is_image() ? region_.sync() : Result<>();
    }

private:
    Region &region_;
    Unfenced unfenced_;
};

}  // namespace pmfs::pm
