// A range of a file, in bytes.
#pragma once
#include <algorithm>
#include <cstdint>

namespace pmfs {

// Bytes [from, to) of a file.
struct ByteRange {
    std::uint64_t from = 0, to = 0;

    bool empty() const { return from >= to; }
    bool overlaps(const ByteRange &other) const { return from < other.to && other.from < to; }
    bool covers(const ByteRange &other) const { return from <= other.from && other.to <= to; }
    // ... so that it covers `other` as well, with what lies between.
    void extend(const ByteRange &other) {
        if (other.empty()) return;
        *this = empty() ? other : ByteRange{std::min(from, other.from), std::max(to, other.to)};
    }
};

}  // namespace pmfs
