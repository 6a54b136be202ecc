// A memory mapping that is unmapped by its owner.
#pragma once
#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <utility>

#include "base/file_descriptor.h"
#include "base/result.h"

namespace pmfs::pm {

// No core dump has what is mapped.
class Mapping {
public:
    Mapping() = default;
    // EACCES, ENODEV, ENOMEM and so on, as mmap(2).  `fd` may be closed afterwards.
    static Result<Mapping> make(int fd, std::uint64_t size, int protection, int flags,
                                std::uint64_t offset = 0);
    // With addresses kept free behind it (they cost nothing) where they can be had, so that it can
    // be extended where it is.  `unit`: bytes of the file's page.
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
    // Puts this mapping's pages at `place`, over whatever is mapped there, and owns them no more.
    // False, and nothing changed, when the kernel refuses.
    bool move_over(std::byte *place);
    // Maps what follows of the file, up to `size`.  As make(); ENOMEM
    // also when so many addresses were not kept free.
    Result<> extend(int fd, std::uint64_t size, std::uint64_t unit, int protection, int flags);
    std::byte *start() const { return start_; }
    std::uint64_t size() const { return size_; }
    std::uint64_t room() const { return room_; }

private:
    std::byte *start_ = nullptr;
    std::uint64_t size_ = 0, room_ = 0;  // room_: of which the rest is kept free
};

}  // namespace pmfs::pm
