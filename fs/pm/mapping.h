// A memory mapping that is unmapped by its owner.
#pragma once
#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <utility>

#include "base/file_descriptor.h"
#include "base/result.h"

namespace pmfs::pm {

// What is mapped is excluded from core dumps.
class Mapping {
public:
    Mapping() = default;
    // EACCES, ENODEV, ENOMEM and so on, as mmap(2).  `fd` may be closed afterwards.
    static Result<Mapping> make(int fd, std::uint64_t size, int protection, int flags,
                                std::uint64_t offset = 0);
    // With reserved addresses behind it (they cost nothing) if there are any, so that it can be
    // extended in place.  `unit`: bytes of the file's page.
    static Result<Mapping> make_with_room(int fd, std::uint64_t size, std::uint64_t unit,
                                          int protection, int flags);
    Mapping(Mapping &&o) noexcept
        : start_(std::exchange(o.start_, nullptr)),
          size_(std::exchange(o.size_, 0)),
          room_(std::exchange(o.room_, 0)) {}
    Mapping &operator=(Mapping &&o) noexcept {
        std::swap(start_, o.start_);
        std::swap(size_, o.size_);
        std::swap(room_, o.room_);
        return *this;
    }
    ~Mapping() {
        if (start_ != nullptr) ::munmap(start_, room_);
    }
    // Moves this mapping's pages to `place`, over anything that is mapped there, and gives up
    // owning them. False when the kernel refuses; nothing has changed then.
    bool move_over(std::byte *place);
    // Maps the next bytes of the file too, up to `size`.  Errors as make(); ENOMEM also when not
    // enough addresses were reserved.
    Result<> extend(int fd, std::uint64_t size, std::uint64_t unit, int protection, int flags);
    std::byte *start() const { return start_; }
    std::uint64_t size() const { return size_; }
    std::uint64_t room() const { return room_; }

private:
    std::byte *start_ = nullptr;
    std::uint64_t size_ = 0, room_ = 0;  // room_: of which the rest is kept free
};

}  // namespace pmfs::pm
