// Descriptors of the medium that are lent to processes that map it, and the kernel's answer to
// whether any process still has one.
//
// Each is an open file description of its own, with a lock (fcntl(2), F_OFD_SETLK) on a byte far
// behind the end of the medium. The kernel releases the lock with the last descriptor and the last
// mapping of that description, not before: whatever happened to the process that got it, whichever
// process shares its memory, whichever child has the mapping, and in whatever namespace. So a byte
// that is not locked proves that no process maps. This needs no server: the next one, in the same
// boot, can ask again.
#pragma once
#include <cstdint>

#include "base/file_descriptor.h"
#include "base/result.h"
#include "pm/region.h"

namespace pmfs::pm {

class Lender {
public:
    // Tries it out on the region's medium; the region must outlive it.  EOPNOTSUPP: the medium's
    // filesystem does not support such locks, shares them with other machines, or maps with
    // descriptors of its own.
    static Result<Lender> make(const Region &region);

    // A new description without a lock.  May block.
    Result<FileDescriptor> open(bool writable) const { return region_->open_again(writable); }
    // Puts the lock on it.  May block for a while.  `number` is the borrower's, less than 2^62.
    static Result<> mark(const FileDescriptor &lent, std::uint64_t number);

    enum class Use { none, some, unknown };
    // Whether any process has a descriptor or a mapping with that number.  May block for a while.
    Use use_of(std::uint64_t number) const;

    // Whether any process has a descriptor or a mapping that any server of this medium lent: mkfs
    // asks this before it makes a new volume.
    static bool anybody_has_one(int medium);

    // The inode that carries the locks.  Within one boot no other inode has the same device and
    // number while one of them is held.
    struct Place {
        std::uint64_t device = 0, inode = 0;
        bool operator==(const Place &) const = default;
    };
    Place place() const { return place_; }

private:
    Lender(const Region &region, Place place) : region_(&region), place_(place) {}
    Result<> try_out() const;

    const Region *region_;
    Place place_;
};

}  // namespace pmfs::pm
