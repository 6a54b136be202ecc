// The guest's memory, as vhost-user's tables describe it: its addresses, and where they are mapped
// here.  QEMU's docs/interop/vhost-user.rst, "Memory access".
//
// A request holds a MemoryTable, which never changes.  A table that was replaced lives on, with its
// mappings, until the last request that holds it has ended: so the front end may change the table
// while queues run.
//
// A mapping is not safe by itself: the front end has the file too, and may truncate it after its
// size was checked.  A load or store behind the new end is then SIGBUS for us.  MemoryOwner::guard
// is called for every mapping, so that a server can let its own handler serve it (pm/fault.h: the
// page reads as zeroes, and the request is answered with EFAULT).  From then on addresses in it are
// out of reach, and all of it if that is much.  Without that a front end can end the process; a
// guest cannot.
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

// What MemoryOwner::guard() returns.
class MemoryGuard {
public:
    virtual ~MemoryGuard() = default;
    // An access to a byte of [offset, offset + size) of the mapping has failed.
    virtual bool lost(std::size_t offset, std::size_t size) const = 0;
};

// A device that resolves some guest addresses itself: those of its window ("DAX window"); entries
// with its own descriptor are not mapped.
class MemoryOwner {
public:
    virtual ~MemoryOwner() = default;

    // Called for each region that the front end puts into its table.  True: it belongs to the
    // owner, and is not mapped.  The thread that reads messages calls it: it must not wait for
    // another thread's request to the front end (SHMEM_MAP).
    virtual bool owns(const MemoryRegion & /*region*/, int /*fd*/) { return false; }

    // Called before the table is searched.  `mine`: the pieces of [guest, guest + size) were
    // appended, and `hold` keeps them in place until the request has ended.  `refused`: the range
    // belongs to the owner, and this access is not allowed: the request gets a piece without a
    // place.
    enum class Answer { not_mine, mine, refused };
    virtual Answer resolve(std::uint64_t /*guest*/, std::uint64_t /*size*/, Access /*access*/,
                           std::vector<iovec> * /*pieces*/,
                           std::shared_ptr<const void> * /*hold*/) {
        return Answer::not_mine;
    }

    // A mapping was made, of pages of `unit` bytes.  The returned object is destroyed before it is
    // unmapped; null: none is needed.  An error: the mapping must not be used.
    virtual Result<std::shared_ptr<const MemoryGuard>> guard(std::byte * /*start*/,
                                                             std::size_t /*size*/,
                                                             std::size_t /*unit*/) {
        return std::shared_ptr<const MemoryGuard>();
    }
};

// A piece of a file, mapped to be read and written.
class Mapping {
public:
    // EINVAL: not a file of memory, or shorter than the region.
    static Result<std::shared_ptr<const Mapping>> make(const MemoryRegion &region, int fd,
                                                       MemoryOwner &owner);
    ~Mapping();
    Mapping(const Mapping &) = delete;
    Mapping &operator=(const Mapping &) = delete;

    // Where the region begins.
    std::byte *start() const { return start_; }
    // An access to a byte of [offset, offset + size) of the region has failed.
    bool lost(std::size_t offset, std::size_t size) const {
        return guard_ && guard_->lost(before_ + offset, size);
    }
    bool is_of(dev_t device, ino_t inode) const { return device == device_ && inode == inode_; }

private:
    Mapping() = default;

    void *mapped_ = nullptr;
    std::size_t mapped_size_ = 0;
    std::byte *start_ = nullptr;
    std::size_t before_ = 0;  // of the mapping, before the region
    dev_t device_ = 0;
    ino_t inode_ = 0;
    std::shared_ptr<const MemoryGuard> guard_;
};

class MemoryTable {
public:
    struct Entry {
        MemoryRegion region;
        std::shared_ptr<const Mapping> mapping;  // null: the owner's own
    };

    // Appends the pieces of a guest-physical range; it may go over adjacent regions.  False, and
    // nothing appended: a part of it is in no region, or is lost.
    bool translate(std::uint64_t guest, std::uint64_t size, std::vector<iovec> *pieces) const;

    // A range of the front end's own addresses, inside one region; null: it is not.
    std::byte *at_user(std::uint64_t user, std::uint64_t size) const;

    std::span<const Entry> entries() const { return entries_; }

private:
    friend class GuestMemory;
    std::vector<Entry> entries_;  // by guest address
};

// The current table.  One thread changes it (the one that reads messages), any may take it.
class GuestMemory {
public:
    explicit GuestMemory(MemoryOwner &owner);

    // EINVAL: empty, overlapping, wrapping around, too large, or larger than the descriptor's file;
    // then the table stays unchanged.
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
