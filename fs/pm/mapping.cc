// mmap(2), with an error message for people.
#include "pm/mapping.h"

#include <algorithm>

#include "base/bytes.h"

namespace pmfs::pm {

namespace {

constexpr std::uint64_t kHugePage = 2 << 20;  // the alignment of a view without which it gets none

Error mmap_error(int error) {
    if (error == ENOMEM)
        return Error(ENOMEM, "not enough address space or memory to map the medium");
    if (error == EPERM) return Error(EPERM, "the file is sealed against writing or mapping");
    return Error(error, "the kernel refuses to map the medium");
}

// How many addresses are reserved for a medium, so that it can grow.  A process has 2^47, and an
// image file has two views.
std::uint64_t room_for(std::uint64_t size, std::uint64_t align) {
    constexpr std::uint64_t kLeast = std::uint64_t{1} << 36, kMost = std::uint64_t{1} << 45;
    return align_up(std::max(size, std::clamp(16 * size, kLeast, kMost)), align);
}

// A core dump of a terabyte is useless, and would contain user data.
void keep_out_of_dumps(void *start, std::uint64_t size) {
    (void)::madvise(start, size, MADV_DONTDUMP);
}

}  // namespace

Result<Mapping> Mapping::make(int fd, std::uint64_t size, int protection, int flags,
                              std::uint64_t offset) {
    void *const at = ::mmap(nullptr, size, protection, flags, fd, static_cast<off_t>(offset));
    if (at == MAP_FAILED) return mmap_error(errno);
    keep_out_of_dumps(at, size);
    Mapping mapping;
    mapping.start_ = static_cast<std::byte *>(at);
    mapping.size_ = mapping.room_ = size;
    return mapping;
}

Result<Mapping> Mapping::make_with_room(int fd, std::uint64_t size, std::uint64_t unit,
                                        int protection, int flags) {
    const std::uint64_t align = std::max(unit, kHugePage), room = room_for(size, align);
    void *const kept = ::mmap(nullptr, room + align, PROT_NONE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (kept == MAP_FAILED) return make(fd, size, protection, flags);
    auto *const first = static_cast<std::byte *>(kept);
    const std::uint64_t head = -reinterpret_cast<std::uintptr_t>(first) % align;
    if (head != 0) ::munmap(first, head);
    ::munmap(first + head + room, align - head);
    Mapping mapping;  // gives the addresses back when the file cannot be mapped
    mapping.start_ = first + head;
    mapping.room_ = room;
    mapping.size_ = size;
    if (::mmap(mapping.start_, size, protection, flags | MAP_FIXED, fd, 0) == MAP_FAILED)
        return mmap_error(errno);
    keep_out_of_dumps(mapping.start_, size);
    return mapping;
}

Result<> Mapping::extend(int fd, std::uint64_t size, std::uint64_t unit, int protection,
                         int flags) {
    if (size > room_)
        return Error(ENOMEM, "no address space was reserved for a medium of that size");
    const std::uint64_t from = align_up(size_, unit);
    if (size > from) {
        // First at another place, so that nothing has changed if it fails.
        Mapping more = TRY(make(fd, size - from, protection, flags, from));
        if (!more.move_over(start_ + from)) return mmap_error(errno);
    }
    size_ = std::max(size_, size);
    return {};
}

bool Mapping::move_over(std::byte *place) {
    if (::mremap(start_, size_, size_, MREMAP_MAYMOVE | MREMAP_FIXED, place) == MAP_FAILED)
        return false;
    start_ = nullptr;
    return true;
}

}  // namespace pmfs::pm
