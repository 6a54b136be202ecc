// Regions whose loads and stores reach the medium itself: device-DAX, files on fsdax, and memory.
#pragma once
#include <libpmem2.h>

#include "pm/mapped_region.h"

namespace pmfs::pm {

class DaxRegion final : public MappedRegion {
public:
    // Maps `fd` with libpmem2, which also says how it is flushed (clwb, clflushopt, or not at all
    // where the processor's caches are persistent).  ENOTSUP: a file that needs msync, so no DAX.
    static MappedResult persistent(MediumKind kind, FileDescriptor fd, const Medium &medium,
                                   bool read_only);
    // Maps a device that is only read, without libpmem2: that looks for the device by libndctl,
    // which waits until udevd has nothing to do; and `pmfsctl probe` is what udevd itself waits
    // for.
    static MappedResult device_for_reading(FileDescriptor fd, const Medium &medium);
    // Maps memory.  What a dead process stored stays, what a power cut leaves is nothing: so there
    // is nothing to flush, whatever libpmem2 says about the file.
    static MappedResult volatile_memory(FileDescriptor fd, const Medium &medium, bool read_only);
    // Memory with the flushes and fences of a persistent medium, so that tests and benchmarks run
    // the code of devdax without one.
    static MappedResult memory_as_persistent(FileDescriptor fd, const Medium &medium);

    Result<> sync() override { return {}; }
    void store_home(std::uint64_t offset, std::span<const std::byte> bytes) override;
    void drop_private(std::uint64_t) override {}
    bool keeps(std::uint64_t offset, std::span<const std::byte> bytes) const override;

protected:
    void do_write(std::uint64_t offset, std::span<const std::byte> bytes) override;
    void do_zero(std::uint64_t offset, std::uint64_t size) override;
    void do_store_meta(std::uint64_t offset, std::span<const std::byte> bytes) override;
    void do_fence() override;
    void do_fence_everywhere() override;
    Result<> extend_views(std::uint64_t size) override;

private:
    struct MapDeleter {
        void operator()(pmem2_map *map) const { pmem2_map_delete(&map); }
    };
    using Map = std::unique_ptr<pmem2_map, MapDeleter>;
    struct Functions {
        pmem2_memcpy_fn copy = nullptr;
        pmem2_memset_fn fill = nullptr;
        pmem2_flush_fn flush = nullptr;
        pmem2_drain_fn drain = nullptr;
    };

    using MappedRegion::MappedRegion;
    static MappedResult over_mapping(MediumKind kind, FileDescriptor fd, const Medium &medium,
                                     bool read_only, bool flushes);
    static Functions functions_of(pmem2_map *map);
    static Functions functions_for_memory();
    void take_over(void *start, const Functions &functions, bool flushes);
    std::byte *at(std::uint64_t offset, std::uint64_t size);
    void check_stored(std::uint64_t offset, std::uint64_t size);

    Mapping memory_;  // memory, or a device for reading
    Map map_;         // persistent: libpmem2 unmaps what it mapped
    FaultGuard guard_;
    std::byte *start_ = nullptr;
    bool flushes_ = true;
    Functions functions_;
};

}  // namespace pmfs::pm
