// Every operation from several threads at once, on memory and on an image file with its commit
// thread: what ThreadSanitizer looks at, and fsck afterwards.  PMFS_STRESS_ROUNDS makes it longer.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "fsck/check.h"
#include "mkfs/make.h"
#include "volume/volume.h"

using namespace pmfs;

namespace {

constexpr Caller kUser{1000, 1000, 1};
constexpr unsigned kThreads = 4;
constexpr unsigned kNames = 12;  // few, so that threads meet
const InodeNo kRoot(media::kRootIno);

// A file of 32 MiB under $TMPDIR, gone at the end.
class TemporaryImage {
public:
    TemporaryImage() {
        const char *where = std::getenv("TMPDIR");
        path_ = std::string(where != nullptr ? where : "/tmp") + "/pmfs-stress-XXXXXX";
        const int fd = ::mkstemp(path_.data());
        REQUIRE(fd >= 0);
        REQUIRE(::posix_fallocate(fd, 0, 32 << 20) == 0);
        ::close(fd);
    }
    ~TemporaryImage() { ::unlink(path_.c_str()); }
    const std::string &path() const { return path_; }

private:
    std::string path_;
};

// Something that another thread will say once.
class Signal {
public:
    void give() {
        const std::lock_guard held(mutex_);
        given_ = true;
        changed_.notify_all();
    }
    void wait() {
        std::unique_lock held(mutex_);
        changed_.wait(held, [this] { return given_; });
    }

private:
    std::mutex mutex_;
    std::condition_variable changed_;
    bool given_ = false;
};

class Worker {
public:
    Worker(Volume &volume, const std::array<InodeNo, 2> &dirs, unsigned seed)
        : volume_(volume), dirs_(dirs), random_(seed) {}

