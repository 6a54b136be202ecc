// A region: one mapped medium that holds a volume, and the only functions in pmfs that make
// anything durable.
//
//   stored  --flush-->  flushed  --fence-->  durable
//   written (non-temporal)       --fence-->  durable
//
// A region has two views.  `meta()` is where metadata is read: a DAX medium's own mapping; on an
// image file a private mapping, whose stores stay in memory until a checkpoint writes them home.
// `data()` is where file data, blobs and the journal are read: always the shared mapping.
//
// What `fence()` means differs (docs/persistence.md): on DAX media durable means safe from a power
// cut; on memory there is no such thing; on an image file it means safe from the death of this
// process, and `sync()` makes it safe from a power cut.
//
// Only fs/pm, fs/journal, mkfs and tests may call the functions that store, flush or fence (lint).
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "base/assert.h"
#include "base/file_descriptor.h"
#include "base/result.h"

namespace pmfs::pm {

enum class MediumKind {
    devdax,  // character device: loads and stores reach the medium
    fsdax,   // file on a filesystem mounted with DAX (MAP_SYNC)
    memory,  // memfd, hugetlbfs, tmpfs: as DAX, but gone with the power
    image,   // any other file: page cache, private metadata, group commit
};
const char *name_of(MediumKind kind);

// An obligation: bytes were written or flushed, and a fence by the same thread must follow.
// Dropping one without a fence is a bug and traps.  They can be added, so that one fence covers
// many.
class [[nodiscard]] Unfenced {
public:
    Unfenced() = default;  // no obligation
    Unfenced(Unfenced &&o) noexcept : owed_(std::exchange(o.owed_, false)) {}
    Unfenced &operator=(Unfenced &&o) noexcept {
        owed_ = owed_ | std::exchange(o.owed_, false);
        return *this;
    }
    Unfenced(const Unfenced &) = delete;
    ~Unfenced() { PMFS_ASSERT(!owed_); }
    void add(Unfenced o) { owed_ = owed_ | std::exchange(o.owed_, false); }
    bool owed() const { return owed_; }

private:
    friend class Region;
    explicit Unfenced(bool owed) : owed_(owed) {}
    bool owed_ = false;
};

class Region {
public:
    virtual ~Region() = default;

    MediumKind kind() const { return kind_; }
    bool is_image() const { return kind_ == MediumKind::image; }
    std::uint64_t size() const { return size_.load(std::memory_order_relaxed); }  // bytes
    std::uint64_t mapping_unit() const { return mapping_unit_; }  // bytes: device's alignment
    const std::string &path() const { return path_; }
    std::uint64_t disk_sequence() const { return disk_sequence_; }  // Medium's
    bool read_only() const { return read_only_; }

    const std::byte *meta() const { return meta_; }
    const std::byte *data() const { return data_; }

    // --- data and journal: non-temporal, into the shared view
    Unfenced write(std::uint64_t offset, std::span<const std::byte> bytes) {
        do_write(offset, bytes);
        return Unfenced(true);
    }
    Unfenced zero(std::uint64_t offset, std::uint64_t size) {
        do_zero(offset, size);
        return Unfenced(true);
    }

    // --- metadata: a store into the metadata view; on DAX media flushed at once
    Unfenced store_meta(std::uint64_t offset, std::span<const std::byte> bytes) {
        do_store_meta(offset, bytes);
        return Unfenced(true);
    }

    // When it returns, everything that this thread wrote, stored and flushed is durable.
    void fence(Unfenced unfenced) {
        unfenced.owed_ = false;
        do_fence();
    }
    // Passes the obligation to a later fence on every thread (fence_everywhere).
    void defer(Unfenced unfenced) { unfenced.owed_ = false; }
    // As fence(), but for everything that any thread of this process flushed (membarrier(2)):
    // docs/decisions/0002.
    void fence_everywhere() { do_fence_everywhere(); }

    // True when a byte of the range was on a page that the medium could not read: it reads as
    // zeroes now, for every thread, so code that returns data calls this after reading it. Cheap
    // while nothing is lost.
    virtual bool lost(std::uint64_t offset, std::uint64_t size) const = 0;
    // Whether the medium has stored these bytes, which were written to the shared view and fenced.
    // On DAX media the lines are evicted from the cache first: the cache would hide that a medium
    // drops stores.
    virtual bool keeps(std::uint64_t offset, std::span<const std::byte> bytes) const {
        return std::memcmp(data_ + offset, bytes.data(), bytes.size()) == 0;
    }
    // Whether the page of metadata at `offset` is in memory; and a call that reads it in, which
    // blocks (if it cannot be read, the thread that accesses it gets the fault).
    virtual bool in_memory(std::uint64_t) const { return true; }
    virtual void read_in(std::uint64_t) const {}
    // A write or a sync failed for good: nothing is guaranteed to be durable any more.
    virtual bool failed() const { return false; }

