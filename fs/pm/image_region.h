// A region in an ordinary file: metadata in a private mapping, data and journal in a shared one.
#pragma once
#include "pm/mapped_region.h"
#include "pm/syncer.h"

namespace pmfs::pm {

class ImageRegion final : public MappedRegion {
public:
    static MappedResult make(FileDescriptor fd, const Medium &medium, bool read_only);

    // EIO also when the file was truncated meanwhile.
    Result<> sync() override;
    bool failed() const override { return syncer_.failed(); }
    void store_home(std::uint64_t offset, std::span<const std::byte> bytes) override;
    void drop_private(std::uint64_t offset) override;
    bool in_memory(std::uint64_t offset) const override;
    void read_in(std::uint64_t offset) const override;

protected:
    void do_write(std::uint64_t offset, std::span<const std::byte> bytes) override;
    void do_zero(std::uint64_t offset, std::uint64_t size) override;
    void do_store_meta(std::uint64_t offset, std::span<const std::byte> bytes) override;
    // A store that a thread has executed is in the page cache and survives the process.
    void do_fence() override {}
    void do_fence_everywhere() override {}
    Result<> extend_views(std::uint64_t size) override;

private:
    ImageRegion(FileDescriptor fd, Mapping shared, Mapping own, const Medium &medium,
                bool read_only, UnitSet lost);
    bool whole() const;
    void fail_write();
    bool zero_by_call(std::uint64_t offset, std::uint64_t size);
    void write_by_call(std::uint64_t offset, std::span<const std::byte> bytes);

    Syncer syncer_;
    Mapping shared_;
    Mapping private_;  // none when read-only
    FaultGuard shared_guard_, private_guard_;
};

}  // namespace pmfs::pm
