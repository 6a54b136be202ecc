// Private copies of a whole medium, page by page or unit by unit, made when first stored to.
#include "pm/private_region.h"

#include <cstring>

#include "base/bytes.h"

namespace pmfs::pm {

MappedResult PrivateRegion::make(MediumKind kind, FileDescriptor fd, const Medium &medium) {
    const bool by_unit = medium.unit > 4096 || kind == MediumKind::devdax;
    Mapping mapping = TRY(by_unit ? Mapping::make(fd.get(), medium.size, PROT_READ, MAP_SHARED)
                                  : Mapping::make(fd.get(), medium.size, PROT_READ | PROT_WRITE,
                                                  MAP_PRIVATE | MAP_NORESERVE));
    UnitSet lost = TRY(UnitSet::make(medium.size, medium.unit));
    UnitSet copied = TRY(UnitSet::make(medium.size, medium.unit));
    return std::unique_ptr<MappedRegion>(new PrivateRegion(kind, std::move(fd), medium,
                                                           std::move(mapping), std::move(lost),
                                                           std::move(copied), by_unit));
}

PrivateRegion::PrivateRegion(MediumKind kind, FileDescriptor fd, const Medium &medium,
                             Mapping mapping, UnitSet lost, UnitSet copied, bool by_unit)
    : MappedRegion(kind, std::move(fd), medium, false, std::move(lost)),
      mapping_(std::move(mapping)),
      copied_(std::move(copied)),
      by_unit_(by_unit) {
    meta_ = data_ = mapping_.start();
    guard_ = FaultGuard(mapping_.start(), align_up(size_, medium.unit), lost_);
}

// Replaces the unit at `offset` by a copy of itself; readers see either one.
void PrivateRegion::copy_unit(std::uint64_t offset) {
    const std::uint64_t unit = copied_.unit();
    auto made = Mapping::make(-1, unit, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
    if (!made.ok()) return raise_fault();  // no memory: the store is refused as EIO
    Mapping copy = std::move(made).take();
    std::memcpy(copy.start(), mapping_.start() + offset, unit);
    if (!copy.move_over(mapping_.start() + offset)) return raise_fault();
    copied_.add(offset);
}

std::byte *PrivateRegion::writable(std::uint64_t offset, std::uint64_t size) {
    check_range(offset, size);
    if (!by_unit_ || size == 0) return mapping_.start() + offset;
    const std::uint64_t unit = copied_.unit();
    for (std::uint64_t at = align_down(offset, unit); at < offset + size; at += unit) {
        if (!copied_.overlaps(at, 1)) copy_unit(at);
        if (!copied_.overlaps(at, 1)) return nullptr;
    }
    return mapping_.start() + offset;
}

void PrivateRegion::do_write(std::uint64_t offset, std::span<const std::byte> bytes) {
    std::byte *const to = writable(offset, bytes.size());
    if (to != nullptr) std::memcpy(to, bytes.data(), bytes.size());
}

void PrivateRegion::do_zero(std::uint64_t offset, std::uint64_t size) {
    std::byte *const to = writable(offset, size);
    if (to != nullptr) std::memset(to, 0, size);
}

void PrivateRegion::do_store_meta(std::uint64_t offset, std::span<const std::byte> bytes) {
    do_write(offset, bytes);
}

void PrivateRegion::store_home(std::uint64_t offset, std::span<const std::byte> bytes) {
    do_write(offset, bytes);
}

}  // namespace pmfs::pm
