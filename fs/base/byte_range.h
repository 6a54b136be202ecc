// A range of a file, in bytes; and several.
#pragma once
#include <algorithm>
#include <cstdint>
#include <iterator>
#include <map>

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

// The bytes of a write that is not empty: those in its last page, if it does not cover all of that
// one, and the others.  Of that page the kernel may keep the lock until the write is answered
// (fs/fuse/file.c, fuse_fill_write_pages()).
struct WrittenPages {
    ByteRange others, part;

    WrittenPages(const ByteRange &bytes, std::uint64_t page_size) : others(bytes) {
        const std::uint64_t last = (bytes.to - 1) / page_size * page_size;
        if (bytes.covers({last, last + page_size})) return;
        others.to = std::max(bytes.from, last);
        part = {others.to, bytes.to};
    }
};

// A set of bytes of a file.  It takes 64 KiB of memory at most: a set of more ranges becomes one.
class ByteRanges {
public:
    ByteRanges() = default;
    explicit ByteRanges(const ByteRange &range) { add(range); }
    bool empty() const { return ends_.empty(); }
    ByteRange hull() const {
        return empty() ? ByteRange{} : ByteRange{ends_.begin()->first, ends_.rbegin()->second};
    }
    bool overlaps(const ByteRange &range) const {
        const auto behind = ends_.lower_bound(range.to);
        return !range.empty() && behind != ends_.begin() && std::prev(behind)->second > range.from;
    }
    void add(ByteRange range) {
        if (range.empty()) return;
        auto at = ends_.upper_bound(range.from);
        if (at != ends_.begin() && std::prev(at)->second >= range.from) --at;
        while (at != ends_.end() && at->first <= range.to) {
            range.extend({at->first, at->second});
            at = ends_.erase(at);
        }
        ends_.emplace(range.from, range.to);
        if (ends_.size() > kRangesMax) *this = ByteRanges(hull());
    }
    void add(const ByteRanges &others) {
        for (const auto &[from, to] : others.ends_) add({from, to});
    }

private:
    static constexpr std::size_t kRangesMax = 1024;
    std::map<std::uint64_t, std::uint64_t> ends_;  // by their beginnings; they do not touch
};

}  // namespace pmfs
