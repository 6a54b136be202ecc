// An image file that is cut short under its server: it is never made long again with zeroes, and
// no operation reports success.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/file_descriptor.h"
#include "media/verify.h"
#include "mkfs/make.h"
#include "pm/image_region.h"
#include "volume/volume.h"

using namespace pmfs;

namespace {

constexpr std::uint64_t kSize = 16 * kMiB, kCut = 8 * kMiB;

// A file on a disk, with no name.
FileDescriptor disk_file() {
    FileDescriptor fd(::open("/var/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    REQUIRE(fd.ok());
    REQUIRE(::ftruncate(fd.get(), kSize) == 0);
    return fd;
}

std::unique_ptr<pm::Region> open_image(const FileDescriptor &fd) {
    FileDescriptor again(
        ::open(("/proc/self/fd/" + std::to_string(fd.get())).c_str(), O_RDWR | O_CLOEXEC));
    REQUIRE(again.ok());
    const pm::Medium medium = pm::look_at(again.get()).take();
    return pm::ImageRegion::make(std::move(again), medium, false).take();
}

std::uint64_t size_of(const FileDescriptor &fd) {
    struct stat st {};
    REQUIRE(::fstat(fd.get(), &st) == 0);
    return static_cast<std::uint64_t>(st.st_size);
}

bool writes_fail(pm::Region &region, std::uint64_t offset, std::size_t size) {
    const std::vector<std::byte> bytes(size, std::byte{7});
    region.fence(region.write(offset, bytes));
    return pm::take_fault();
}

}  // namespace

TEST_CASE("truncated image: a large write does not make it long again") {
    const FileDescriptor fd = disk_file();
    const auto region = open_image(fd);
    REQUIRE_FALSE(writes_fail(*region, kCut + kMiB, kMiB));
    REQUIRE(region->sync().ok());
    REQUIRE(::ftruncate(fd.get(), kCut) == 0);
    CHECK(writes_fail(*region, kCut + kMiB, kMiB));
    CHECK(size_of(fd) == kCut);
    CHECK(region->failed());
    CHECK(region->sync().error().errno_value() == EIO);
    // Also where the file is still long enough for the write itself.
    CHECK(writes_fail(*region, 0, kMiB));
}

TEST_CASE("truncated image: a sync notices, even if nothing was written behind its end") {
    for (const std::uint64_t cut : {std::uint64_t{0}, kCut, kSize - 1}) {
        const FileDescriptor fd = disk_file();
        const auto region = open_image(fd);
        REQUIRE(region->sync().ok());
        REQUIRE(::ftruncate(fd.get(), static_cast<off_t>(cut)) == 0);
        CHECK(region->sync().error().errno_value() == EIO);
        REQUIRE(::ftruncate(fd.get(), kSize) == 0);
        CHECK_FALSE(region->sync().ok());  // what was there is gone
    }
}

TEST_CASE("truncated image: a volume becomes read-only, and fsync and the unmount fail") {
    const FileDescriptor fd = disk_file();
    REQUIRE(mkfs::make(*open_image(fd), {}).ok());
    const InodeNo root(media::kRootIno);
    const std::vector<std::byte> bytes(kMiB, std::byte{'x'});
    for (const bool writes : {true, false}) {
        MountOptions options;
        options.no_background = true;
        auto volume = Volume::open(open_image(fd), options).take();
        const auto made = volume->make(root, writes ? "a" : "b", S_IFREG | 0644, 0, Caller{});
        REQUIRE(made.ok());
        REQUIRE(volume->write(made.value().ino, 0, bytes, false, Caller{}).ok());
        REQUIRE(volume->commit_group().ok());
        REQUIRE(::ftruncate(fd.get(), kCut) == 0);
        if (writes) {
            const auto done = volume->write(made.value().ino, kMiB, bytes, false, Caller{});
            CHECK((!done.ok() || pm::take_fault()));
            CHECK(volume->info().read_only);
        }
        Result<> synced;
        volume->fsync(made.value().ino, [&](Result<> result) { synced = result; });
        CHECK_FALSE(synced.ok());
        CHECK(volume->info().read_only);
        CHECK_FALSE(volume->make(root, "late", S_IFREG | 0644, 0, Caller{}).ok());
        CHECK_FALSE(volume->close().ok());
        volume.reset();
        (void)pm::take_fault();
        CHECK(size_of(fd) == kCut);
        const auto region = open_image(fd);
        const auto found = media::find_superblock({region->data(), region->size()});
        REQUIRE(!found.ok());
        CHECK(found.error().errno_value() == EINVAL);  // "larger than the image that holds it"
        REQUIRE(::ftruncate(fd.get(), kSize) == 0);
        REQUIRE(mkfs::make(*open_image(fd), {}).ok());
    }
}
