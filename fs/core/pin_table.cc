// Counted ranges: see pin_table.h.
#include "core/pin_table.h"

#include <algorithm>

#include "base/assert.h"

namespace pmfs::core {

namespace {

// The first segment that ends behind `at`.
template <class Map>
auto segment_at(Map &map, FileBlock at) {
    auto it = map.upper_bound(at);
    if (it != map.begin()) {
        const auto before = std::prev(it);
        if (before->first + before->second.length() > at) return before;
    }
    return it;
}

}  // namespace

void PinTable::split(Coverage &coverage, FileBlock at) {
    const auto it = segment_at(coverage, at);
    if (it == coverage.end() || it->first >= at) return;
    const Segment whole = it->second;
    const std::uint64_t head = at - it->first;
    it->second = Segment(head, whole.count());
    coverage.emplace(at, Segment(whole.length() - head, whole.count()));
}

// Makes one of the segments that meet at `at`, where they are pinned equally often.
void PinTable::join(Coverage &coverage, FileBlock at) {
    const auto right = coverage.find(at);
    if (right == coverage.end() || right == coverage.begin()) return;
    const auto left = std::prev(right);
    if (left->first + left->second.length() != at || left->second.count() != right->second.count())
        return;
    left->second = Segment(left->second.length() + right->second.length(), left->second.count());
    coverage.erase(right);
}

std::uint64_t PinTable::count(Coverage &coverage, FileBlock first, FileBlock end, int delta) {
    split(coverage, first);
    split(coverage, end);
    std::uint64_t changed = 0;
    auto it = coverage.lower_bound(first);
    for (FileBlock at = first; at < end;) {
        if (it == coverage.end() || it->first > at) {  // a gap
            PMFS_ASSERT(delta > 0);
            const FileBlock upto = it == coverage.end() ? end : std::min(end, it->first);
            it = std::next(coverage.emplace_hint(it, at, Segment(upto - at, 1)));
            changed += upto - at;
            at = upto;
            continue;
        }
        const std::uint64_t length = it->second.length();
        const std::uint64_t now = it->second.count() + static_cast<std::uint64_t>(delta);
        at = it->first + length;
        if (now == 0) {
            changed += length;
            it = coverage.erase(it);
        } else {
            it->second = Segment(length, now);
            ++it;
        }
    }
    // At the borders inside of it, too: unpinning may have made neighbours equal.
    for (auto seam = coverage.upper_bound(first); seam != coverage.end() && seam->first <= end;) {
        const FileBlock at = seam->first;
        join(coverage, at);
        seam = coverage.upper_bound(at);
    }
    join(coverage, first);
    return changed;
}

std::uint64_t PinTable::new_blocks(std::uint32_t uid, FileBlock first, FileBlock end) const {
    std::uint64_t blocks = end - first;
    const auto found = coverage_.find(uid);
    if (found == coverage_.end()) return blocks;
    const Coverage &coverage = found->second;
    for (auto it = segment_at(coverage, first); it != coverage.end() && it->first < end; ++it)
        blocks -= std::min(end, it->first + it->second.length()) - std::max(first, it->first);
    return blocks;
}

std::optional<std::uint64_t> PinTable::add(const Pin &pin) {
    PMFS_ASSERT(pin.first < pin.end && pin.handle != 0);
    Coverage &coverage = coverage_.try_emplace(pin.uid, &pool_).first->second;
    for (auto it = segment_at(coverage, pin.first); it != coverage.end() && it->first < pin.end;
         ++it)
        if (it->second.count() == (std::uint64_t{1} << kCountBits) - 1) return std::nullopt;
    count(coverage, pin.first, pin.end, +1);
    std::uint32_t index = free_;
    if (index != 0) {
        --index;
        free_ = pins_[index].next;
    } else {
        index = static_cast<std::uint32_t>(pins_.size());
        pins_.emplace_back();
    }
    const std::uint32_t generation = pins_[index].generation + 1;
    std::uint32_t &head = of_handle_[pin.handle];
    pins_[index] = pin;
    pins_[index].generation = generation;
    pins_[index].previous = 0;
    pins_[index].next = head;
    if (head != 0) pins_[head - 1].previous = index + 1;
    head = index + 1;
    ++count_;
    return number_of(index);
}

std::optional<PinTable::Removed> PinTable::remove(std::uint64_t handle, std::uint64_t number) {
    const std::size_t index = number & 0xffffffff;
    if (number < kFirstNumber || index >= pins_.size() || pins_[index].handle != handle ||
        handle == 0 || number_of(index) != number)
        return std::nullopt;
    Pin &pin = pins_[index];
    const auto user = coverage_.find(pin.uid);
    const Removed removed{pin.uid, count(user->second, pin.first, pin.end, -1), pin.counted};
    if (user->second.empty()) coverage_.erase(user);
    if (pin.next != 0) pins_[pin.next - 1].previous = pin.previous;
    if (pin.previous != 0)
        pins_[pin.previous - 1].next = pin.next;
    else if (pin.next != 0)
        of_handle_[handle] = pin.next;
    else
        of_handle_.erase(handle);
    pin.handle = 0;
    pin.next = free_;
    free_ = static_cast<std::uint32_t>(index + 1);
    --count_;
    return removed;
}

std::uint64_t PinTable::pin_of(std::uint64_t handle) const {
    const auto found = of_handle_.find(handle);
    return found == of_handle_.end() ? 0 : number_of(found->second - 1);
}

bool PinTable::overlaps(FileBlock first, FileBlock end) const {
    for (const auto &[uid, coverage] : coverage_) {
        const auto it = segment_at(coverage, first);
        if (it != coverage.end() && it->first < end) return true;
    }
    return false;
}

std::optional<PinTable::Blocks> PinTable::next(FileBlock from) const {
    std::optional<Blocks> first;
    for (const auto &[uid, coverage] : coverage_) {
        const auto it = segment_at(coverage, from);
        if (it == coverage.end()) continue;
        const Blocks found{std::max(from, it->first), it->first + it->second.length()};
        if (!first || found.first < first->first) first = found;
    }
    return first;
}

FileBlock PinTable::end() const {
    FileBlock end;
    for (const auto &[uid, coverage] : coverage_) {
        const auto &[first, segment] = *coverage.rbegin();
        end = std::max(end, first + segment.length());
    }
    return end;
}

std::size_t PinTable::bytes() const {
    std::size_t segments = 0;
    for (const auto &[uid, coverage] : coverage_) segments += coverage.size();
    // libstdc++: a tree node has four words before its value.
    return sizeof *this + pins_.size() * sizeof(Pin) +
           segments * (4 * sizeof(void *) + sizeof(Coverage::value_type)) + of_handle_.size() * 32;
}

}  // namespace pmfs::core