    void work(int rounds) {
        for (int i = 0; i < rounds; ++i) one();
    }

private:
    InodeNo dir() { return dirs_[random_() % dirs_.size()]; }
    std::string name() { return "n" + std::to_string(random_() % kNames); }
    std::uint64_t offset() { return random_() % 200'000; }

    // With a place for what has to wait, as a request has one.
    Caller user() {
        Caller caller = kUser;
        caller.progress = &progress_;
        return caller;
    }

    // Waits where a front end would park the request.  Any other answer is right: names come and
    // go under our hands.
    template <class F>
    void attempt(F operation) {
        for (auto done = operation(); !done.ok() && must_park(done.error()); done = operation()) {
            const auto ready = std::make_shared<Signal>();
            volume_.when_ready(done.error(), [ready] { ready->give(); });
            ready->wait();
        }
    }

    void one() {
        switch (random_() % 4) {
            case 0:
                attempt([&] { return volume_.make(dir(), name(), S_IFREG | 0644, 0, user()); });
                break;
            case 1:
                change_names();
                break;
            default:
                use_file();
                break;
        }
    }

    void change_names() {
        switch (random_() % 6) {
            case 0:
                attempt([&] { return volume_.unlink(dir(), name()); });
                break;
            case 1: {
                const unsigned flags = random_() % 3 == 0 ? RENAME_EXCHANGE : 0;
                attempt([&] { return volume_.rename(dir(), name(), dir(), name(), flags); });
                break;
            }
            case 2:
                attempt([&] { return volume_.symlink(dir(), name(), "there", user()); });
                break;
            case 3:
                attempt([&] { return volume_.make(dir(), name(), S_IFDIR | 0755, 0, user()); });
                break;
            case 4:
                attempt([&] { return volume_.rmdir(dir(), name()); });
                break;
            default:
                attempt([&] {
                    return volume_.readdir(dir(), 0, [](const DirEntry &) { return true; });
                });
        }
        (void)volume_.info();
    }

    void use_file() {
        const auto found = volume_.lookup(dir(), name());
        if (!found.ok()) return;
        const InodeNo ino = found.value().ino;
        const auto opened =
            volume_.open_file(ino, {.write = true, .direct = true, .caller = user()});
        if (opened.ok()) {
            change_file(opened.value().handle, ino);
            look_at(ino);
            volume_.release(opened.value().handle);
        }
        volume_.forget(ino, 1);
    }

    void change_file(HandleId handle, InodeNo ino) {
        switch (random_() % 10) {
            case 0:
            case 1: {
                const std::string text(1 + random_() % 20'000, 'w');
                const std::uint64_t at = offset();
                attempt([&] {
                    return volume_.write(ino, at, std::as_bytes(std::span(text)), true, user());
                });
                break;
            }
            case 2:
                attempt([&] {
                    return volume_.setattr(ino, {.size = offset(), .kill_suid_sgid = true}, user());
                });
                break;
            case 3: {
                const unsigned modes[] = {0, FALLOC_FL_KEEP_SIZE,
                                          FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                          FALLOC_FL_ZERO_RANGE};
                const unsigned mode = modes[random_() % std::size(modes)];
                attempt(
                    [&] { return volume_.fallocate(handle, ino, mode, offset(), 70'000, user()); });
                break;
            }
            case 4:
                attempt([&] { return volume_.link(ino, dir(), name()); });
                break;
            case 5:
                change_xattrs(ino);
                break;
            case 6: {
                Signal synced;
                volume_.fsync(ino, [&](Result<>) { synced.give(); });
                synced.wait();
                break;
            }
            case 7:
                seal_and_grant(handle, ino);
                break;
            case 8:
                attempt([&] { return volume_.prepare_contiguous(ino, 0, 0, user()); });
                break;
            default:
                attempt([&] { return volume_.prepare(ino, 0, 0, 0, user()); });
        }
    }

    void change_xattrs(InodeNo ino) {
        const std::string value(random_() % 3000, 'x'), key = "user." + name();
        attempt(
            [&] { return volume_.setxattr(ino, key, std::as_bytes(std::span(value)), 0, user()); });
        attempt([&] { return volume_.listxattr(ino); });
        attempt([&] { return volume_.removexattr(ino, "user." + name(), user()); });
    }

    void seal_and_grant(HandleId handle, InodeNo ino) {
        std::uint64_t bad = 0;
        attempt([&] { return volume_.seal(ino, SealLevel::as_is, user(), true, &bad); });
        const auto grant = volume_.take_grant(handle, {.may_store = true}, user(), &bad);
        (void)volume_.holders(ino);
        if (grant.ok()) {
            Result<> dropped;
            attempt([&] { return dropped = volume_.drop_grant(handle, grant.value()); });
            CHECK(dropped.ok());
        }
        attempt([&] { return volume_.unseal(ino, user(), true); });
    }

    void look_at(InodeNo ino) {
        std::uint64_t sum = 0;
        (void)volume_.read(ino, offset(), 10'000, [&](std::span<const iovec> pieces) {
            for (const iovec &piece : pieces) sum += piece.iov_len;
        });
        std::array<Extent, 8> extents;
        (void)volume_.extents(ino, FileBlock(0), extents);
        (void)volume_.file_info(ino);
        (void)volume_.seek_hole(ino, 0);
    }

    Volume &volume_;
    const std::array<InodeNo, 2> dirs_;
    std::mt19937_64 random_;
    Progress progress_;
};

void stress(std::unique_ptr<pm::Region> region, int rounds) {
    REQUIRE(mkfs::make(*region, {}).ok());
    pm::Region &medium = *region;
    auto opened = Volume::open(std::move(region), {.commit_interval_ms = 20});
    REQUIRE(opened.ok());
    const auto volume = std::move(opened).take();
    const auto other = volume->make(kRoot, "other", S_IFDIR | 0755, 0, kUser);
    REQUIRE(other.ok());

    std::vector<std::thread> threads;
    for (unsigned seed = 0; seed < kThreads; ++seed)
        threads.emplace_back([&, seed] {
            Worker(*volume, {kRoot, other.value().ino}, seed).work(rounds);
        });
    for (std::thread &thread : threads) thread.join();

    REQUIRE(volume->close().ok());
    const auto report = fsck::check(medium);
    REQUIRE(report.ok());
    for (const auto &problem : report.value().problems) {
        CAPTURE(problem.detail);
        FAIL_CHECK(fsck::id_of(problem.code), ": ", fsck::info_of(problem.code).sentence);
    }
}

int rounds_or(int otherwise) {
    const char *text = std::getenv("PMFS_STRESS_ROUNDS");
    return text != nullptr ? std::atoi(text) : otherwise;
}

}  // namespace

TEST_CASE("stress: threads that do everything at once leave a sound volume in memory") {
    stress(std::move(pm::memory_region(32 << 20)).take(), rounds_or(1500));
}

TEST_CASE("stress: threads that do everything at once leave a sound volume in an image file") {
    const TemporaryImage image;
    auto region = pm::open_region(image.path(), {});
    REQUIRE(region.ok());
    stress(std::move(region).take(), rounds_or(500));
}
