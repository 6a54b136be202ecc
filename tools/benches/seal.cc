// bench_seal: what grants, seals and breaks cost.
//
//     bench_seal engine       pins and the check, inside the server
//     bench_seal DIRECTORY [busy]    through a mount: DIRECTORY is on a pmfs on memory with room
//     for 1 GiB;
//                             busy: only pmfs_map beside users that PREPARE
//
// One JSON line a row.
#include <dlfcn.h>
#include <fcntl.h>
#include <pmfs.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdarg>
#include <cstring>
#include <string>
#include <thread>

#include "core/pin_table.h"
#include "mkfs/make.h"
#include "seal_parts.h"
#include "volume/volume.h"

namespace {

std::atomic<unsigned> ioctls{0};  // that libpmfs made

}  // namespace

// The library's calls come by here: an ioctl on a file of a FUSE mount is one round trip.
extern "C" int ioctl(int fd, unsigned long request, ...) noexcept {
    using Ioctl = int (*)(int, unsigned long, void *);
    static const auto real = reinterpret_cast<Ioctl>(::dlsym(RTLD_NEXT, "ioctl"));
    va_list arguments;
    va_start(arguments, request);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);
    ++ioctls;
    return real(fd, request, argument);
}

namespace {

using namespace pmfs;
using namespace pmfs::bench;

constexpr std::size_t kRounds = 21;
constexpr std::size_t kHolders = 100;
constexpr std::size_t kPins = 100'000;
constexpr std::uint64_t kSize = std::uint64_t{1} << 30;

// --- inside the server

// Every second block of a file, in an order that no cache likes.
void pin_all(core::PinTable &pins, std::size_t count) {
    for (std::uint64_t i = 0; i < count; ++i) {
        core::PinTable::Pin pin;
        pin.first = FileBlock(i * 48271 % 100'003 * 2);
        pin.end = pin.first + 1;
        pin.handle = 1;
        if (!pins.add(pin)) die("pinning", ENOMEM);
    }
}

double time_check(const core::PinTable &pins) {
    std::uint64_t at = 1, hits = 0;
    const double us = time_calls(100'000, 1000, [&](std::size_t) {
        at = at * 6364136223846793005u + 1442695040888963407u;
        const FileBlock first((at >> 33) % 200'000);
        hits += pins.overlaps(first, first + 1);
    });
    if (hits == 0) die("no pin was found", EIO);
    return us;
}

void measure_pins() {
    core::PinTable many, few;
    pin_all(many, kPins);
    pin_all(few, kPins / 100);
    Figure memory, check;
    memory.add(static_cast<double>(many.bytes()) / kPins);
    for (std::size_t round = 0; round < kRounds; ++round)
        check.add(time_check(many), time_check(few));
    memory.print("seal.pin_memory", "bytes");
    check.print("seal.pin_check", "us");  // the peer: a hundredth of the pins
}

// Overwrites of a file with many holders, compared with a file without.
class Overwrites {
public:
    Overwrites() {
        auto region = pm::memory_region(kRegion).take();
        if (!mkfs::make(*region, {}).ok()) die("mkfs", EIO);
        volume_ = Volume::open(std::move(region), {}).take();
        free_ = make("free");
        held_ = make("held");
        OpenRequest request;
        request.write = request.direct = true;
        const HandleId handle = volume_->open_file(held_, request).take().handle;
        for (std::size_t i = 0; i < 1000; ++i) {
            GrantRequest grant;
            grant.kind = i < kHolders ? GrantKind::breakable : GrantKind::pin;
            grant.offset = i % kBlocks * 4096;
            grant.length = 4096;
            std::uint64_t bad = 0;
            if (!volume_->take_grant(handle, grant, {}, &bad).ok()) die("a grant", EIO);
        }
    }
    void measure() {
        Figure figure;
        for (std::size_t round = 0; round < kRounds; ++round) {
            // There and back, so that neither gains by its place in a round.
            const double held = time(held_), free = time(free_);
            const double free_again = time(free_), held_again = time(held_);
            figure.add((held + held_again) / 2, (free + free_again) / 2);
        }
        figure.print("seal.overwrite_held", "us");  // the peer: a file without holders
    }

private:
    static constexpr std::size_t kRegion = 256 << 20;
    static constexpr std::size_t kBlocks = 16 << 10;

    InodeNo make(const char *name) {
        const InodeNo ino =
            volume_->make(InodeNo(media::kRootIno), name, S_IFREG | 0600, 0, {}).take().ino;
        const std::vector<std::byte> bytes(1 << 20, std::byte{7});
        for (std::uint64_t at = 0; at < kBlocks * 4096; at += bytes.size())
            if (!volume_->write(ino, at, bytes, false, {}).ok()) die("writing", EIO);
        return ino;
    }
    double time(InodeNo ino) {
        const std::vector<std::byte> block(4096, std::byte{9});
        return time_calls(20'000, 100, [&](std::size_t i) {
            const std::uint64_t at = i * 48271 % kBlocks * 4096;
            if (!volume_->write(ino, at, block, false, {}).ok()) die("overwriting", EIO);
        });
    }
    std::unique_ptr<Volume> volume_;
    InodeNo free_, held_;
};

// --- through a mount

int make_file(const std::string &path, std::uint64_t size) {
    const int fd = must(pmfs_open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600), "making a file");
    const std::vector<char> piece(1 << 20, 'x');
    for (std::uint64_t at = 0; at < size; at += piece.size())
        if (::pwrite(fd, piece.data(), piece.size(), static_cast<off_t>(at)) !=
            static_cast<ssize_t>(piece.size()))
            die("writing a file", errno);
    must(pmfs_prepare(fd, 0, 0, 0), "preparing a file");
    return fd;
}

