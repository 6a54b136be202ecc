// A large array of zeroes that costs memory only where it is touched.
//
// fsck keeps a bit for each block and a few bytes for each inode of volumes up to 2^50 bytes, of
// which most are empty; and a damaged volume may claim any number of inodes.
#pragma once
#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "base/assert.h"
#include "base/result.h"

namespace pmfs::fsck {

template <class T>
requires std::is_trivial_v<T>
class LazyArray {
public:
    LazyArray() = default;
    ~LazyArray() {
        if (items_ != nullptr) ::munmap(items_, count_ * sizeof(T));
    }
    LazyArray(const LazyArray &) = delete;
    LazyArray &operator=(const LazyArray &) = delete;

    // Once.  ENOMEM: not even the address space.
    Result<> allocate(std::uint64_t count) {
        PMFS_ASSERT(items_ == nullptr);
        if (count == 0) return {};
        if (count > (std::uint64_t{1} << 46) / sizeof(T))
            return Error(ENOMEM, "the volume is too large to be checked on this machine");
        void *map = ::mmap(nullptr, count * sizeof(T), PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (map == MAP_FAILED) return Error(ENOMEM, "not enough memory to check this volume");
        items_ = static_cast<T *>(map);
        count_ = count;
        return {};
    }
    std::uint64_t size() const { return count_; }
    T &operator[](std::uint64_t i) {
        PMFS_ASSERT(i < count_);
        return items_[i];
    }
    const T &operator[](std::uint64_t i) const {
        PMFS_ASSERT(i < count_);
        return items_[i];
    }

private:
    T *items_ = nullptr;
    std::uint64_t count_ = 0;
};

}  // namespace pmfs::fsck
