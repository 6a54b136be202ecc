// There are two ways to write to the page cache: a store through the shared mapping, and pwrite(2).
// Measured on ext4, microseconds a piece:
//
//                       mapping, page was written    mapping, first store      pwrite
//                       since the last sync          after a sync
//               64 B    0.005                        1 to 5                    1.8
//              4 KiB    0.45                         1.1 (random places: 5)    1.8 (8)
//             64 KiB    6.4                          18                        9.4
//              1 MiB    108                          293                       140
//
// So small pieces are stored and large ones written.  Metadata goes home in lines, many of them to
// the same few blocks, so it is stored too.
#include "pm/image_region.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "base/blocking.h"
#include "base/bytes.h"

namespace pmfs::pm {

namespace {

constexpr std::uint64_t kByCallFrom = 32 << 10;
constexpr std::uint64_t kZeroByCallFrom = 256 << 10;
constexpr std::uint64_t kPage = 4096;
constexpr int kPrivate = MAP_PRIVATE | MAP_NORESERVE;
constexpr std::array<std::byte, 64 << 10> kZeroes = {};

}  // namespace

MappedResult ImageRegion::make(FileDescriptor fd, const Medium &medium, bool read_only) {
    const int protection = PROT_READ | (read_only ? 0 : PROT_WRITE);
    Mapping shared, own;
    if (read_only) {
        shared = TRY(Mapping::make(fd.get(), medium.size, protection, MAP_SHARED));
    } else {
        shared = TRY(Mapping::make_with_room(fd.get(), medium.size, kPage, protection, MAP_SHARED));
        own = TRY(Mapping::make_with_room(fd.get(), medium.size, kPage, protection, kPrivate));
    }
    UnitSet lost = TRY(UnitSet::make(shared.room(), kPage));
    return std::unique_ptr<MappedRegion>(new ImageRegion(
        std::move(fd), std::move(shared), std::move(own), medium, read_only, std::move(lost)));
}

ImageRegion::ImageRegion(FileDescriptor fd, Mapping shared, Mapping own, const Medium &medium,
                         bool read_only, UnitSet lost)
    : MappedRegion(MediumKind::image, std::move(fd), medium, read_only, std::move(lost)),
      syncer_(fd_.get()),
      shared_(std::move(shared)),
      private_(std::move(own)) {
    data_ = shared_.start();
    meta_ = read_only ? data_ : private_.start();
    shared_guard_ = FaultGuard(shared_.start(), align_up(size(), kPage), lost_);
    if (!read_only) private_guard_ = FaultGuard(private_.start(), align_up(size(), kPage), lost_);
}

// The bytes were not stored, so the operation of this thread must fail, and so must every later
// sync.
void ImageRegion::fail_write() {
    raise_fault();
    syncer_.fail();
}

// A truncated file cannot be used any more: pwrite(2) would make it long again, with zeroes in
// place of the volume.
bool ImageRegion::whole() const {
    struct stat now {};
    return ::fstat(fd_.get(), &now) == 0 && static_cast<std::uint64_t>(now.st_size) >= size();
}

Result<> ImageRegion::extend_views(std::uint64_t size) {
    if (read_only_) return MappedRegion::extend(size);
    constexpr int kProtection = PROT_READ | PROT_WRITE;
    TRY(shared_.extend(fd_.get(), size, kPage, kProtection, MAP_SHARED));
    TRY(private_.extend(fd_.get(), size, kPage, kProtection, kPrivate));
    shared_guard_.extend(align_up(size, kPage));
    private_guard_.extend(align_up(size, kPage));
    return {};
}

Result<> ImageRegion::sync() {
    if (read_only_) return {};
    const Result<> synced = syncer_.sync();
    if (whole()) return synced;
    syncer_.fail();
    return Error(EIO, "the image file was truncated while it was in use");
}

// An error here corresponds to the SIGBUS of a store.
void ImageRegion::write_by_call(std::uint64_t offset, std::span<const std::byte> bytes) {
    if (!whole()) return fail_write();
    while (!bytes.empty()) {
        const ssize_t n =
            ::pwrite(fd_.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset));
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return fail_write();
        bytes = bytes.subspan(static_cast<std::size_t>(n));
        offset += static_cast<std::uint64_t>(n);
    }
}

void ImageRegion::do_write(std::uint64_t offset, std::span<const std::byte> bytes) {
    check_range(offset, bytes.size());
    if (bytes.size() >= kByCallFrom) return write_by_call(offset, bytes);
    std::memcpy(shared_.start() + offset, bytes.data(), bytes.size());
    if (lost(offset, bytes.size())) fail_write();
}

// Makes the range allocated and zero without writing bytes, so that a sync that other requests wait
// for need not write them either.  False: the filesystem cannot do that, or there is an error that
// a write will report.
bool ImageRegion::zero_by_call(std::uint64_t offset, std::uint64_t size) {
    if (size < kZeroByCallFrom || !is_aligned(offset, kPage) || !is_aligned(size, kPage))
        return false;
    return whole() && ::fallocate(fd_.get(), FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
                                  static_cast<off_t>(offset), static_cast<off_t>(size)) == 0;
}

void ImageRegion::do_zero(std::uint64_t offset, std::uint64_t size) {
    check_range(offset, size);
    if (zero_by_call(offset, size)) return;
    for (std::uint64_t n = 0; size != 0; offset += n, size -= n) {
        n = std::min<std::uint64_t>(size, kZeroes.size());
        do_write(offset, std::span(kZeroes).first(n));
    }
}

void ImageRegion::do_store_meta(std::uint64_t offset, std::span<const std::byte> bytes) {
    check_range(offset, bytes.size());
    std::memcpy(private_.start() + offset, bytes.data(), bytes.size());
    if (lost(offset, bytes.size())) raise_fault();
}

void ImageRegion::store_home(std::uint64_t offset, std::span<const std::byte> bytes) {
    do_write(offset, bytes);
}

void ImageRegion::drop_private(std::uint64_t offset) {
    check_range(offset, kPage);
    PMFS_ASSERT(is_aligned(offset, kPage));
    // Fails only for a range that is not mapped; this one is.
    PMFS_ASSERT(::madvise(private_.start() + offset, kPage, MADV_DONTNEED) == 0);
}

// mincore(2): for a page of which this process has no copy, whether it is in the page cache.
bool ImageRegion::in_memory(std::uint64_t offset) const {
    unsigned char there = 0;
    auto *page = const_cast<std::byte *>(meta_ + align_down(offset, kPage));
    return ::mincore(page, kPage, &there) != 0 || (there & 1) != 0;
}

void ImageRegion::read_in(std::uint64_t offset) const {
    may_block("madvise");
    auto *page = const_cast<std::byte *>(meta_ + align_down(offset, kPage));
    (void)::madvise(page, kPage, MADV_POPULATE_READ);
}

}  // namespace pmfs::pm
