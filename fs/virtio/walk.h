// From a head to its chain: reading descriptors that the driver may change meanwhile.  Virtio 1.2,
// 2.7.5 "The Virtqueue Descriptor Table" and 2.7.5.3 "Indirect Descriptors".
#pragma once
#include "virtio/virtqueue.h"

namespace pmfs::virtio {

class Walk {
public:
    Walk(std::span<const vring_desc> table, bool indirect, std::uint64_t bytes_max, Chain &chain,
         MemoryOwner &owner)
        : table_(table), indirect_(indirect), bytes_max_(bytes_max), chain_(chain), owner_(owner) {}

    // Fills the chain.  Gives the reason why it is invalid; null: it is valid.
    const char *from(std::uint16_t head);

private:
    const char *follow(std::span<const vring_desc> table, std::uint16_t at, bool nested);
    const char *follow_indirect(const vring_desc &descriptor);
    const char *append(const vring_desc &descriptor);

    const std::span<const vring_desc> table_;
    const bool indirect_;
    const std::uint64_t bytes_max_;
    Chain &chain_;
    MemoryOwner &owner_;
};

}  // namespace pmfs::virtio
