// The range pins of one file: counted, found in O(log n), and charged once to each user however
// often it pins a block (docs/seal.md "Pins").
//
// A pin costs about 90 bytes: a record, and at most two more segments of its user's coverage, which
// maps first blocks to segments that are pinned equally often.
#pragma once
#include <cstdint>
#include <deque>
#include <map>
#include <memory_resource>
#include <optional>
#include <unordered_map>
#include <vector>

#include "base/ids.h"

namespace pmfs::core {

class PinTable {
public:
    struct Pin {
        FileBlock first, end;
        std::uint64_t handle = 0;  // of its owner; 0: the record is free
        std::uint32_t uid = 0, pid = 0;
        std::uint32_t generation = 0;  // of the record, so that an old number finds nothing
        std::uint32_t previous = 0,
                      next = 0;  // of the same handle; free: `next` free one.  0: none
        bool counted = false;    // for the owner's use
    };

    // Blocks that `uid` would be charged for, if it pinned [first, end) now.
    std::uint64_t new_blocks(std::uint32_t uid, FileBlock first, FileBlock end) const;
    // Gives the pin a number greater than kFirstNumber; nothing when a block is pinned 2^24 times.
    std::optional<std::uint64_t> add(const Pin &pin);
    // By how many blocks the owner's charge falls; nothing: that handle has no such pin.
    struct Removed {
        std::uint32_t uid;
        std::uint64_t blocks;
        bool counted;
    };
    std::optional<Removed> remove(std::uint64_t handle, std::uint64_t number);
    // Any pin of the handle, 0 when it has none: for the end of a handle.
    std::uint64_t pin_of(std::uint64_t handle) const;

    bool overlaps(FileBlock first, FileBlock end) const;
    // The first pinned blocks at or behind `from`; nothing: there are none.
    struct Blocks {
        FileBlock first, end;
    };
    std::optional<Blocks> next(FileBlock from) const;
    // The end of the last pinned block; 0: none is.
    FileBlock end() const;
    std::size_t count() const { return count_; }
    // Every pin with its number.
    template <class F>
    void each(F f) const {
        for (std::size_t i = 0; i < pins_.size(); ++i)
            if (pins_[i].handle != 0) f(number_of(i), pins_[i]);
    }
    // Memory in use, in bytes, for the benchmark.
    std::size_t bytes() const;

    static constexpr std::uint64_t kFirstNumber = std::uint64_t{1} << 63;

private:
    // Blocks [key, end) are pinned `count` times by one user; blocks without a segment are not
    // pinned.
    static constexpr unsigned kCountBits = 24;
    struct Segment {
        std::uint64_t length_and_count;
        Segment(std::uint64_t length, std::uint64_t count)
            : length_and_count(length << kCountBits | count) {}
        std::uint64_t length() const { return length_and_count >> kCountBits; }
        std::uint64_t count() const {
            return length_and_count & ((std::uint64_t{1} << kCountBits) - 1);
        }
    };
    using Coverage = std::pmr::map<FileBlock, Segment>;

    std::uint64_t number_of(std::size_t index) const {
        return kFirstNumber | std::uint64_t{pins_[index].generation & 0x7fffffff} << 32 |
               static_cast<std::uint32_t>(index);
    }
    static void split(Coverage &coverage, FileBlock at);
    static void join(Coverage &coverage, FileBlock at);
    // Adds `delta` to each block's count; gives the blocks that were not pinned before or after.
    static std::uint64_t count(Coverage &coverage, FileBlock first, FileBlock end, int delta);

    std::pmr::unsynchronized_pool_resource pool_;
    std::map<std::uint32_t, Coverage> coverage_;  // by user
    std::deque<Pin> pins_;
    std::unordered_map<std::uint64_t, std::uint32_t> of_handle_;  // handle -> its first, + 1
    std::uint32_t free_ = 0;                                      // the first free record, + 1
    std::size_t count_ = 0;
};

}  // namespace pmfs::core
