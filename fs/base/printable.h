// Text from others that is shown to a person: bytes that would control a terminal are written in
// ASCII.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace pmfs {

// How many bytes of `text` from `at` on are one character of UTF-8, and which; 0: none.
inline std::size_t utf8_at(std::string_view text, std::size_t at, std::uint32_t *character) {
    const auto byte = [&](std::size_t i) {
        return at + i < text.size() ? static_cast<unsigned char>(text[at + i]) : 0u;
    };
    const std::uint32_t first = byte(0);
    const std::size_t size = first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    if (first >= 0xf8 || (first >= 0x80 && first < 0xc0)) return 0;
    *character = size == 1 ? first : first & (0xffu >> (size + 1));
    for (std::size_t i = 1; i < size; ++i) {
        if ((byte(i) & 0xc0) != 0x80) return 0;
        *character = *character << 6 | (byte(i) & 0x3f);
    }
    static constexpr std::uint32_t kLeast[] = {0, 0, 0x80, 0x800, 0x10000};
    const bool surrogate = *character >= 0xd800 && *character < 0xe000;
    return *character < kLeast[size] || *character > 0x10ffff || surrogate ? 0 : size;
}

// Controls (C0, DEL, C1), characters that turn or hide what is beside them (Unicode TR 36, "visual
// spoofing": bidirectional ones, zero widths, tags), and line ends other than those.
inline bool unprintable(std::uint32_t c) {
    const auto within = [c](std::uint32_t first, std::uint32_t last) {
        return c >= first && c <= last;
    };
    return c < 0x20 || within(0x7f, 0x9f) || c == 0xad || c == 0x61c || c == 0x180e ||
           within(0x200b, 0x200f) || within(0x2028, 0x202e) || within(0x2060, 0x206f) ||
           c == 0xfeff || within(0xfff9, 0xfffb) || within(0xe0000, 0xe0fff);
}

// Names of files, processes and volumes, and any other text that pmfs did not choose, for messages
// and logs.  Printable UTF-8 stays; every other byte becomes \xNN.  Applying it twice changes
// nothing.
inline std::string printable(std::string_view text) {
    static constexpr char kDigits[] = "0123456789abcdef";
    std::string out;
    out.reserve(text.size());
    for (std::size_t at = 0; at < text.size();) {
        std::uint32_t character = 0;
        const std::size_t size = utf8_at(text, at, &character);
        if (size != 0 && !unprintable(character)) {
            out.append(text, at, size);
            at += size;
            continue;
        }
        for (const std::size_t end = at + (size == 0 ? 1 : size); at < end; ++at) {
            const auto byte = static_cast<unsigned char>(text[at]);
            out += {'\\', 'x', kDigits[byte >> 4], kDigits[byte & 15]};
        }
    }
    return out;
}

}  // namespace pmfs
