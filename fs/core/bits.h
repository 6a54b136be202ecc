// The 512 bits of a chunk, and of a group's chunks: runs of ones, and sets.
#pragma once
#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>

#include "media/format.h"

namespace pmfs::core {

using Bits = std::array<std::uint64_t, 8>;  // of the blocks of a chunk, or the chunks of a group
static_assert(sizeof(Bits) * 8 == media::kChunkBlocks && sizeof(Bits) * 8 == media::kGroupChunks);

inline constexpr unsigned kBits = 512;

inline unsigned count_bits(const Bits &bits) {
    unsigned n = 0;
    for (const std::uint64_t word : bits) n += static_cast<unsigned>(std::popcount(word));
    return n;
}
inline bool bit_at(const Bits &bits, unsigned at) {
    return (bits[at / 64] >> (at % 64) & 1) != 0;
}
inline void set_bit(Bits &bits, unsigned at, bool value) {
    const std::uint64_t mask = std::uint64_t{1} << (at % 64);
    bits[at / 64] = value ? bits[at / 64] | mask : bits[at / 64] & ~mask;
}
inline Bits bit_range(unsigned from, unsigned count) {
    Bits bits{};
    for (unsigned at = from, end = from + count; at < end;) {
        const unsigned n = std::min(64 - at % 64, end - at);
        bits[at / 64] |= (n == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << n) - 1) << (at % 64);
        at += n;
    }
    return bits;
}

struct BitRun {
    unsigned start, length;
};
// The first run of ones at or after `from`; length 0 (and start 512): there is none.
inline BitRun next_run(const Bits &bits, unsigned from) {
    unsigned at = from;
    while (at < kBits) {
        const std::uint64_t word = bits[at / 64] >> (at % 64);
        if (word != 0) {
            at += static_cast<unsigned>(std::countr_zero(word));
            break;
        }
        at = (at / 64 + 1) * 64;
    }
    if (at >= kBits) return {kBits, 0};
    unsigned end = at;
    while (end < kBits) {
        const auto ones = static_cast<unsigned>(std::countr_one(bits[end / 64] >> (end % 64)));
        end += ones;
        if (end % 64 != 0 || ones == 0) break;
    }
    return {at, std::min(end, kBits) - at};
}
// The shortest run of at least `length`; if there is none, the longest one.
inline BitRun fitting_run(const Bits &bits, unsigned length) {
    BitRun best{kBits, 0};
    for (BitRun r = next_run(bits, 0); r.length != 0; r = next_run(bits, r.start + r.length)) {
        const bool better = best.length < length ? r.length > best.length
                                                 : r.length >= length && r.length < best.length;
        if (better) best = r;
    }
    return best;
}

}  // namespace pmfs::core
