// Blocks held back for holders that lost their grants: see quarantine.h.
#include "core/quarantine.h"

#include <algorithm>

namespace pmfs::core {

void Quarantine::add(InodeNo record, std::vector<Run> runs) {
    records_[record.value()] = std::move(runs);
    rebuild();
}

std::vector<Run> Quarantine::remove(InodeNo record) {
    const auto found = records_.find(record.value());
    if (found == records_.end()) return {};
    std::vector<Run> runs = std::move(found->second);
    records_.erase(found);
    rebuild();
    return runs;
}

void Quarantine::rebuild() {
    std::vector<Run> all;
    for (const auto &[record, runs] : records_) all.insert(all.end(), runs.begin(), runs.end());
    std::sort(all.begin(), all.end(), [](const Run &a, const Run &b) { return a.start < b.start; });
    merged_.clear();
    for (const Run &run : all) {
        const std::uint64_t end = run.start + run.blocks;
        if (!merged_.empty() && merged_.rbegin()->second >= run.start)
            merged_.rbegin()->second = std::max(merged_.rbegin()->second, end);
        else
            merged_.emplace_hint(merged_.end(), run.start, end);
    }
}

void Quarantine::strike(std::uint64_t first, std::array<std::uint64_t, 8> &bits) {
    const std::uint64_t end = first + 64 * bits.size();
    auto it = merged_.upper_bound(first);
    if (it != merged_.begin()) --it;
    for (; it != merged_.end() && it->first < end; ++it) {
        for (std::uint64_t at = std::max(first, it->first); at < std::min(end, it->second); ++at) {
            std::uint64_t &word = bits[(at - first) / 64];
            const std::uint64_t bit = std::uint64_t{1} << ((at - first) % 64);
            struck_ += (word & bit) != 0;
            word &= ~bit;
        }
    }
}

std::vector<Run> Quarantine::without(Run run) const {
    std::vector<Run> left;
    std::uint64_t at = run.start;
    const std::uint64_t end = run.start + run.blocks;
    auto it = merged_.upper_bound(run.start);
    if (it != merged_.begin()) --it;
    for (; it != merged_.end() && it->first < end; ++it) {
        if (it->second <= at) continue;
        if (it->first > at) left.push_back({at, it->first - at});
        at = it->second;
    }
    if (at < end) left.push_back({at, end - at});
    return left;
}

}  // namespace pmfs::core