    // The current size of the medium: it may have grown since it was opened.
    virtual Result<std::uint64_t> medium_size() const { return size(); }
    // Extends the region in place to `size` bytes of the medium: views stay where they are, and
    // other threads may continue.  EINVAL: the medium is not that large.  EOPNOTSUPP, ENOMEM: only
    // possible by opening it again.
    virtual Result<> extend(std::uint64_t size) {
        if (size <= this->size()) return {};
        return Error(EOPNOTSUPP, "this kind of medium cannot grow while it is open");
    }

    // --- image files only
    // Makes everything durable that was written to the shared view before the call (fdatasync).
    // Blocks.  EIO: nothing is guaranteed to be durable any more; the caller makes the volume
    // read-only.
    virtual Result<> sync() = 0;
    // A checkpoint's store of metadata home into the shared view (not the private one).
    virtual void store_home(std::uint64_t offset, std::span<const std::byte> bytes) = 0;
    // Drops the private copy of the block at `offset`, so that reads see the file again.  The
    // caller has made sure that both are equal and that no thread stores to it meanwhile.
    virtual void drop_private(std::uint64_t offset) = 0;

    // The descriptor that direct mappings are made from.  Never carries the volume lock.
    virtual int mapping_fd() const { return -1; }

    // Another description of the same file.  May block.  A process that has given up the right to
    // open the medium has an opener that still has it; it must be set before any thread calls this.
    using Opener = std::function<Result<FileDescriptor>(bool writable)>;
    void set_opener(Opener opener) { opener_ = std::move(opener); }
    Result<FileDescriptor> open_again(bool writable) const;

protected:
    virtual void do_write(std::uint64_t offset, std::span<const std::byte> bytes) = 0;
    virtual void do_zero(std::uint64_t offset, std::uint64_t size) = 0;
    virtual void do_store_meta(std::uint64_t offset, std::span<const std::byte> bytes) = 0;
    virtual void do_fence() = 0;
    virtual void do_fence_everywhere() = 0;

    MediumKind kind_ = MediumKind::memory;
    bool read_only_ = false;
    std::atomic<std::uint64_t> size_ = 0;
    std::uint64_t mapping_unit_ = 4096;
    std::uint64_t disk_sequence_ = 0;
    const std::byte *meta_ = nullptr;
    const std::byte *data_ = nullptr;
    std::string path_;

private:
    Opener opener_;  // none: this process itself
};

// Another description of the file that `fd` is open on, even if its path names another file by now.
Result<FileDescriptor> open_anew(int fd, bool writable);

struct OpenOptions {
    bool read_only = false;  // maps read-only; stores are a bug
    bool exclusive = true;   // takes the volume lock; EBUSY when another process has it
    // Waits up to 10 seconds for a lock whose holder is not mounted any more and so is about to
    // end.
    bool patient = false;
    // Stores stay in memory and the medium is never written (fsck -n): meta() and data() are one
    // private mapping.  The volume lock is taken all the same: EBUSY if the volume is mounted.
    bool private_copy = false;
};

// Opens a device-DAX node, a block-less file of any kind or a memfd (/proc/self/fd/N) as a region.
// Errors, each with its sentence: ENOENT, EACCES, ENODEV (a device that is not DAX), EBUSY (mounted
// or being checked), EINVAL (an empty file), EROFS.
Result<std::unique_ptr<Region>> open_region(const std::string &path, const OpenOptions &options);

// A private anonymous region (a memfd) of `size` bytes, for tests and benchmarks.
Result<std::unique_ptr<Region>> memory_region(std::uint64_t size);

// --- faults (poison, a truncated image): docs/persistence.md "SIGBUS"
// True when an access of this thread hit a bad page since the last call; the page reads as zeroes.
// Tested before a commit and before a reply, also when the operation has failed by then.
bool take_fault();
// The same, of memory that a client shared with us and took away: its request is answered with
// EFAULT, and nothing is wrong with the medium.
bool take_client_fault();

// One piece of work of a thread (a request, a job that was parked). Only the bad pages that it
// meets itself make it fail, not those of the work before it or around it.
class FaultScope {
public:
    FaultScope();
    ~FaultScope();
    FaultScope(const FaultScope &) = delete;
    FaultScope &operator=(const FaultScope &) = delete;
    // Whether it has met one so far.
    bool met() { return met_ = met_ || take_fault(); }

private:
    const bool outer_, outer_client_;
    bool met_ = false;
};

}  // namespace pmfs::pm
