// Memory of a guest that does not exist: a memfd, and addresses that the back end is told.
#pragma once
#include <cstddef>
#include <cstdint>

#include "base/file_descriptor.h"
#include "virtio/guest_memory.h"

namespace pmfs::test {

class GuestRam {
public:
    static constexpr std::uint64_t kGuest = 0x1'0000'0000, kUser = 0x7000'0000'0000;

    // `guest`, `user`: where it begins, for the guest and for the front end.
    explicit GuestRam(std::size_t size, std::uint64_t guest = kGuest, std::uint64_t user = kUser);
    ~GuestRam();
    GuestRam(const GuestRam &) = delete;
    GuestRam &operator=(const GuestRam &) = delete;

    int fd() const { return fd_.get(); }
    std::size_t size() const { return size_; }
    virtio::MemoryRegion region() const { return {guest_, size_, user_, 0}; }

    // Allocates a piece; gives its offset, by which everything is named.
    std::size_t take(std::size_t size, std::size_t unit = 16);
    // Frees the pieces that were allocated after `used()` had this value.
    std::size_t used() const { return used_; }
    void give_back_to(std::size_t used) { used_ = used; }

    std::uint64_t guest(std::size_t offset) const { return guest_ + offset; }
    std::uint64_t user(std::size_t offset) const { return user_ + offset; }
    template <class T = std::byte>
    T *at(std::size_t offset) const {
        return reinterpret_cast<T *>(start_ + offset);
    }

private:
    std::size_t size_;
    std::uint64_t guest_, user_;
    FileDescriptor fd_;
    std::byte *start_;
    std::size_t used_ = 4096;  // (so that no address is 0)
};

}  // namespace pmfs::test
