// See walk.h.
#include "virtio/walk.h"

#include <limits>

namespace pmfs::virtio {
namespace {

// Reads each field once: the driver may write meanwhile.
vring_desc copy_of(const vring_desc &shared) {
    vring_desc own;
    own.addr = __atomic_load_n(&shared.addr, __ATOMIC_RELAXED);
    own.len = __atomic_load_n(&shared.len, __ATOMIC_RELAXED);
    own.flags = __atomic_load_n(&shared.flags, __ATOMIC_RELAXED);
    own.next = __atomic_load_n(&shared.next, __ATOMIC_RELAXED);
    return own;
}

}  // namespace

const char *Walk::from(std::uint16_t head) {
    return follow(table_, head, false);
}

const char *Walk::follow(std::span<const vring_desc> table, std::uint16_t at, bool nested) {
    for (std::size_t steps = 0;; ++steps) {
        if (at >= table.size()) return "a descriptor's next is outside its table";
        if (steps == table.size()) return "a chain is a loop, or longer than its table";
        const vring_desc descriptor = copy_of(table[at]);
        if (!nested) ++chain_.entries_;
        if ((descriptor.flags & VRING_DESC_F_INDIRECT) != 0) {
            if (nested) return "an indirect table has an indirect descriptor";
            if (!indirect_) return "an indirect descriptor, and they have not been negotiated";
            if ((descriptor.flags & VRING_DESC_F_NEXT) != 0)
                return "an indirect descriptor has a next one";
            return follow_indirect(descriptor);
        }
        if (const char *why = append(descriptor)) return why;
        if ((descriptor.flags & VRING_DESC_F_NEXT) == 0) return nullptr;
        at = descriptor.next;
    }
}

const char *Walk::follow_indirect(const vring_desc &descriptor) {
    const std::size_t count = descriptor.len / sizeof(vring_desc);
    if (count == 0 || descriptor.len % sizeof(vring_desc) != 0 || count > kQueueSizeMax)
        return "an indirect table's size is no number of descriptors, or too large";
    std::vector<iovec> pieces;
    if (!chain_.memory_->translate(descriptor.addr, descriptor.len, &pieces))
        return "an indirect table is outside the guest's memory";
    std::vector<vring_desc> table(count);  // ours: it may lie at any address, and in two regions
    std::byte *to = reinterpret_cast<std::byte *>(table.data());
    for (const iovec &piece : pieces) {
        std::memcpy(to, piece.iov_base, piece.iov_len);
        to += piece.iov_len;
    }
    return follow(table, 0, true);
}

const char *Walk::append(const vring_desc &descriptor) {
    const bool write = (descriptor.flags & VRING_DESC_F_WRITE) != 0;
    if (descriptor.len == 0) return "a descriptor is empty";
    if (descriptor.addr > std::numeric_limits<std::uint64_t>::max() - descriptor.len)
        return "a descriptor wraps around";
    if (!write && chain_.writable_.size != 0)
        return "a descriptor to be read is behind one to be written";
    Chain::Pieces &side = write ? chain_.writable_ : chain_.readable_;
    if (descriptor.len > bytes_max_ - side.size) return "a chain has too many bytes";
    side.size += descriptor.len;
    std::shared_ptr<const void> hold;
    const std::size_t before = side.pieces.size();
    const auto answer = owner_.resolve(descriptor.addr, descriptor.len,
                                       write ? Access::store : Access::load, &side.pieces, &hold);
    if (hold) chain_.holds_.push_back(std::move(hold));
    if (answer == MemoryOwner::Answer::mine) return nullptr;
    side.pieces.resize(before);
    if (answer == MemoryOwner::Answer::refused ||
        !chain_.memory_->translate(descriptor.addr, descriptor.len, &side.pieces)) {
        side.pieces.push_back({nullptr, descriptor.len});
        chain_.whole_ = false;
    }
    return nullptr;
}

}  // namespace pmfs::virtio
