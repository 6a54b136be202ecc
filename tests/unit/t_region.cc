// Regions on real media: every kind of file that this machine has, and device-DAX's code on memory.
//
// Holds docs/persistence.md "The media", "SIGBUS", "Who may have it open".
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "base/bytes.h"
#include "pm/barrier.h"
#include "pm/dax_region.h"
#include "pm/image_region.h"
#include "pm/lock.h"
#include "pm/private_region.h"
#include "unit/child.h"

using namespace pmfs;
using namespace pmfs::pm;
using test::died_of;
using test::status_of;

namespace {

constexpr std::uint64_t kSize = 8 * kMiB;

FileDescriptor memory_file(std::uint64_t size = kSize) {
    FileDescriptor fd(::memfd_create("t_region", MFD_CLOEXEC));
    REQUIRE(::ftruncate(fd.get(), static_cast<off_t>(size)) == 0);
    return fd;
}

std::string path_of(const FileDescriptor &fd) {
    return "/proc/self/fd/" + std::to_string(fd.get());
}

Medium medium_of(const FileDescriptor &fd) {
    return look_at(fd.get()).take();
}

// The same bytes through another description, as another process would see them.
std::vector<std::byte> on_medium(const FileDescriptor &fd, std::uint64_t offset, std::size_t size) {
    std::vector<std::byte> bytes(size);
    REQUIRE(::pread(fd.get(), bytes.data(), size, static_cast<off_t>(offset)) ==
            static_cast<ssize_t>(size));
    return bytes;
}

std::vector<std::byte> pattern(std::size_t size, unsigned seed) {
    std::vector<std::byte> bytes(size);
    for (std::size_t i = 0; i < size; ++i)
        bytes[i] = static_cast<std::byte>((i * 7 + i / 251 + seed) & 0xff);
    return bytes;
}

bool holds(const std::byte *view, const std::vector<std::byte> &bytes) {
    return std::memcmp(view, bytes.data(), bytes.size()) == 0;
}

struct Kind {
    const char *name;
    MappedResult (*make)(FileDescriptor);
};
const Kind kKinds[] = {
    {"memory",
     [](FileDescriptor fd) {
         const Medium medium = medium_of(fd);
         return DaxRegion::volatile_memory(std::move(fd), medium, false);
     }},
    {"device-DAX's code",
     [](FileDescriptor fd) {
         const Medium medium = medium_of(fd);
         return DaxRegion::memory_as_persistent(std::move(fd), medium);
     }},
    {"image",
     [](FileDescriptor fd) {
         const Medium medium = medium_of(fd);
         return ImageRegion::make(std::move(fd), medium, false);
     }},
};

FileDescriptor again(const FileDescriptor &fd) {
    return FileDescriptor(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 0));
}

}  // namespace

TEST_CASE("region: data of any size and alignment reaches the medium, and nothing beside it") {
    for (const Kind &kind : kKinds) {
        CAPTURE(kind.name);
        const FileDescriptor fd = memory_file();
        const auto region = kind.make(again(fd)).take();
        for (const std::size_t size : {1u, 7u, 8u, 63u, 64u, 65u, 200u, 1000u, 4096u, 33'000u,
                                       65'536u, 100'001u, 1'048'577u}) {
            for (const std::uint64_t offset : {4096u, 4097u, 4160u, 8184u}) {
                CAPTURE(size);
                CAPTURE(offset);
                const auto bytes = pattern(size, static_cast<unsigned>(offset));
                region->fence(region->zero(0, 2 * kMiB));
                region->fence(region->write(offset, bytes));
                CHECK(on_medium(fd, offset, size) == bytes);
                CHECK((holds(region->data() + offset, bytes) && region->keeps(offset, bytes)));
                CHECK(region->data()[offset - 1] == std::byte{0});
                CHECK(region->data()[offset + size] == std::byte{0});
                region->fence(region->zero(offset + 1, size - 1));
                CHECK(region->data()[offset] == bytes[0]);
                CHECK(std::all_of(region->data() + offset + 1, region->data() + offset + size,
                                  [](std::byte b) { return b == std::byte{0}; }));
            }
        }
        CHECK(!take_fault());
    }
}

