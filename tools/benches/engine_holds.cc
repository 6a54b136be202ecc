// How long others wait while somebody works on a file of a million extents.
//
// Seen from outside: one thread does the work, another one runs getattr on other files in a loop
// and times each call.  The longest call is the longest time that any lock in its way was held.
// Where the kernel took the processor away from the watching thread in the middle of a call, that
// call tells nothing and is left out; what it does to the working thread cannot be seen here, so on
// a busy machine the longest is an upper bound.  The peer of each row is the same figure with
// nothing else going on.
#include <linux/falloc.h>
#include <sys/resource.h>

#include <atomic>
#include <thread>

#include "engine_world.h"

namespace pmfs::bench {
namespace {

constexpr std::size_t kOthers = 1000;            // files that are looked at meanwhile
constexpr std::uint64_t kLeastNs = 300'000'000;  // short work is repeated for that long

long switches() {
    rusage usage{};
    ::getrusage(RUSAGE_THREAD, &usage);
    return usage.ru_nivcsw;
}

// Calls getattr from its own thread until it is stopped.
class Watch {
public:
    Watch(World &world, const std::vector<InodeNo> &files)
        : world_(world), files_(files), thread_([this] { run(); }) {
        while (!begun_) std::this_thread::yield();
    }
    // In microseconds, in order.
    std::vector<double> stop() {
        stop_ = true;
        thread_.join();
        std::ranges::sort(times_);
        return std::move(times_);
    }

private:
    void run() {
        times_.reserve(std::size_t{1} << 22);
        for (std::size_t i = 0; !stop_; ++i) {
            const long before = switches();
            const std::uint64_t begin = monotonic_ns();
            must(world_.volume().getattr(files_[i % files_.size()]), "getattr");
            const std::uint64_t end = monotonic_ns();
            if (switches() == before) times_.push_back(static_cast<double>(end - begin) / 1000);
            begun_ = true;
        }
    }

    World &world_;
    const std::vector<InodeNo> &files_;
    std::vector<double> times_;
    std::atomic<bool> stop_ = false, begun_ = false;
    std::thread thread_;
};

struct Waits {
    double longest_ms = 0, p999_us = 0;
};
Waits waits_of(const std::vector<double> &times) {
    return {times.back() / 1000, times[times.size() * 999 / 1000]};
}

class Holds {
public:
    explicit Holds(std::size_t extents)
        : extents_(extents),
          world_(2 * extents * kBlock + 1024 * kMiB),
          dir_(world_.directory("holds")) {
        const InodeNo others = world_.directory("others");
        for (std::size_t i = 0; i < kOthers; ++i) {
            const Open file = world_.create(others, name_of(i));
            world_.volume().release(file.handle);
            others_.push_back(file.ino);
        }
        idle_ = watch([] { std::this_thread::sleep_for(std::chrono::seconds(1)); });
    }

    void measure() {
        Open file = scattered();
        row(
            "info", [&] { must(world_.volume().file_info(file.ino), "info"); }, true);
        row(
            "holders", [&] { must(world_.volume().holders(file.ino), "holders"); }, true);
        std::uint64_t bad = 0;
        world_.volume().release(file.handle);
        row("seal", [&] {
            must(world_.volume().seal(file.ino, SealLevel::as_is, {}, true, &bad), "seal");
        });
        must(world_.volume().unseal(file.ino, {}, true), "unseal");
        OpenRequest request;
        request.write = true;
        file.handle = must(world_.volume().open_file(file.ino, request), "open").handle;
        row("punch", [&] {
            must(world_.volume().fallocate(file.handle, file.ino,
                                           FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                                           2 * extents_ * kBlock, {}),
                 "punch");
        });
        remove(file);

        file = scattered();
        row("truncate", [&] { world_.truncate(file.ino, 0); });
        remove(file);

        file = scattered();
        row("unlink", [&] { remove(file); });

        file = half_written();
        row("prepare", [&] { must(world_.volume().prepare(file.ino, 0, 0, 0, {}), "prepare"); });
        remove(file);
    }

private:
    // A file in which every second block is written: no two extents can be one.
    Open scattered() {
        const Open file = world_.create(dir_, "file");
        const std::vector<std::byte> page(kBlock, std::byte{1});
        for (std::size_t i = 0; i < extents_; ++i) world_.write(file.ino, 2 * i, page);
        return file;
    }
    // Allocated, and every second block is written: as many extents in half the space.
    Open half_written() {
        const Open file = world_.create(dir_, "file");
        must(world_.volume().fallocate(file.handle, file.ino, 0, 0, extents_ * kBlock, {}),
             "fallocate");
        const std::vector<std::byte> page(kBlock, std::byte{1});
        for (std::size_t i = 0; i < extents_; i += 2) world_.write(file.ino, i, page);
        return file;
    }
    // Gone when its blocks are free again: whoever gives them back may do so later.
    void remove(Open file) {
        const std::uint64_t before = world_.volume().info().blocks_free;
        world_.unlink(dir_, "file");
        world_.close(file);
        const std::uint64_t begin = monotonic_ns();
        while (world_.volume().info().blocks_free < before + extents_ / 2) {
            if (monotonic_ns() - begin > 20'000'000'000) break;  // it was punched or cut before
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
            if (world_.volume().info().blocks_free == before &&
                monotonic_ns() - begin > 200'000'000)
                break;
        }
    }

    template <class Work>
    Waits watch(Work work) {
        Watch others(world_, others_);
        work();
        return waits_of(others.stop());
    }
    template <class Work>
    void row(const std::string &name, Work work, bool again = false) {
        double took = 0;
        std::size_t times = 0;
        const Waits waits = watch([&] {
            const std::uint64_t begin = monotonic_ns();
            do {
                work();
                ++times;
            } while (again && monotonic_ns() - begin < kLeastNs);
            took = static_cast<double>(monotonic_ns() - begin) / 1e6 / static_cast<double>(times);
        });
        print_row("engine.took_" + name, took, "ms");
        print_row("engine.hold_" + name, waits.longest_ms, "ms", idle_.longest_ms);
        print_row("engine.p999_" + name, waits.p999_us, "us", idle_.p999_us);
    }

    std::size_t extents_;
    World world_;
    InodeNo dir_;
    std::vector<InodeNo> others_;
    Waits idle_;
};

}  // namespace

void measure_holds(std::size_t extents) {
    Holds(extents).measure();
}

}  // namespace pmfs::bench
