// Makes the volume and its bad pages.
#include "world.h"

#include <doctest/doctest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>

#include "base/bytes.h"
#include "media/geometry.h"
#include "mkfs/make.h"
#include "pm/region.h"

namespace pmfs::test {

World::World(const front::DispatchOptions &dispatch, const MountOptions &options) {
    auto region = pm::memory_region(32 << 20);
    REQUIRE(region.ok());
    REQUIRE(mkfs::make(*region.value(), {}).ok());
    region_ = region.value().get();
    auto volume = Volume::open(std::move(region).take(), options);
    REQUIRE(volume.ok());
    volume_ = std::move(volume).take();
    wire_ = std::make_unique<Wire>(*volume_, dispatch);
}

World::~World() {
    wire_->dispatcher().finish_notifications();
    (void)volume_->close().ok();  // some tests leave it a medium that cannot be closed
    volume_.reset();
    wire_.reset();
}

void World::make_bad(std::uint64_t offset) {
    const FileDescriptor nothing(::memfd_create("bad", MFD_CLOEXEC));
    std::byte *page = const_cast<std::byte *>(volume_->region().meta()) + align_down(offset, 4096);
    REQUIRE(::mmap(page, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, nothing.get(), 0) ==
            page);
}

// (Not by looking for it: the journal has copies.)
std::uint64_t World::place_of_inode(std::uint64_t ino) const {
    REQUIRE(ino != media::kRootIno);
    return ino * media::kInodeSize;
}

std::uint64_t World::place_of_data(std::uint64_t ino) {
    std::array<Extent, 1> first;
    const auto found = volume_->extents(InodeNo(ino), FileBlock(0), first);
    REQUIRE(found.ok());
    REQUIRE(found.value() == 1);
    return media::byte_of(first[0].start);
}

}  // namespace pmfs::test
