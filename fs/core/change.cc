// A change's begin and end: see change.h.
#include "core/change.h"

#include <cstring>

#include "core/alloc.h"

namespace pmfs::core {

Change::Change(Core &core) : core_(core), tx_(core.journal) {
    tx_.watch(core.allocator.map());
}

void Change::copy_body(void *to, const void *from, std::size_t size) {
    constexpr std::size_t head = sizeof(media::BlockHeader);
    std::memcpy(static_cast<std::byte *>(to) + head, static_cast<const std::byte *>(from) + head,
                size - head);
}

}  // namespace pmfs::core
