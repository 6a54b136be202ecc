// What every region on real media has: its lock, its descriptor and its list of lost units.
#pragma once
#include "pm/fault.h"
#include "pm/medium.h"

namespace pmfs::pm {

class MappedRegion : public Region {
public:
    // Holds `lock` (perhaps none) for as long as the region lives.
    void keep(FileDescriptor lock, const std::string &path, std::uint64_t disk_sequence) {
        lock_ = std::move(lock);
        path_ = path;
        disk_sequence_ = disk_sequence;
    }
    bool lost(std::uint64_t offset, std::uint64_t size) const final {
        return lost_.overlaps(offset, size);
    }
    int mapping_fd() const final { return fd_.get(); }
    Result<std::uint64_t> medium_size() const final { return TRY(look_at(fd_.get())).size; }
    Result<> extend(std::uint64_t size) final;

protected:
    MappedRegion(MediumKind kind, FileDescriptor fd, const Medium &medium, bool read_only,
                 UnitSet lost)
        : fd_(std::move(fd)), lost_(std::move(lost)) {
        kind_ = kind;
        size_ = medium.size;
        mapping_unit_ = medium.unit;
        read_only_ = read_only;
    }
    // Extends the mapping in place to `size` bytes of the medium, or returns why it cannot.
    virtual Result<> extend_views(std::uint64_t size) { return Region::extend(size); }
    void check_range(std::uint64_t offset, std::uint64_t size) const {
        const std::uint64_t end = this->size();
        PMFS_ASSERT(offset <= end && size <= end - offset && !read_only_);
    }

    FileDescriptor lock_;  // destroyed last: the volume stays locked while it is mapped here
    FileDescriptor fd_;
    UnitSet lost_;
};

using MappedResult = Result<std::unique_ptr<MappedRegion>>;

}  // namespace pmfs::pm
