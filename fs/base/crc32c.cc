// CRC-32C by ISA-L, which picks the fastest code for the CPU at run time.
#include "base/crc32c.h"

#include <isa-l/crc.h>

#include <algorithm>

namespace pmfs {

std::uint32_t crc32c(std::uint32_t seed, std::span<const std::byte> bytes) {
    // ISA-L leaves the customary inversions to its caller, counts in int, and does not write
    // through its pointer although it is not const.
    constexpr std::size_t kPieceMax = std::size_t{1} << 30;
    std::uint32_t crc = ~seed;
    while (!bytes.empty()) {
        const std::size_t size = std::min(bytes.size(), kPieceMax);
        auto *data = reinterpret_cast<unsigned char *>(const_cast<std::byte *>(bytes.data()));
        crc = crc32_iscsi(data, static_cast<int>(size), crc);
        bytes = bytes.subspan(size);
    }
    return ~crc;
}

}  // namespace pmfs
