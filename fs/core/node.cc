// Node edits: see node.h.
#include "core/node.h"

#include <bitset>

#include "base/assert.h"

namespace pmfs::core {

using media::kBlockSize;
using media::kEntryHeader;
using media::NodeHeader;

unsigned NodeView::lower_bound(std::uint64_t wanted) const {
    unsigned low = 0, high = count();
    while (low < high) {
        const unsigned middle = (low + high) / 2;
        if (key(middle) < wanted)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

unsigned NodeView::child_slot(std::uint64_t wanted) const {
    unsigned low = 1, high = count();  // slot 0 is minus infinity
    while (low < high) {
        const unsigned middle = (low + high) / 2;
        if (key(middle) <= wanted)
            low = middle + 1;
        else
            high = middle;
    }
    return low - 1;
}

bool NodeView::check() const {
    const NodeHeader &h = header();
    const std::size_t heap = h.heap_start.get();
    if (slots_end() > heap || heap > kBlockSize) return false;
    if (h.level >= media::kTreeDepthMax || (h.level != 0 && count() == 0)) return false;
    std::size_t live = 0;
    std::bitset<kBlockSize> taken;  // overlapping entries would not fit when they are packed
    for (unsigned i = 0; i < count(); ++i) {
        const std::size_t at = offset(i);
        if (at < heap || at + kEntryHeader > kBlockSize) return false;
        const std::size_t size = kEntryHeader + load_u16(bytes_ + at + 8);
        if (at + size > kBlockSize || size > kEntryHeader + media::kTreeValueMax) return false;
        for (std::size_t byte = at; byte < at + size; ++byte) {
            if (taken[byte]) return false;
            taken[byte] = true;
        }
        // The first key of an interior node counts as minus infinity.
        if (i > (leaf() ? 0u : 1u) && key(i) <= key(i - 1)) return false;
        live += size;
    }
    return live + h.dead_bytes.get() == kBlockSize - heap;
}

void NodeEdit::init(std::uint64_t owner, media::TreeKind kind, unsigned level) {
    NodeHeader &h = mutable_header();
    h.owner.set(owner);
    h.kind = static_cast<std::uint8_t>(kind);
    h.level = static_cast<std::uint8_t>(level);
    h.count.set(0);
    h.heap_start.set(static_cast<std::uint16_t>(kBlockSize));
    h.dead_bytes.set(0);
}

void NodeEdit::insert(unsigned slot, std::uint64_t key, std::span<const std::byte> value) {
    const std::size_t size = kEntryHeader + value.size();
    PMFS_ASSERT(cost(value.size()) <= free_bytes() && slot <= count());
    NodeHeader &h = mutable_header();
    if (slots_end() + 2 + size > h.heap_start.get()) compact();
    const std::size_t at = h.heap_start.get() - size;
    std::byte *slots = out_ + sizeof(NodeHeader);
    std::memmove(slots + (slot + 1) * 2, slots + slot * 2, (count() - slot) * 2);
    set_offset(slot, at);
    h.count.set(static_cast<std::uint16_t>(count() + 1));
    h.heap_start.set(static_cast<std::uint16_t>(at));
    const media::le64 k(key);
    const media::le16 n(static_cast<std::uint16_t>(value.size()));
    std::memcpy(out_ + at, &k, sizeof k);
    std::memcpy(out_ + at + 8, &n, sizeof n);
    if (!value.empty()) std::memcpy(out_ + at + kEntryHeader, value.data(), value.size());
}

void NodeEdit::erase(unsigned slot) {
    PMFS_ASSERT(slot < count());
    NodeHeader &h = mutable_header();
    const std::size_t at = offset(slot), size = kEntryHeader + value(slot).size();
    std::byte *slots = out_ + sizeof(NodeHeader);
    std::memmove(slots + slot * 2, slots + (slot + 1) * 2, (count() - slot - 1) * 2);
    h.count.set(static_cast<std::uint16_t>(count() - 1));
    set_offset(count(), 0);
    if (at == h.heap_start.get())
        h.heap_start.set(static_cast<std::uint16_t>(at + size));
    else
        h.dead_bytes.set(static_cast<std::uint16_t>(h.dead_bytes.get() + size));
    if (count() == 0) {
        h.heap_start.set(static_cast<std::uint16_t>(kBlockSize));
        h.dead_bytes.set(0);
    }
}

void NodeEdit::replace(unsigned slot, std::span<const std::byte> bytes) {
    PMFS_ASSERT(slot < count() && value(slot).size() == bytes.size());
    std::memcpy(out_ + offset(slot) + kEntryHeader, bytes.data(), bytes.size());
}

void NodeEdit::set_key(unsigned slot, std::uint64_t key) {
    PMFS_ASSERT(slot < count());
    const media::le64 k(key);
    std::memcpy(out_ + offset(slot), &k, sizeof k);
}

void NodeEdit::move_tail(unsigned from, NodeEdit &to) {
    for (unsigned i = from; i < count(); ++i) to.insert(to.count(), key(i), value(i));
    while (count() > from) erase(count() - 1);
    if (header().dead_bytes.get() != 0) compact();
}

// Packs the live entries at the end of the node, in slot order.
void NodeEdit::compact() {
    std::byte packed[kBlockSize];
    std::size_t heap = kBlockSize;
    for (unsigned i = count(); i-- > 0;) {
        const std::size_t size = kEntryHeader + value(i).size();
        heap -= size;
        std::memcpy(packed + heap, bytes_ + offset(i), size);
        set_offset(i, heap);
    }
    std::memcpy(out_ + heap, packed + heap, kBlockSize - heap);
    const std::size_t gap = slots_end();
    std::memset(out_ + gap, 0, heap - gap);
    mutable_header().heap_start.set(static_cast<std::uint16_t>(heap));
    mutable_header().dead_bytes.set(0);
}

}  // namespace pmfs::core
