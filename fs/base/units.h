// Sizes, percentages and counts in words, for people.
#pragma once
#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace pmfs {

// 65536 is "64 KiB": the largest binary unit that says it exactly, else one decimal: "1.5 GiB".
inline std::string size_words(std::uint64_t bytes) {
    static constexpr const char *kUnits[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB"};
    unsigned unit = 0;
    std::uint64_t whole = bytes, rest = 0;
    while (whole >= 1024 && unit < 5) {
        rest = whole % 1024;
        whole /= 1024;
        ++unit;
    }
    std::string text = std::to_string(whole);
    if (rest != 0) text += "." + std::to_string(rest * 10 / 1024);
    return text + " " + kUnits[unit];
}

// "1 extent", "2 extents"; a noun with another plural gives it.
inline std::string counted(std::uint64_t number, std::string_view one, std::string_view many = {}) {
    std::string text = std::to_string(number) + " ";
    text += number == 1 || many.empty() ? one : many;
    if (number != 1 && many.empty()) text += "s";
    return text;
}

// "1", "0.5" or "12.25", in hundredths.
inline std::optional<std::uint32_t> hundredths(std::string_view text) {
    const std::size_t point = std::min(text.find('.'), text.size());
    std::string digits(text.substr(0, point));
    std::string fraction(text.substr(std::min(point + 1, text.size())));
    if (digits.empty() || digits.size() > 3 || fraction.size() > 2) return std::nullopt;
    if (point != text.size() && fraction.empty()) return std::nullopt;
    fraction.resize(2, '0');
    std::uint32_t value = 0;
    for (const char c : digits + fraction) {
        if (c < '0' || c > '9') return std::nullopt;
        value = value * 10 + static_cast<std::uint32_t>(c - '0');
    }
    return value;
}

}  // namespace pmfs
