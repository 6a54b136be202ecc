// Owners of the two things that the kernel lends to a region: descriptors and mappings.
#pragma once
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <utility>

#include "base/result.h"

namespace pmfs::pm {

class Fd {
public:
    Fd() = default;
    explicit Fd(int fd) : fd_(fd) {}
    Fd(Fd &&o) noexcept : fd_(std::exchange(o.fd_, -1)) {}
    Fd &operator=(Fd &&o) noexcept {
        std::swap(fd_, o.fd_);
        return *this;
    }
    ~Fd() {
        if (fd_ >= 0) ::close(fd_);
    }
    int get() const { return fd_; }
    bool valid() const { return fd_ >= 0; }

private:
    int fd_ = -1;
};

class Mapping {
public:
    Mapping() = default;
    // EACCES, ENODEV, ENOMEM and so on, as mmap(2).  `fd` may be closed afterwards.
    static Result<Mapping> make(int fd, std::uint64_t size, int protection, int flags);
    Mapping(Mapping &&o) noexcept
        : start_(std::exchange(o.start_, nullptr)), size_(std::exchange(o.size_, 0)) {}
    Mapping &operator=(Mapping &&o) noexcept {
        std::swap(start_, o.start_);
        std::swap(size_, o.size_);
        return *this;
    }
    ~Mapping() {
        if (start_ != nullptr) ::munmap(start_, size_);
    }
    // Puts this mapping's pages at `place`, over whatever is mapped there, and owns them no more.
    // False, and nothing changed, when the kernel refuses.
    bool move_over(std::byte *place);
    std::byte *start() const { return start_; }
    std::uint64_t size() const { return size_; }

private:
    std::byte *start_ = nullptr;
    std::uint64_t size_ = 0;
};

}  // namespace pmfs::pm
