// The guest's memory, as vhost-user's tables describe it: which addresses there are, and where they
// are mapped here.  QEMU's docs/interop/vhost-user.rst, "Memory access".
//
// Who works on a request holds a MemoryTable, which never changes.  A table that is replaced lives
// on, with its mappings, until the last request that holds it has ended: so the front end may
// change the table under a running queue.
//
// What a mapping is worth: the front end has the file too, and may truncate it after we have looked
// at its size.  A load or store behind the new end is then SIGBUS for us.  MemoryOwner::guard is
// called for every mapping, so that a server can put it under the care of its own handler
// (pm/fault.h: zeroes appear, and the access becomes EIO).  Without that a front end can end the
// process; a guest cannot.
#pragma once
#include <sys/types.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/file_descriptor.h"
#include "base/mutex.h"
#include "base/result.h"

namespace pmfs::virtio {

// As it is in the messages.
struct MemoryRegion {
    std::uint64_t guest;   // guest-physical address
    std::uint64_t size;    // in bytes
    std::uint64_t user;    // the front end's own address: what rings are named by
    std::uint64_t offset;  // in the file
    friend bool operator==(const MemoryRegion &, const MemoryRegion &) = default;
};
static_assert(sizeof(MemoryRegion) == 32);

inline constexpr std::size_t kRegionsMax = 512;
inline constexpr std::uint64_t kMemoryMax = std::uint64_t{1} << 46;  // in all regions together

// What the device does with memory.
enum class Access { load, store };

// A device that has a word in what guest addresses mean: those of its window ("DAX window") are
// resolved by its own table, and entries of its own descriptor are ignored.
class MemoryOwner {
public:
    virtual ~MemoryOwner() = default;

    // A region that the front end puts into its table.  True: the owner's own, not to be mapped;
    // for the table there is nothing then.  The thread that reads messages calls it: it must not
    // wait for what another thread asks of the front end (SHMEM_MAP).
    virtual bool owns(const MemoryRegion & /*region*/, int /*fd*/) { return false; }

    // Asked before the table.  `mine`: the pieces of [guest, guest + size) have been appended, and
    // what keeps them in place stands in `hold`, until the request has ended.  `refused`: it is the
    // owner's, and this access is not given: the request is told that this piece is missing.
    enum class Answer { not_mine, mine, refused };
    virtual Answer resolve(std::uint64_t /*guest*/, std::uint64_t /*size*/, Access /*access*/,
                           std::vector<iovec> * /*pieces*/,
                           std::shared_ptr<const void> * /*hold*/) {
        return Answer::not_mine;
    }

    // A mapping has been made.  What is returned is let go before it is unmapped.
    virtual std::shared_ptr<void> guard(std::byte * /*start*/, std::size_t /*size*/) {
        return nullptr;
    }
};

// A piece of a file, mapped to be read and written.
class Mapping {
public:
    // EINVAL: no memory, or shorter than the region says.
    static Result<std::shared_ptr<const Mapping>> make(const MemoryRegion &region, int fd,
                                                       MemoryOwner &owner);
    ~Mapping();
    Mapping(const Mapping &) = delete;
    Mapping &operator=(const Mapping &) = delete;

    // Where the region begins.
    std::byte *start() const { return start_; }
    bool is_of(dev_t device, ino_t inode) const { return device == device_ && inode == inode_; }

private:
    Mapping() = default;

    void *mapped_ = nullptr;
    std::size_t mapped_size_ = 0;
    std::byte *start_ = nullptr;
    dev_t device_ = 0;
    ino_t inode_ = 0;
    std::shared_ptr<void> guard_;
};

class MemoryTable {
public:
    struct Entry {
        MemoryRegion region;
        std::shared_ptr<const Mapping> mapping;  // null: the owner's own
    };

    // Appends the pieces of a guest-physical range; it may go over adjacent regions.  False, and
    // nothing appended: a part of it is in no region.
    bool translate(std::uint64_t guest, std::uint64_t size, std::vector<iovec> *pieces) const;

    // A range of the front end's own addresses, inside one region; null: it is not.
    std::byte *at_user(std::uint64_t user, std::uint64_t size) const;

    std::span<const Entry> entries() const { return entries_; }

private:
    friend class GuestMemory;
    std::vector<Entry> entries_;  // by guest address
};

// The table of now.  One thread changes it (who reads the messages), any may take it.
class GuestMemory {
public:
    explicit GuestMemory(MemoryOwner &owner);

    // EINVAL: empty, overlapping, wrapping around, too large, or not what the descriptor has; then
    // the table stays as it was.
    Result<> set(std::span<const MemoryRegion> regions, std::span<const FileDescriptor> fds);
    Result<> add(const MemoryRegion &region, const FileDescriptor &fd);
    // It is named by both its addresses and its size.
    Result<> remove(const MemoryRegion &region);
    void clear();

    std::shared_ptr<const MemoryTable> table() const;

private:
    Result<MemoryTable::Entry> enter(const MemoryRegion &region, int fd,
                                     const MemoryTable &before) const;
    Result<> publish(std::vector<MemoryTable::Entry> entries);

    MemoryOwner &owner_;
    mutable Mutex mutex_;
    std::shared_ptr<const MemoryTable> table_ GUARDED_BY(mutex_);
};

}  // namespace pmfs::virtio
