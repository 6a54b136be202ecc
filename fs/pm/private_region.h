// A region whose stores stay in memory: what fsck -n replays a journal into.
#pragma once
#include "pm/mapped_region.h"

namespace pmfs::pm {

// Files are mapped MAP_PRIVATE.  Device-DAX knows MAP_SHARED only, and a private page of hugetlbfs
// needs a free huge page; there, the unit that is stored to is first replaced by a copy of itself
// in ordinary memory.  That needs a unit of memory for each unit that the replay touches.
class PrivateRegion final : public MappedRegion {
public:
    // `kind` is what the caller found the medium to be (fsdax looks like an image to look_at).
    static MappedResult make(MediumKind kind, FileDescriptor fd, const Medium &medium);

    Result<> sync() override { return {}; }
    void store_home(std::uint64_t offset, std::span<const std::byte> bytes) override;
    void drop_private(std::uint64_t) override {}  // nothing ever goes home

protected:
    void do_write(std::uint64_t offset, std::span<const std::byte> bytes) override;
    void do_zero(std::uint64_t offset, std::uint64_t size) override;
    void do_store_meta(std::uint64_t offset, std::span<const std::byte> bytes) override;
    void do_fence() override {}
    void do_fence_everywhere() override {}

private:
    PrivateRegion(MediumKind kind, FileDescriptor fd, const Medium &medium, Mapping mapping,
                  UnitSet lost, UnitSet copied, bool by_unit);
    std::byte *writable(std::uint64_t offset, std::uint64_t size);
    void copy_unit(std::uint64_t offset);

    Mapping mapping_;
    UnitSet copied_;  // units that are memory already
    const bool by_unit_;
    FaultGuard guard_;
};

}  // namespace pmfs::pm