void measure_grant(int fd) {
    Figure time, trips;
    for (std::size_t round = 0; round < kRounds; ++round) {
        std::uint64_t grant = 0;
        ioctls = 0;
        const std::uint64_t begin = monotonic_ns();
        must(pmfs_grant(fd, PMFS_GRANT_TEMPORARY, 0, 0, 0, &grant), "taking T");
        must(pmfs_release(fd, grant), "giving T back");
        time.add(microseconds_since(begin));
        trips.add(ioctls.load());
    }
    time.print("seal.take_and_release", "us");
    trips.print("seal.round_trips", "calls");
}

void measure_seal(int fd) {
    Figure seal, unseal;
    for (std::size_t round = 0; round < kRounds; ++round) {
        std::uint64_t begin = monotonic_ns();
        must(pmfs_seal(fd, PMFS_SEAL_FULL), "sealing");
        seal.add(microseconds_since(begin) / 1000);
        begin = monotonic_ns();
        must(pmfs_unseal(fd), "unsealing");
        unseal.add(microseconds_since(begin) / 1000);
    }
    seal.print("seal.seal_1gib", "ms");
    unseal.print("seal.unseal_1gib", "ms");
}

// From a truncation's call until the last of a hundred holders has been told.
void measure_break(const std::string &path) {
    Figure heard;
    for (std::size_t round = 0; round < kRounds; ++round) {
        std::vector<int> files;
        std::vector<struct pmfs_lease *> leases(kHolders);
        std::vector<pollfd> events;
        for (struct pmfs_lease *&lease : leases) {
            files.push_back(must(pmfs_open(path.c_str(), O_RDWR, 0), "opening"));
            must(::pmfs_lease(files.back(), 0, 0, 0, &lease), "a lease");
            events.push_back({pmfs_lease_event_fd(lease), POLLIN, 0});
        }
        const std::uint64_t begin = monotonic_ns();
        const pid_t breaker = ::fork();  // another process: no process waits for itself
        const auto size = static_cast<off_t>((1 << 20) - (round + 1) * 4096);  // a change each time
        if (breaker == 0) ::_exit(::truncate(path.c_str(), size) == 0 ? 0 : 1);
        for (pollfd &event : events)
            if (::poll(&event, 1, 10'000) != 1) die("a holder heard nothing", ETIMEDOUT);
        heard.add(microseconds_since(begin) / 1000);
        for (struct pmfs_lease *lease : leases) must(pmfs_lease_end(lease), "ending a lease");
        for (const int fd : files) ::close(fd);
        int status = 1;
        if (::waitpid(breaker, &status, 0) != breaker || status != 0) die("the breaker", EIO);
    }
    heard.print("seal.break_100", "ms");
}

}  // namespace

int main(int argc, char **argv) {
    const bool busy = argc == 3 && std::string(argv[2]) == "busy";
    if (argc != 2 && !busy) {
        fmt::print(stderr, "usage: bench_seal engine | DIRECTORY [busy]\n");
        return 2;
    }
    if (std::string(argv[1]) == "engine") {
        measure_pins();
        Overwrites().measure();
        return 0;
    }
    const std::string directory = argv[1];
    if (busy) {
        measure_busy(directory);
        return 0;
    }
    const int large = make_file(directory + "/large", kSize);
    measure_grant(large);
    measure_seal(large);
    ::close(make_file(directory + "/leased", 1 << 20));
    measure_break(directory + "/leased");
    return 0;
}
