// The time of day, as files carry it.
#pragma once
#include <compare>
#include <cstdint>
#include <ctime>

namespace pmfs {

// Seconds since 1970 and nanoseconds below one second, as in struct timespec but with fixed sizes.
struct Timespec {
    std::int64_t seconds = 0;
    std::uint32_t nanoseconds = 0;
    friend constexpr auto operator<=>(const Timespec &, const Timespec &) = default;
};

inline Timespec read_clock(clockid_t clock) {
    struct timespec now {};
    ::clock_gettime(clock, &now);  // cannot fail: the clock exists and the address is ours
    return {now.tv_sec, static_cast<std::uint32_t>(now.tv_nsec)};
}

// The kernel's time at its last tick (a few milliseconds old at most): what every kernel
// filesystem stamps files with, and about a quarter of the price.
inline Timespec now_coarse() {
    return read_clock(CLOCK_REALTIME_COARSE);
}

inline Timespec now() {
    return read_clock(CLOCK_REALTIME);
}

inline std::uint64_t read_clock_ns(clockid_t clock) {
    const Timespec at = read_clock(clock);
    return static_cast<std::uint64_t>(at.seconds) * 1'000'000'000u + at.nanoseconds;
}

// Nanoseconds that only go forward: for deadlines and for measuring, never for files.
inline std::uint64_t monotonic_ns() {
    return read_clock_ns(CLOCK_MONOTONIC);
}

}  // namespace pmfs
