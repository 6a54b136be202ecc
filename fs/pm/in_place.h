// Blocks that are written where they belong, past the journal: by mkfs, and by what changes the
// superblock.  Nobody has them in use, or reads them as a whole.
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
            duty_.add(region_.write(offset, bytes));
    }
    // All that was put is durable against a power cut when it returns, on every medium.
    Result<> settle() {
        region_.fence(std::move(duty_));
        return region_.is_image() ? region_.sync() : Result<>();
    }

private:
    Region &region_;
    Unfenced duty_;
};

}  // namespace pmfs::pm
