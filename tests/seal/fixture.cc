// Volumes on each medium, and the four interfaces of the seal as one function.
#include "fixture.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>

#include "mkfs/make.h"
#include "pm/region.h"

namespace pmfs::test {
namespace {

constexpr off_t kVolumeSize = 64 << 20;
std::atomic<unsigned> cells{0};

// Both kinds have no name, so nothing is left behind.
FileDescriptor backing(Medium medium) {
    int fd = -1;
    if (medium == Medium::memory) {
        fd = ::memfd_create("seal", MFD_CLOEXEC);
    } else {
        const char *directory = std::getenv("TMPDIR");
        fd =
            ::open(directory != nullptr ? directory : "/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    }
    REQUIRE(fd >= 0);
    REQUIRE(::posix_fallocate(fd, 0, kVolumeSize) == 0);
    return FileDescriptor(fd);
}

std::unique_ptr<pm::Region> region_of(int fd, bool read_only) {
    pm::OpenOptions options;
    options.read_only = read_only;
    auto region = pm::open_region("/proc/self/fd/" + std::to_string(fd), options);
    REQUIRE(region.ok());
    return std::move(region).take();
}

}  // namespace

const char *name_of(Medium medium) {
    return medium == Medium::memory ? "memory" : "image";
}

Mounted::Mounted(Medium medium, const MountOptions &options, const front::DispatchOptions &dispatch)
    : file_(backing(medium)), options_(options), dispatch_(dispatch) {
    {
        const auto region = region_of(file_.get(), false);
        REQUIRE(mkfs::make(*region, {}).ok());
    }
    start();
}

void Mounted::start() {
    MountOptions options = options_;
    options.close_waits = 0;  // a RELEASE from here is never late
    auto volume = Volume::open(region_of(file_.get(), options.read_only), options);
    REQUIRE(volume.ok());
    volume_ = std::move(volume).take();
    wire_ = std::make_unique<Wire>(*volume_, dispatch_);
}

void Mounted::stop(bool crash) {
    if (wire_) wire_->dispatcher().finish_notifications();
    if (volume_ && !crash) CHECK(volume_->close().ok());
    volume_.reset();
    wire_.reset();
}

Mounted::~Mounted() {
    stop(false);
}

const char *name_of(Interface interface) {
    switch (interface) {
        case Interface::ioctl:
            return "ioctl";
        case Interface::fallocate:
            return "fallocate";
        case Interface::trusted_xattr:
            return "trusted.pmfs.seal";
        case Interface::user_xattr:
            return "user.pmfs.seal";
    }
    return "";
}

bool has_level(Interface interface, unsigned level) {
    return interface != Interface::fallocate || level == PMFS_SEAL_FULL;
}

int seal_by(Interface interface, Wire &wire, const OpenFile &file, unsigned level, As as) {
    const char *word = level == PMFS_SEAL_FULL ? "full" : "as-is";
    switch (interface) {
        case Interface::ioctl:
            return seal_ioctl(wire, file, level, nullptr, as);
        case Interface::fallocate:
            REQUIRE(level == PMFS_SEAL_FULL);
            return wire.fallocate(file, PMFS_FALLOC_FL_SEAL_BLOCK_MAP | FALLOC_FL_KEEP_SIZE, 0,
                                  std::uint64_t{1} << 40, as);
        case Interface::trusted_xattr:
            return wire.setxattr(file.node, "trusted.pmfs.seal", word, as);
        case Interface::user_xattr:
            return wire.setxattr(file.node, "user.pmfs.seal", word, as);
    }
    return 0;
}

int unseal_by(Interface interface, Wire &wire, const OpenFile &file, As as) {
    switch (interface) {
        case Interface::ioctl:
            return unseal_ioctl(wire, file, as);
        case Interface::fallocate:
            return wire.fallocate(file, PMFS_FALLOC_FL_UNSEAL_BLOCK_MAP | FALLOC_FL_KEEP_SIZE, 0,
                                  std::uint64_t{1} << 40, as);
        case Interface::trusted_xattr:
            return wire.removexattr(file.node, "trusted.pmfs.seal", as);
        case Interface::user_xattr:
            return wire.removexattr(file.node, "user.pmfs.seal", as);
    }
    return 0;
}

int seal_ioctl(Wire &wire, const OpenFile &file, unsigned level, std::uint64_t *bad_offset, As as) {
    pmfs_io_seal io{};
    io.version = PMFS_ABI_VERSION;
    io.level = level;
    const int error = wire.ioctl(file, PMFS_IOC_SEAL, &io, as);
    if (bad_offset != nullptr) *bad_offset = io.bad_offset;
    return error;
}

int unseal_ioctl(Wire &wire, const OpenFile &file, As as) {
    pmfs_io_unseal io{};
    io.version = PMFS_ABI_VERSION;
    return wire.ioctl(file, PMFS_IOC_UNSEAL, &io, as);
}

int prepare_ioctl(Wire &wire, const OpenFile &file, std::uint64_t unit, As as) {
    pmfs_io_prepare io{};
    io.version = PMFS_ABI_VERSION;
    io.unit = unit;
    return wire.ioctl(file, PMFS_IOC_PREPARE, &io, as);
}

pmfs_info info_of(Wire &wire, const OpenFile &file) {
    pmfs_info info{};
    info.version = PMFS_ABI_VERSION;
    REQUIRE(wire.ioctl(file, PMFS_IOC_INFO, &info) == 0);
    return info;
}

Snapshot look(Wire &wire, const OpenFile &file) {
    Snapshot seen;
    const pmfs_info info = info_of(wire, file);
    seen.size = info.size;
    seen.digest = bytes_text(info.digest);
    const auto page = std::make_unique<pmfs_extents>();
    do {
        page->version = PMFS_ABI_VERSION;
        page->from = page->next;
        REQUIRE(wire.ioctl(file, PMFS_IOC_EXTENTS, page.get()) == 0);
        for (std::uint32_t i = 0; i < page->count; i++)
            seen.extents.push_back(bytes_text(page->extent[i]));
    } while (page->next != 0);
    constexpr std::uint32_t kPiece = 1 << 20;
    while (seen.data.size() < info.size) {
        const Reply reply = wire.read(file, seen.data.size(), kPiece);
        REQUIRE(reply.error == 0);
        REQUIRE(!reply.body.empty());
        seen.data += reply.text();
    }
    return seen;
}

std::string pattern(std::size_t size, unsigned seed) {
    std::string bytes(size, 0);
    for (std::size_t i = 0; i < size; i++)
        bytes[i] = static_cast<char>((i * 7 + i / 251 + seed) & 0xff);
    return bytes;
}

void cell(const std::string &what, bool holds) {
    cells++;
    CHECK_MESSAGE(holds, what);
}

unsigned cells_seen() {
    return cells;
}

}  // namespace pmfs::test
