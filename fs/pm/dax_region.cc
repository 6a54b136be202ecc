// Copies, flushes and fences by libpmem2.  Measured on a server processor with clwb, nanoseconds
// for a store of so many bytes and its fence:
//
//                                    64    200    256   1000   1024   4096  64 Ki   1 Mi
//   cached, flushed (devdax)        200    224    224    308    310    700   8600   125 Ki
//   non-temporal (devdax)           187    306    200    232    230    350   3200    48 Ki
//   cached, not flushed (memory)      3      8      9     36     37    205   2300    48 Ki
//   ... into cold memory                                                     6500   110 Ki
//   non-temporal, into cold memory                                           3600    56 Ki
//
// So where data must be durable, whole lines (such as a record of the journal) and everything long
// are written non-temporally; a line that is written in part would wait for its other part.  On
// memory this pays off from 64 KiB up.  A flushed line costs 15 ns as long as no fence waits for
// it.
#include "pm/dax_region.h"

#include <cstdlib>
#include <cstring>

#include "base/bytes.h"
#include "pm/barrier.h"

namespace pmfs::pm {

namespace {

constexpr std::uint64_t kLine = 64;
constexpr std::uint64_t kStreamFrom = 2 << 10;
constexpr std::uint64_t kStreamIntoMemoryFrom = 4 << 10;

// How libpmem2 is to store; flushed in both cases.
unsigned manner(std::uint64_t offset, std::uint64_t size) {
    const bool stream = is_aligned(offset | size, kLine) || size >= kStreamFrom;
    return PMEM2_F_MEM_NODRAIN | (stream ? PMEM2_F_MEM_NONTEMPORAL : PMEM2_F_MEM_TEMPORAL);
}

struct SourceDeleter {
    void operator()(pmem2_source *source) const { pmem2_source_delete(&source); }
};
using Source = std::unique_ptr<pmem2_source, SourceDeleter>;
struct ConfigDeleter {
    void operator()(pmem2_config *config) const { pmem2_config_delete(&config); }
};
using Config = std::unique_ptr<pmem2_config, ConfigDeleter>;

Error pmem2_error(int code) {
    if (code == PMEM2_E_GRANULARITY_NOT_SUPPORTED)
        return Error(ENOTSUP, "stores to this file are durable only after msync, so it is not DAX");
    if (code == -ENOMEM)
        return Error(ENOMEM, "not enough address space or memory to map the medium");
    // Its own codes start at -100000; the ones above are errno values.
    return Error(code > PMEM2_E_UNKNOWN ? -code : EINVAL, "libpmem2 cannot map the medium");
}

}  // namespace

DaxRegion::Functions DaxRegion::functions_of(pmem2_map *map) {
    return {pmem2_get_memcpy_fn(map), pmem2_get_memset_fn(map), pmem2_get_flush_fn(map),
            pmem2_get_drain_fn(map)};
}

// libpmem2's functions for memory that is flushed by cache line.  They depend on the processor
// only, so one page of their own asks for them all; a map of each region would do as well if
// pmem2_map_delete freed what pmem2_map_from_existing allocated (it does not in 1.12).
DaxRegion::Functions DaxRegion::functions_for_memory() {
    static const Functions functions = [] {
        static pmem2_map *map = nullptr;  // kept, so that leak checkers see who has it
        void *const page =
            ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        pmem2_source *source = nullptr;
        PMFS_ASSERT(page != MAP_FAILED && pmem2_source_from_anon(&source, 4096) == 0);
        const Source owner(source);
        PMFS_ASSERT(
            pmem2_map_from_existing(&map, source, page, 4096, PMEM2_GRANULARITY_CACHE_LINE) == 0);
        return functions_of(map);
    }();
    return functions;
}

MappedResult DaxRegion::persistent(MediumKind kind, FileDescriptor fd, const Medium &medium,
                                   bool read_only) {
    // A testing aid of libpmem2 with which it would report wrongly what it must flush.
    if (std::getenv("PMEM2_FORCE_GRANULARITY") != nullptr)
        return Error(EINVAL, "unset PMEM2_FORCE_GRANULARITY: it makes persistent memory unsafe");
    if (!read_only) TRY(prepare_fence_all_threads());
    pmem2_source *raw_source = nullptr;
    if (const int code = pmem2_source_from_fd(&raw_source, fd.get()); code != 0)
        return pmem2_error(code);
    const Source source(raw_source);
    pmem2_config *raw_config = nullptr;
    if (const int code = pmem2_config_new(&raw_config); code != 0) return pmem2_error(code);
    const Config config(raw_config);
    pmem2_config_set_required_store_granularity(raw_config, PMEM2_GRANULARITY_CACHE_LINE);
    pmem2_config_set_length(raw_config, medium.size);
    pmem2_config_set_protection(raw_config, PMEM2_PROT_READ | (read_only ? 0 : PMEM2_PROT_WRITE));
    pmem2_map *raw_map = nullptr;
    if (const int code = pmem2_map_new(&raw_map, raw_config, raw_source); code != 0)
        return pmem2_error(code);
    Map map(raw_map);
    UnitSet lost = TRY(UnitSet::make(medium.size, medium.unit));
    std::unique_ptr<DaxRegion> region(
        new DaxRegion(kind, std::move(fd), medium, read_only, std::move(lost)));
    region->map_ = std::move(map);
    region->take_over(pmem2_map_get_address(raw_map), functions_of(raw_map), true);
    return region;
}

MappedResult DaxRegion::over_mapping(MediumKind kind, FileDescriptor fd, const Medium &medium,
                                     bool read_only, bool flushes) {
    if (flushes && !read_only) TRY(prepare_fence_all_threads());
    const int protection = PROT_READ | (read_only ? 0 : PROT_WRITE);
    Mapping memory = TRY(read_only ? Mapping::make(fd.get(), medium.size, protection, MAP_SHARED)
                                   : Mapping::make_with_room(fd.get(), medium.size, medium.unit,
                                                             protection, MAP_SHARED));
    UnitSet lost = TRY(UnitSet::make(memory.room(), medium.unit));
    std::unique_ptr<DaxRegion> region(
        new DaxRegion(kind, std::move(fd), medium, read_only, std::move(lost)));
    region->memory_ = std::move(memory);
    region->take_over(region->memory_.start(), functions_for_memory(), flushes);
    return region;
}

MappedResult DaxRegion::volatile_memory(FileDescriptor fd, const Medium &medium, bool read_only) {
    return over_mapping(MediumKind::memory, std::move(fd), medium, read_only, false);
}

MappedResult DaxRegion::memory_as_persistent(FileDescriptor fd, const Medium &medium) {
    return over_mapping(MediumKind::memory, std::move(fd), medium, false, true);
}

MappedResult DaxRegion::device_for_reading(FileDescriptor fd, const Medium &medium) {
    return over_mapping(MediumKind::devdax, std::move(fd), medium, true, true);
}

void DaxRegion::take_over(void *start, const Functions &functions, bool flushes) {
    start_ = static_cast<std::byte *>(start);
    meta_ = data_ = start_;
    functions_ = functions;
    flushes_ = flushes;
    ::madvise(start_, size_, MADV_DONTDUMP);  // (libpmem2 has mapped it, not Mapping)
    guard_ = FaultGuard(start_, size_, lost_);
}

// libpmem2 unmaps what it mapped.
Result<> DaxRegion::extend_views(std::uint64_t size) {
    if (memory_.start() == nullptr || read_only_) return MappedRegion::extend(size);
    TRY(memory_.extend(fd_.get(), size, mapping_unit_, PROT_READ | PROT_WRITE, MAP_SHARED));
    guard_.extend(align_up(size, mapping_unit_));
    return {};
}

std::byte *DaxRegion::at(std::uint64_t offset, std::uint64_t size) {
    check_range(offset, size);
    return start_ + offset;
}

// A store into a lost unit goes into zeroes that are kept nowhere.
void DaxRegion::check_stored(std::uint64_t offset, std::uint64_t size) {
    if (lost(offset, size)) [[unlikely]]
        raise_fault();
}

void DaxRegion::do_write(std::uint64_t offset, std::span<const std::byte> bytes) {
    std::byte *const to = at(offset, bytes.size());
    if (flushes_ || bytes.size() >= kStreamIntoMemoryFrom) {
        functions_.copy(to, bytes.data(), bytes.size(), manner(offset, bytes.size()));
    } else {
        std::memcpy(to, bytes.data(), bytes.size());
    }
    check_stored(offset, bytes.size());
}

void DaxRegion::do_zero(std::uint64_t offset, std::uint64_t size) {
    std::byte *const to = at(offset, size);
    if (flushes_ || size >= kStreamIntoMemoryFrom) {
        functions_.fill(to, 0, size, manner(offset, size));
    } else {
        std::memset(to, 0, size);
    }
    check_stored(offset, size);
}

void DaxRegion::do_store_meta(std::uint64_t offset, std::span<const std::byte> bytes) {
    std::byte *const to = at(offset, bytes.size());
    std::memcpy(to, bytes.data(), bytes.size());
    if (flushes_) functions_.flush(to, bytes.size());
    check_stored(offset, bytes.size());
}

bool DaxRegion::keeps(std::uint64_t offset, std::span<const std::byte> bytes) const {
    if (flushes_) evict_lines(start_ + offset, bytes.size());
    return MappedRegion::keeps(offset, bytes);
}

// On memory it orders non-temporal stores before later ones, which other threads may see.
void DaxRegion::do_fence() {
    functions_.drain();
}

void DaxRegion::do_fence_everywhere() {
    functions_.drain();
    if (flushes_) fence_all_threads();
}

void DaxRegion::store_home(std::uint64_t offset, std::span<const std::byte> bytes) {
    do_store_meta(offset, bytes);
}

}  // namespace pmfs::pm
