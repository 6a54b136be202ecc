// The least cost of data: the peer of operations that store data.
#pragma once
#include <libpmem2.h>
#include <sys/mman.h>

#include <cstddef>
#include <cstdint>

#include "base/assert.h"
#include "engine_world.h"

namespace pmfs::bench {

// The least cost of durable bytes: copied past the cache, fenced.
class Floor {
public:
    explicit Floor(std::size_t size)
        : size_(size),
          bytes_(static_cast<std::byte *>(
              ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0))) {
        PMFS_ASSERT(bytes_ != MAP_FAILED);
        populate(bytes_, size);
        pmem2_source *source = nullptr;
        PMFS_ASSERT(pmem2_source_from_anon(&source, size) == 0);
        pmem2_map *map = nullptr;  // kept: it only tells which functions this processor has
        PMFS_ASSERT(
            pmem2_map_from_existing(&map, source, bytes_, size, PMEM2_GRANULARITY_CACHE_LINE) == 0);
        copy_ = pmem2_get_memcpy_fn(map);
        pmem2_source_delete(&source);
    }
    ~Floor() { ::munmap(bytes_, size_); }
    Floor(const Floor &) = delete;

    void copy(std::size_t to, const void *from, std::size_t size) {
        copy_(bytes_ + to, from, size, PMEM2_F_MEM_NONTEMPORAL);
    }

private:
    std::size_t size_;
    std::byte *bytes_;
    pmem2_memcpy_fn copy_ = nullptr;
};

}  // namespace pmfs::bench
