// CRC-32C (Castagnoli, RFC 3720), the checksum of every metadata block and journal record.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

namespace pmfs {

// Standard CRC-32C: crc32c(0, "123456789") is 0xE3069283.  `seed` is 0 or what an earlier call
// gave, so that crc32c(crc32c(0, a), b) is crc32c(0, a and then b).
std::uint32_t crc32c(std::uint32_t seed, std::span<const std::byte> bytes);

// What becomes of a CRC-32C when 64 bytes of a message change and all others stay: CRCs are
// linear, so
//     crc32c(0, new) == crc32c(0, old) ^ crc32c_of_change(old bytes XOR new bytes, behind)
// where `behind` bytes of the message follow those 64: a multiple of 64, below 4096.
std::uint32_t crc32c_of_change(std::span<const std::byte, 64> difference, std::size_t behind);

}  // namespace pmfs
