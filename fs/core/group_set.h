// A set of allocation groups: finding the next member at or after one reads only a few words.
#pragma once
#include <bit>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/ids.h"

namespace pmfs::core {

class GroupSet {
public:
    explicit GroupSet(std::uint64_t groups = 0) { resize(groups); }
    void resize(std::uint64_t groups) {
        groups_ = groups;
        words_.resize((groups + 63) / 64);
        full_.resize((words_.size() + 63) / 64);
    }
    bool has(GroupNo group) const { return (words_[group.value() / 64] >> (group % 64) & 1) != 0; }
    void set(GroupNo group, bool member) {
        const std::uint64_t w = group.value() / 64;
        std::uint64_t &word = words_[w];
        const std::uint64_t mask = std::uint64_t{1} << (group % 64);
        word = member ? word | mask : word & ~mask;
        std::uint64_t &above = full_[w / 64];
        const std::uint64_t upper = std::uint64_t{1} << (w % 64);
        above = word != 0 ? above | upper : above & ~upper;
    }
    // The first member at or after `from`, then from 0 on; nothing: the set is empty.
    std::optional<GroupNo> next(GroupNo from) const {
        if (auto found = search(from)) return found;
        return search(GroupNo(0));
    }
    // The same without wrapping around.
    std::optional<GroupNo> search(GroupNo from) const {
        if (from.value() >= groups_) return std::nullopt;
        std::uint64_t w = from.value() / 64;
        if (const std::uint64_t word = words_[w] >> (from % 64); word != 0)
            return from + static_cast<unsigned>(std::countr_zero(word));
        for (++w; w < words_.size();) {
            const std::uint64_t above = full_[w / 64] >> (w % 64);
            if (above == 0) {
                w = (w / 64 + 1) * 64;
                continue;
            }
            w += static_cast<unsigned>(std::countr_zero(above));
            return GroupNo(w * 64 + static_cast<unsigned>(std::countr_zero(words_[w])));
        }
        return std::nullopt;
    }

private:
    std::uint64_t groups_ = 0;
    std::vector<std::uint64_t> words_, full_;  // full_: bit i: words_[i] has a member
};

}  // namespace pmfs::core