TEST_CASE("region: metadata on DAX media is on the medium once it is stored") {
    for (const Kind &kind : {kKinds[0], kKinds[1]}) {
        CAPTURE(kind.name);
        const FileDescriptor fd = memory_file();
        const auto region = kind.make(again(fd)).take();
        const auto bytes = pattern(200, 3);
        region->fence(region->store_meta(8000, bytes));
        CHECK(on_medium(fd, 8000, 200) == bytes);
        CHECK(holds(region->meta() + 8000, bytes));
        CHECK(region->meta() == region->data());
        CHECK(region->sync().ok());
    }
}

TEST_CASE("region: metadata of an image stays in memory until it goes home") {
    const FileDescriptor fd = memory_file();
    const auto region = kKinds[2].make(again(fd)).take();
    const auto old = pattern(4096, 1), now = pattern(4096, 2);
    region->fence(region->write(4096, old));
    CHECK(holds(region->meta() + 4096, old));  // not copied yet: follows the file

    region->fence(region->store_meta(4096, now));
    CHECK(holds(region->meta() + 4096, now));
    CHECK(holds(region->data() + 4096, old));
    CHECK(on_medium(fd, 4096, 4096) == old);

    region->store_home(4096, now);
    CHECK(on_medium(fd, 4096, 4096) == now);
    CHECK(holds(region->data() + 4096, now));
    CHECK(region->sync().ok());
}

TEST_CASE(
    "region: a page of an image is in memory when it was read in, and its neighbours are not") {
    const FileDescriptor fd = memory_file();
    const auto region = kKinds[2].make(again(fd)).take();
    CHECK_FALSE(region->in_memory(3 * kMiB));
    region->read_in(3 * kMiB + 5);
    CHECK(region->in_memory(3 * kMiB));
    CHECK_FALSE(region->in_memory(5 * kMiB));
    region->fence(region->store_meta(5 * kMiB, pattern(64, 1)));
    CHECK(region->in_memory(5 * kMiB));
    const auto memory = kKinds[0].make(memory_file()).take();
    CHECK(memory->in_memory(3 * kMiB));  // there is nothing to wait for
}

TEST_CASE("region: a dropped private block follows the file again, and its neighbours stay") {
    const FileDescriptor fd = memory_file();
    const auto region = kKinds[2].make(again(fd)).take();
    const auto a = pattern(8192, 1), b = pattern(8192, 2);
    region->fence(region->store_meta(4096, a));
    region->store_home(4096, a);
    region->drop_private(4096);
    region->store_home(4096, b);
    CHECK(std::memcmp(region->meta() + 4096, b.data(), 4096) == 0);
    CHECK(std::memcmp(region->meta() + 8192, a.data() + 4096, 4096) == 0);
}

TEST_CASE("region: a write that is never fenced traps") {
    const auto region = memory_region(kSize).take();
    CHECK(died_of(SIGABRT, status_of([&] {
                      { const Unfenced owed = region->write(0, pattern(8, 1)); }
                      return 0;
                  })));
    Unfenced all;
    all.add(region->write(0, pattern(8, 1)));
    all.add(region->store_meta(64, pattern(8, 1)));
    region->fence(std::move(all));
    region->defer(region->write(0, pattern(8, 1)));
    region->fence_everywhere();
}

TEST_CASE("region: a store outside the region or into a read-only one traps") {
    const FileDescriptor fd = memory_file();
    CHECK(died_of(SIGABRT, status_of([&] {
                      const auto region = open_region(path_of(fd), {}).take();
                      region->fence(region->write(kSize - 4, pattern(8, 1)));
                      return 0;
                  })));
    CHECK(died_of(SIGABRT, status_of([&] {
                      const auto region = open_region(path_of(fd), {.read_only = true}).take();
                      region->fence(region->store_meta(0, pattern(8, 1)));
                      return 0;
                  })));
}

