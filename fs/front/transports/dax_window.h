// The DAX window of a guest: ranges of files that its VMM maps into the guest's address space, so
// that the guest's loads and stores reach the region without a request and without a copy.
//
// Each range holds a pin (docs/seal.md "Pins") in the name of the VMM, with a descriptor whose lock
// the kernel releases with the last mapping. So `pmfsctl holders` shows what is mapped, and the
// next server quarantines blocks that a guest of a dead server still maps. VMMs do not enforce that
// a range is read-only (QEMU 11.1, measured), so a guest with a window may write to every file that
// it can name.
//
// fuse(4), FUSE_SETUPMAPPING and FUSE_REMOVEMAPPING; linux fs/fuse/dax.c.
#pragma once
#include <linux/fuse.h>

#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "base/mutex.h"
#include "virtio/device.h"
#include "volume/volume.h"

namespace pmfs::front {

class DaxWindow {
public:
    // Ranges begin and end at multiples of it (FUSE_DAX_SHIFT).
    static constexpr std::uint64_t kRange = std::uint64_t{2} << 20;

    // `size`: bytes, a multiple of kRange.
    DaxWindow(Volume &volume, std::uint64_t size) : volume_(volume), size_(size) {}

    std::uint64_t size() const { return size_; }
    // A VMM has connected, with its channel; it has gone, or has dropped all ranges itself.
    void connect(const virtio::Peer &peer, std::shared_ptr<virtio::BackChannel> channel)
        EXCLUDES(mutex_);
    void forget() EXCLUDES(mutex_, turn_);

    // Called by a queue's thread; on 0 the range was mapped into (or removed from) the guest's
    // memory. EINVAL: not in the window, or not aligned; ENOSPC and other errors of taking a pin;
    // EIO: the VMM refuses.
    Result<> set_up(InodeNo ino, const fuse_setupmapping_in &in) EXCLUDES(mutex_, turn_);
    // A positive errno value: EINVAL.
    int remove(std::uint64_t window_offset, std::uint64_t length) EXCLUDES(mutex_, turn_);

    // --- the guest's addresses in the window (virtio::MemoryOwner)
    // An entry with our own descriptor tells the address of the window.
    bool owns(const virtio::MemoryRegion &region, int fd) EXCLUDES(mutex_);
    virtio::MemoryOwner::Answer resolve(std::uint64_t guest, std::uint64_t size,
                                        std::vector<iovec> *pieces,
                                        std::shared_ptr<const void> *hold) EXCLUDES(mutex_);

private:
    struct Piece {
        std::uint64_t window, device, size;  // bytes
    };
    // A mapped range.  Lives as long as it is mapped, or a request uses addresses in it.
    struct Range {
        explicit Range(Volume &of) : volume(of) {}
        ~Range();
        Volume &volume;
        InodeNo ino;
        std::uint64_t file_offset = 0, length = 0;
        HandleId handle = 0;  // 0: none yet
        GrantId pin = 0;
        std::vector<Piece> pieces;
    };
    Result<> take(InodeNo ino, const fuse_setupmapping_in &in);
    Result<> take_pin(Range *range, std::uint64_t unit, const Caller &vmm);
    Result<> begin_stores(const Range &range);
    Result<> find_pieces(Range &range, std::uint64_t window_offset, std::uint64_t length);
    Result<> map(Range &range, const FileDescriptor &device) EXCLUDES(mutex_);
    void unmap(const Range &range, std::size_t pieces) EXCLUDES(mutex_);
    std::shared_ptr<Range> find(std::uint64_t window_offset) EXCLUDES(mutex_);
    std::shared_ptr<virtio::BackChannel> channel() EXCLUDES(mutex_);

    Volume &volume_;
    const std::uint64_t size_;
    Mutex turn_;  // one change at a time; held during calls to the VMM
    Mutex mutex_;
    virtio::Peer peer_ GUARDED_BY(mutex_);
    std::shared_ptr<virtio::BackChannel> channel_ GUARDED_BY(mutex_);
    // By their offsets in the window.
    std::map<std::uint64_t, std::shared_ptr<Range>> ranges_ GUARDED_BY(mutex_);
    std::optional<std::uint64_t> guest_base_ GUARDED_BY(mutex_);  // its address in the guest
};

}  // namespace pmfs::front
