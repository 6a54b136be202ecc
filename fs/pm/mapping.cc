// mmap(2), with an error that a person can read.
#include "pm/mapping.h"

namespace pmfs::pm {

Result<Mapping> Mapping::make(int fd, std::uint64_t size, int protection, int flags) {
    void *const at = ::mmap(nullptr, size, protection, flags, fd, 0);
    if (at == MAP_FAILED) {
        if (errno == ENOMEM) return Error(ENOMEM, "no address space or memory to map the region");
        if (errno == EPERM) return Error(EPERM, "the file is sealed against writing or mapping");
        return Error(errno, "the kernel refuses to map the region");
    }
    Mapping mapping;
    mapping.start_ = static_cast<std::byte *>(at);
    mapping.size_ = size;
    return mapping;
}

bool Mapping::move_over(std::byte *place) {
    if (::mremap(start_, size_, size_, MREMAP_MAYMOVE | MREMAP_FIXED, place) == MAP_FAILED)
        return false;
    start_ = nullptr;
    return true;
}

}  // namespace pmfs::pm