TEST_CASE("region: what is stored is there when the region is opened again") {
    const FileDescriptor fd = memory_file();
    const auto bytes = pattern(5000, 9);
    {
        const auto region = open_region(path_of(fd), {}).take();
        CHECK(region->kind() == MediumKind::memory);
        CHECK(region->size() == kSize);
        CHECK(region->path() == path_of(fd));
        region->fence(region->write(kMiB, bytes));
    }
    const auto region = open_region(path_of(fd), {.read_only = true}).take();
    CHECK(region->read_only());
    CHECK(holds(region->meta() + kMiB, bytes));
    CHECK(holds(region->data() + kMiB, bytes));
}

// --- the lock

TEST_CASE("region: a second open is EBUSY and its sentence names the process that has it") {
    const FileDescriptor fd = memory_file();
    for (const OpenOptions &first :
         {OpenOptions{}, OpenOptions{.read_only = true}, OpenOptions{.private_copy = true}}) {
        auto region = open_region(path_of(fd), first).take();
        for (const OpenOptions &second :
             {OpenOptions{}, OpenOptions{.read_only = true}, OpenOptions{.private_copy = true}}) {
            const auto refused = open_region(path_of(fd), second);
            REQUIRE(!refused.ok());
            CHECK(refused.error().errno_value() == EBUSY);
            const std::string what = refused.error().what();
            CHECK(what == "is mounted or being checked by another process (pid " +
                              std::to_string(::getpid()) + ")");
        }
        CHECK(open_region(path_of(fd), {.exclusive = false}).ok());
        region.reset();
        CHECK(open_region(path_of(fd), {}).ok());
    }
}

TEST_CASE("region: a descriptor that is handed out neither holds nor drops the lock") {
    const FileDescriptor fd = memory_file();
    auto region = open_region(path_of(fd), {}).take();
    FileDescriptor handed(::fcntl(region->mapping_fd(), F_DUPFD_CLOEXEC, 0));
    ::flock(handed.get(), LOCK_UN);  // what a client might try
    CHECK(open_region(path_of(fd), {}).error().errno_value() == EBUSY);
    region.reset();
    CHECK(open_region(path_of(fd), {}).ok());  // though the client still has it
}

TEST_CASE("region: the lock ends with its process") {
    const FileDescriptor fd = memory_file();
    CHECK(status_of([&] {
              const auto region = open_region(path_of(fd), {});
              return region.ok() ? ::kill(::getpid(), SIGKILL) : 1;
          }) == SIGKILL);
    CHECK(open_region(path_of(fd), {}).ok());
    CHECK(lock_holder(fd.get()) == 0);
}

// --- what is refused

