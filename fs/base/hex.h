// Bytes and UUIDs as text: lower case.
#pragma once
#include <cstdint>
#include <span>
#include <string>

namespace pmfs {

inline std::string hex_text(std::span<const std::uint8_t> bytes) {
    static constexpr char kDigits[] = "0123456789abcdef";
    std::string text;
    for (const std::uint8_t byte : bytes) text += {kDigits[byte >> 4], kDigits[byte & 15]};
    return text;
}

// With hyphens, as RFC 4122 has it.
inline std::string uuid_text(std::span<const std::uint8_t, 16> uuid) {
    std::string text = hex_text(uuid);
    for (const std::size_t at : {20, 16, 12, 8}) text.insert(at, 1, '-');
    return text;
}

}  // namespace pmfs
