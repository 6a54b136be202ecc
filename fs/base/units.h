// Sizes in words, for people.
#pragma once
#include <cstdint>
#include <string>

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

}  // namespace pmfs