TEST_CASE("region: what cannot hold a volume is refused with a sentence of its own") {
    const auto refused = [](const std::string &path) {
        const auto region = open_region(path, {});
        REQUIRE(!region.ok());
        INFO(region.error().what());
        CHECK(std::strlen(region.error().what()) > 10);
        return region.error().errno_value();
    };
    CHECK(refused("/nonexistent/region") == ENOENT);
    CHECK(refused("/proc") == EISDIR);
    CHECK(open_region("/proc", {.read_only = true}).error().errno_value() == EISDIR);
    CHECK(refused("/dev/null") == ENODEV);
    CHECK(refused("/dev/tty0") != 0);
    const FileDescriptor empty = memory_file(0);
    CHECK(refused(path_of(empty)) == EINVAL);
    CHECK(
        std::string(open_region(path_of(empty), {}).error().what()).starts_with("the file is em"));
    int pipe_ends[2];
    REQUIRE(::pipe2(pipe_ends, O_CLOEXEC) == 0);
    const FileDescriptor reader(pipe_ends[0]), writer(pipe_ends[1]);
    CHECK(refused(path_of(reader)) == EINVAL);
    FileDescriptor sealed(::memfd_create("sealed", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    REQUIRE(::ftruncate(sealed.get(), kSize) == 0);
    REQUIRE(::fcntl(sealed.get(), F_ADD_SEALS, F_SEAL_WRITE) == 0);
    CHECK(refused(path_of(sealed)) == EPERM);
}

TEST_CASE("region: the error says that write permission is missing") {
    const FileDescriptor fd = memory_file();
    REQUIRE(::fchmod(fd.get(), 0444) == 0);
    const int status = status_of([&] {
        if (::geteuid() == 0 && ::seteuid(65534) != 0) return 3;
        const auto region = open_region(path_of(fd), {});
        return !region.ok() && region.error().errno_value() == EACCES ? 0 : 1;
    });
    CHECK(status == 0);
}

TEST_CASE("region: a file that needs msync is never opened as DAX, whatever the environment says") {
    std::string path =
        std::string(std::getenv("TMPDIR") ? std::getenv("TMPDIR") : "/tmp") + "/t_region.XXXXXX";
    const FileDescriptor fd(::mkostemp(path.data(), O_CLOEXEC));
    REQUIRE(fd.ok());
    REQUIRE(::ftruncate(fd.get(), kSize) == 0);
    const Medium medium = medium_of(fd);
    CHECK(
        DaxRegion::persistent(MediumKind::fsdax, again(fd), medium, false).error().errno_value() ==
        ENOTSUP);
    ::setenv("PMEM2_FORCE_GRANULARITY", "CACHE_LINE", 1);
    const auto forced = DaxRegion::persistent(MediumKind::fsdax, again(fd), medium, false);
    CHECK(forced.error().errno_value() == EINVAL);
    const auto region = open_region(path, {}).take();
    ::unsetenv("PMEM2_FORCE_GRANULARITY");
    CHECK(region->kind() != MediumKind::fsdax);
    CHECK(region->kind() != MediumKind::devdax);
    ::unlink(path.c_str());
}

TEST_CASE("region: a device-DAX node's size and alignment come from sysfs, old or new") {
    std::string directory = "/tmp/t_region.XXXXXX";
    REQUIRE(::mkdtemp(directory.data()) != nullptr);
    const auto put = [&](const std::string &name, const std::string &text) {
        const FileDescriptor fd(
            ::open((directory + name).c_str(), O_CREAT | O_WRONLY | O_TRUNC, 0600));
        REQUIRE(::write(fd.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size()));
    };
    CHECK(look_at_dax_device(directory).error().errno_value() == ENODEV);
    REQUIRE(::symlink("../../class/mem", (directory + "/subsystem").c_str()) == 0);
    CHECK(look_at_dax_device(directory).error().errno_value() == ENODEV);
    REQUIRE(::unlink((directory + "/subsystem").c_str()) == 0);
    REQUIRE(::symlink("../../../../bus/dax", (directory + "/subsystem").c_str()) == 0);
    CHECK(look_at_dax_device(directory).error().errno_value() == EINVAL);
    put("/align", "2097152\n");  // a namespace that is disabled has no size
    CHECK(look_at_dax_device(directory).error().errno_value() == EINVAL);
    ::unlink((directory + "/align").c_str());
    put("/size", "266338304\n");
    CHECK(look_at_dax_device(directory).error().errno_value() == EINVAL);
    REQUIRE(::mkdir((directory + "/device").c_str(), 0700) == 0);
    put("/device/align", "4096\n");
    CHECK(look_at_dax_device(directory).take().unit == 4096);
    put("/align", "2097152\n");
    const Medium medium = look_at_dax_device(directory).take();
    CHECK(medium.kind == MediumKind::devdax);
    CHECK(medium.size == 266338304);
    CHECK(medium.unit == 2 * kMiB);
    const auto refusal = [&] { return std::string(look_at_dax_device(directory).error().what()); };
    put("/align", "1073741824\n");
    CHECK(refusal().find("--align=2M") != std::string::npos);
    put("/align", "4096\n"), put("/size", "2097152\n");
    CHECK(refusal().find("has 2 MiB, but a volume") == 0);
    for (const char *name : {"/align", "/device/align", "/size", "/subsystem"})
        ::unlink((directory + name).c_str());
    ::rmdir((directory + "/device").c_str());
    ::rmdir(directory.c_str());
}

// --- private copies

TEST_CASE("region: stores into a private copy stay there, page by page and unit by unit") {
    for (const std::uint64_t unit : {std::uint64_t{4096}, 2 * kMiB}) {
        CAPTURE(unit);
        const FileDescriptor fd = memory_file();
        const auto old = pattern(kSize, 1);
        REQUIRE(::pwrite(fd.get(), old.data(), kSize, 0) == static_cast<ssize_t>(kSize));
        Medium medium = medium_of(fd);
        medium.unit = unit;
        const auto region = PrivateRegion::make(MediumKind::devdax, again(fd), medium).take();
        auto expected = old;
        const auto now = pattern(10'000, 77);
        for (const std::uint64_t offset : {std::uint64_t{0}, 2 * kMiB - 5000, kSize - 10'000}) {
            region->fence(region->store_meta(offset, now));
            std::copy(now.begin(), now.end(), expected.begin() + static_cast<long>(offset));
        }
        region->store_home(3 * kMiB, now);
        std::copy(now.begin(), now.end(), expected.begin() + 3 * kMiB);
        region->fence(region->zero(2 * kMiB - 100, 5000));
        std::fill_n(expected.begin() + 2 * kMiB - 100, 5000, std::byte{0});
        region->fence_everywhere();
        region->drop_private(3 * kMiB);
        CHECK(region->sync().ok());
        CHECK(holds(region->meta(), expected));
        CHECK(holds(region->data(), expected));
        CHECK(on_medium(fd, 0, kSize) == old);
        CHECK(!take_fault());
    }
}

// --- faults

TEST_CASE("region: a page cut off under us reads as zeroes, sets the fault once, and is lost") {
    for (const Kind &kind : kKinds) {
        CAPTURE(kind.name);
        const FileDescriptor fd = memory_file();
        const auto region = kind.make(again(fd)).take();
        region->fence(region->write(6 * kMiB, pattern(8192, 5)));
        REQUIRE(::ftruncate(fd.get(), 4 * kMiB) == 0);
        const auto *bad = reinterpret_cast<const volatile std::byte *>(region->data());
        CHECK(!region->lost(0, kSize));

        std::thread other([&] {
            CHECK(bad[6 * kMiB + 100] == std::byte{0});
            CHECK(take_fault());
            CHECK(!take_fault());
            CHECK(bad[7 * kMiB] == std::byte{0});  // and its flag stays up
        });
        other.join();
        CHECK(!take_fault());  // it was not our access
        CHECK(bad[6 * kMiB] == std::byte{0});
        CHECK(!take_fault());                     // no second fault, so ...
        CHECK(region->lost(6 * kMiB + 4000, 1));  // ... lost() tells
        CHECK(!region->lost(6 * kMiB + 4096, 4096));
        CHECK(!region->lost(0, 6 * kMiB));
        CHECK(region->lost(6 * kMiB - 1, 2));

        region->fence(region->write(5 * kMiB, pattern(100, 1)));  // a store faults too
        CHECK(take_fault());
        CHECK(region->lost(5 * kMiB, 100));
        region->fence(region->write(5 * kMiB, pattern(100, 1)));  // and so does the next one,
        CHECK(take_fault());                                      // which raises no signal
        region->fence(region->store_meta(5 * kMiB, pattern(100, 1)));
        CHECK(take_fault());
        CHECK(region->sync().ok() != region->is_image());  // what was stored is nowhere
    }
}

TEST_CASE("region: metadata of an image that was cut off is lost as well") {
    const FileDescriptor fd = memory_file();
    const auto region = kKinds[2].make(again(fd)).take();
    REQUIRE(::ftruncate(fd.get(), 4 * kMiB) == 0);
    const auto *meta = reinterpret_cast<const volatile std::byte *>(region->meta());
    CHECK(meta[7 * kMiB] == std::byte{0});
    CHECK(take_fault());
    CHECK(region->lost(7 * kMiB, 1));
    region->fence(region->store_meta(7 * kMiB, pattern(8, 1)));
    CHECK(take_fault());
    CHECK_FALSE(region->sync().ok());  // the file is not what it was
}

TEST_CASE("region: a fault on a huge page loses the whole unit") {
    const FileDescriptor fd = memory_file(2 * kMiB);
    const auto mapping =
        Mapping::make(fd.get(), 6 * kMiB, PROT_READ | PROT_WRITE, MAP_SHARED).take();
    UnitSet lost = UnitSet::make(6 * kMiB, 2 * kMiB).take();
    const FaultGuard guard(mapping.start(), 6 * kMiB, lost);
    mapping.start()[3 * kMiB] = std::byte{1};
    CHECK(take_fault());
    CHECK(lost.overlaps(2 * kMiB, 1));
    CHECK(lost.overlaps(4 * kMiB - 1, 1));
    CHECK(!lost.overlaps(4 * kMiB, 2 * kMiB));
    CHECK(!lost.overlaps(0, 2 * kMiB));
}

TEST_CASE("region: a SIGBUS outside of all regions kills the process as usual") {
    const auto region = memory_region(kSize).take();  // the handler is there
    const FileDescriptor fd = memory_file(4096);
    CHECK(died_of(
        SIGBUS, status_of([&] {
            const auto mapping = Mapping::make(fd.get(), 8192, PROT_READ, MAP_SHARED).take();
            return static_cast<int>(reinterpret_cast<volatile std::byte *>(mapping.start())[4096]);
        })));
    CHECK(died_of(SIGBUS, status_of([] { return ::raise(SIGBUS); })));
}

TEST_CASE("region: regions that come and go leave no fault handling behind") {
    const FileDescriptor fd = memory_file(4096);
    for (int i = 0; i < 100; ++i) CHECK(memory_region(kSize).ok());
    CHECK(died_of(
        SIGBUS, status_of([&] {
            UnitSet lost = UnitSet::make(8192, 4096).take();
            const auto mapping = Mapping::make(fd.get(), 8192, PROT_READ, MAP_SHARED).take();
            { const FaultGuard guard(mapping.start(), 8192, lost); }
            return static_cast<int>(reinterpret_cast<volatile std::byte *>(mapping.start())[4096]);
        })));
}

// --- sync

TEST_CASE("region: a failed sync is final, by io_uring and by a system call") {
    for (const Syncer::Way way : {Syncer::Way::uring_if_possible, Syncer::Way::system_call}) {
        int pipe_ends[2];
        REQUIRE(::pipe2(pipe_ends, O_CLOEXEC) == 0);
        const FileDescriptor reader(pipe_ends[0]), writer(pipe_ends[1]);
        Syncer syncer(reader.get(), way);
        CHECK(syncer.sync().error().errno_value() == EIO);  // a pipe cannot be synced
        const FileDescriptor good = memory_file();
        REQUIRE(::dup2(good.get(), reader.get()) >= 0);
        CHECK(syncer.sync().error().errno_value() == EIO);
        Syncer fresh(reader.get(), way);
        CHECK(fresh.sync().ok());
        fresh.fail();
        CHECK(fresh.sync().error().errno_value() == EIO);
    }
}

TEST_CASE("region: a write that the disk refuses fails the operation and every later sync") {
    const FileDescriptor fd = memory_file();
    const int status = status_of([&] {
        const auto region = kKinds[2].make(again(fd)).take();
        const rlimit limit = {4 * kMiB, 4 * kMiB};
        if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) return 2;
        ::signal(SIGXFSZ, SIG_IGN);
        region->fence(region->zero(kMiB, kMiB));
        if (take_fault() || !region->sync().ok()) return 3;
        region->store_home(6 * kMiB, pattern(64 * kKiB, 1));
        if (!take_fault()) return 4;
        return region->sync().ok() ? 5 : 0;
    });
    CHECK(status == 0);
}

TEST_CASE("region: a fence for all threads returns while they run") {
    REQUIRE(prepare_fence_all_threads().ok());
    const auto region = kKinds[1].make(memory_file()).take();
    std::atomic<bool> stop = false;
    std::thread busy([&] {
        for (std::uint64_t i = 0; !stop; ++i)
            region->defer(region->store_meta(64 * (i % 1000), pattern(8, 1)));
    });
    for (int i = 0; i < 100; ++i) region->fence_everywhere();
    stop = true;
    busy.join();
    CHECK(WEXITSTATUS(status_of([&] {  // the registration is inherited
              region->fence_everywhere();
              return 7;
          })) == 7);
}

// --- real media

// PMFS_TEST_MEDIA="/dev/dax0.0 /mnt/dax/file": run in a guest that has them.  They are overwritten.
TEST_CASE("region: all of it holds on the media that PMFS_TEST_MEDIA names") {
    const char *const list = std::getenv("PMFS_TEST_MEDIA");
    std::istringstream paths(list != nullptr ? list : "");
    for (std::string path; paths >> path;) {
        CAPTURE(path);
        const auto a = pattern(10'000, 1), b = pattern(10'000, 2);
        MediumKind kind{};
        {
            const auto region = open_region(path, {}).take();
            kind = region->kind();
            MESSAGE(path, ": ", std::string(name_of(kind)), ", ", region->size(), " bytes, unit ",
                    region->mapping_unit());
            region->fence(region->zero(2 * kMiB, 6 * kMiB));
            region->fence(region->write(3 * kMiB + 100, a));
            region->fence(region->store_meta(5 * kMiB, a));
            region->fence_everywhere();
            CHECK(region->sync().ok());
            CHECK(open_region(path, {.read_only = true}).error().errno_value() == EBUSY);
            const auto client =
                Mapping::make(region->mapping_fd(), 4 * kMiB, PROT_READ | PROT_WRITE, MAP_SHARED)
                    .take();
            CHECK(holds(client.start() + 3 * kMiB + 100, a));
        }
        {
            const auto region = open_region(path, {.private_copy = true}).take();
            CHECK(region->kind() == kind);
            region->fence(region->store_meta(4 * kMiB - 5000, b));
            region->fence(region->write(5 * kMiB, b));
            CHECK(holds(region->meta() + 4 * kMiB - 5000, b));
            CHECK(holds(region->data() + 5 * kMiB, b));
            CHECK(holds(region->data() + 3 * kMiB + 100, a));
        }
        const auto region = open_region(path, {.read_only = true}).take();
        CHECK(region->kind() == kind);
        CHECK(holds(region->data() + 3 * kMiB + 100, a));
        if (kind != MediumKind::image) CHECK(holds(region->meta() + 5 * kMiB, a));
        CHECK(region->data()[4 * kMiB - 4000] == std::byte{0});
        CHECK(!take_fault());
    }
}

TEST_CASE("region: poison on the media that PMFS_TEST_POISON names is lost, and only that") {
    const char *const path = std::getenv("PMFS_TEST_POISON");
    if (path == nullptr) return;
    const auto region = open_region(path, {}).take();
    const std::uint64_t at = 6 * kMiB + 8192;
    region->fence(region->write(3 * kMiB, pattern(4096, 1)));
    region->fence(region->write(at, pattern(4096, 2)));
    REQUIRE(::madvise(const_cast<std::byte *>(region->data() + at), 4096, MADV_HWPOISON) == 0);
    CHECK(reinterpret_cast<const volatile std::byte *>(region->data())[at + 5] == std::byte{0});
    CHECK(take_fault());
    CHECK(region->lost(at, 1));
    CHECK(region->lost(6 * kMiB, 1) == (region->mapping_unit() > 4096));
    CHECK(!region->lost(8 * kMiB, 4096));
    CHECK(holds(region->data() + 3 * kMiB, pattern(4096, 1)));
    region->fence(region->write(at, pattern(4096, 2)));
    CHECK(take_fault());
}
