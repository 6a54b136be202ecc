// Blocks held back for holders that lost their grants: see quarantine.h.
#include "core/quarantine.h"

#include <algorithm>
#include <iterator>

#include "base/assert.h"

namespace pmfs::core {

void Quarantine::add(InodeNo record, std::vector<Run> runs) {
    (void)remove(record);
    for (const Run &run : runs) count(run, true);
    records_[record.value()] = std::move(runs);
}

std::vector<Run> Quarantine::remove(InodeNo record) {
    const auto found = records_.find(record.value());
    if (found == records_.end()) return {};
    std::vector<Run> runs = std::move(found->second);
    records_.erase(found);
    for (const Run &run : runs) count(run, false);
    return runs;
}

// Splits the segment that crosses `at`, if there is one.
void Quarantine::split(BlockNo at) {
    auto it = held_.lower_bound(at);
    if (it == held_.begin()) return;
    --it;
    if (it->second.end <= at) return;
    held_.emplace(at, it->second);
    it->second.end = at;
}

// Makes one of the segments that meet at `at`, where equally many records hold them.
void Quarantine::join(BlockNo at) {
    const auto right = held_.find(at);
    if (right == held_.end() || right == held_.begin()) return;
    const auto left = std::prev(right);
    if (left->second.end != at || left->second.records != right->second.records) return;
    left->second.end = right->second.end;
    held_.erase(right);
}

void Quarantine::count(const Run &run, bool more) {
    const BlockNo end = run.end();
    split(run.start);
    split(end);
    auto it = held_.lower_bound(run.start);
    for (BlockNo at = run.start; at < end;) {
        if (it == held_.end() || it->first > at) {  // no record holds it
            PMFS_ASSERT(more);
            const BlockNo upto = it == held_.end() ? end : std::min(end, it->first);
            it = std::next(held_.emplace_hint(it, at, Segment{upto, 1}));
            at = upto;
            continue;
        }
        at = it->second.end;
        it->second.records += more ? 1u : ~0u;
        it = it->second.records == 0 ? held_.erase(it) : std::next(it);
    }
    for (auto seam = held_.upper_bound(run.start); seam != held_.end() && seam->first <= end;) {
        const BlockNo at = seam->first;
        join(at);
        seam = held_.upper_bound(at);
    }
    join(run.start);
}

void Quarantine::strike(BlockNo first, std::array<std::uint64_t, 8> &bits) {
    const BlockNo end = first + 64 * bits.size();
    auto it = held_.upper_bound(first);
    if (it != held_.begin()) --it;
    for (; it != held_.end() && it->first < end; ++it) {
        for (BlockNo at = std::max(first, it->first); at < std::min(end, it->second.end); ++at) {
            std::uint64_t &word = bits[(at - first) / 64];
            const std::uint64_t bit = std::uint64_t{1} << ((at - first) % 64);
            struck_ += (word & bit) != 0;
            word &= ~bit;
        }
    }
}

std::vector<Run> Quarantine::without(Run run) const {
    std::vector<Run> left;
    BlockNo at = run.start;
    const BlockNo end = run.end();
    auto it = held_.upper_bound(run.start);
    if (it != held_.begin()) --it;
    for (; it != held_.end() && it->first < end; ++it) {
        if (it->second.end <= at) continue;
        if (it->first > at) left.push_back({at, it->first - at});
        at = it->second.end;
    }
    if (at < end) left.push_back({at, end - at});
    return left;
}

}  // namespace pmfs::core
