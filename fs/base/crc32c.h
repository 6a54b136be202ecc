// CRC-32C (Castagnoli, RFC 3720), the checksum of every metadata block and journal record.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

namespace pmfs {

// Standard CRC-32C: crc32c(0, "123456789") is 0xE3069283.  `seed` is 0 or what an earlier call
// gave, so that crc32c(crc32c(0, a), b) is crc32c(0, a and then b).
std::uint32_t crc32c(std::uint32_t seed, std::span<const std::byte> bytes);

}  // namespace pmfs
