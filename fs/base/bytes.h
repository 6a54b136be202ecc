// Raw bytes, their sizes and their alignment: the few words that every layer needs for them.
#pragma once
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <type_traits>

#include "base/assert.h"

namespace pmfs {

using Bytes = std::span<std::byte>;
using ConstBytes = std::span<const std::byte>;

inline constexpr std::uint64_t kKiB = std::uint64_t{1} << 10;
inline constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
inline constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;
inline constexpr std::uint64_t kTiB = std::uint64_t{1} << 40;

// `unit` is a power of two.  align_up wraps above 2^64 - unit: check sizes from outside first.
constexpr std::uint64_t align_down(std::uint64_t value, std::uint64_t unit) {
    return value & ~(unit - 1);
}
constexpr std::uint64_t align_up(std::uint64_t value, std::uint64_t unit) {
    return align_down(value + unit - 1, unit);
}
constexpr bool is_aligned(std::uint64_t value, std::uint64_t unit) {
    return (value & (unit - 1)) == 0;
}
constexpr std::uint64_t divide_up(std::uint64_t value, std::uint64_t by) {
    return value / by + (value % by != 0);
}

// The bytes of one object.
template <class T>
requires std::is_trivially_copyable_v<T> ConstBytes bytes_of(const T &object) {
    return std::as_bytes(std::span(std::addressof(object), 1));
}
template <class T>
requires(std::is_trivially_copyable_v<T> && !std::is_const_v<T>) Bytes
    writable_bytes_of(T &object) {
    return std::as_writable_bytes(std::span(std::addressof(object), 1));
}

// A copy of the T at `offset`, aligned or not.  The caller has checked that it is inside.
template <class T>
requires std::is_trivially_copyable_v<T> T load(ConstBytes from, std::size_t offset = 0) {
    PMFS_ASSERT(offset <= from.size() && sizeof(T) <= from.size() - offset);
    T object;
    std::memcpy(&object, from.data() + offset, sizeof object);
    return object;
}

}  // namespace pmfs
