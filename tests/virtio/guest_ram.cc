// See guest_ram.h.
#include "virtio/guest_ram.h"

#include <sys/mman.h>
#include <unistd.h>

#include <stdexcept>

#include "base/bytes.h"

namespace pmfs::test {

GuestRam::GuestRam(std::size_t size, std::uint64_t guest, std::uint64_t user)
    : size_(size), guest_(guest), user_(user), fd_(::memfd_create("guest", MFD_CLOEXEC)) {
    if (::ftruncate(fd(), static_cast<off_t>(size)) != 0) throw std::runtime_error("no memory");
    void *const at = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd(), 0);
    if (at == MAP_FAILED) throw std::runtime_error("no memory");
    start_ = static_cast<std::byte *>(at);
}

GuestRam::~GuestRam() {
    ::munmap(start_, size_);
}

std::size_t GuestRam::take(std::size_t size, std::size_t unit) {
    const std::size_t at = align_up(used_, unit);
    if (size > size_ || at > size_ - size) throw std::runtime_error("the guest's memory is full");
    used_ = at + size;
    return at;
}

}  // namespace pmfs::test
