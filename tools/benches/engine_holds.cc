// How long other operations wait while one works on a file of a million extents.
//
// Held: the longest time that any thread worked under the volume's lock, in CPU time
// (base/hold_watch.h), so that what the kernel does to threads of a busy machine does not count.
//
// Seen from outside: a thread runs getattr on other files at a steady pace and times each call, and
// another one does so with chmod, which a lock held for reading stands in the way of as well.
// Where one of these threads was ready to run in the middle of a call and had no processor (it may
// have been the one with the lock), that call tells of this machine only and is left out.  So it is
// where the host took the reader's processor between two calls.  The peer of each row is the same
// figure with nothing else going on.
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cinttypes>
#include <cstdio>
#include <optional>
#include <thread>
#include <utility>

#include "base/file_descriptor.h"
#include "base/hold_watch.h"
#include "engine_world.h"

namespace pmfs::bench {
namespace {

constexpr std::size_t kOthers = 1000;  // files that are looked at meanwhile
constexpr std::uint64_t kPaceNs =
    10'000;  // between two calls: what one client manages through FUSE
constexpr std::uint64_t kLateNs = 100'000;    // what may be looked into
constexpr std::uint64_t kStalledNs = 20'000;  // between two looks at the clock
constexpr std::chrono::milliseconds kWritePace{1}, kIdle{300};
constexpr std::size_t kLeases = 100;  // held while HOLDERS is asked
constexpr std::uint64_t kRemoveNs = 60'000'000'000;
constexpr std::uint64_t kLeastNs = 300'000'000;  // short work is repeated for that long

long switches() {
    rusage usage{};
    ::getrusage(RUSAGE_THREAD, &usage);
    return usage.ru_nivcsw;
}

// How long a thread was ready to run and had no processor, in ns (proc(5), schedstat).
class RunDelay {
public:
    explicit RunDelay(pid_t thread)
        : fd_(::open(fmt::format("/proc/self/task/{}/schedstat", thread).c_str(), O_RDONLY)) {}
    // Since the call before.
    std::uint64_t more() {
        char text[96] = {};
        std::uint64_t ran = 0, waited = 0;
        if (::pread(fd_.get(), text, sizeof text - 1, 0) <= 0 ||
            std::sscanf(text, "%" SCNu64 " %" SCNu64, &ran, &waited) != 2)
            return 0;
        return waited - std::exchange(last_, waited);
    }

private:
    FileDescriptor fd_;
    std::uint64_t last_ = 0;
};

// Getattr and chmod by threads of their own, until it is stopped.
class Watch {
public:
    Watch(World &world, const std::vector<InodeNo> &files)
        : world_(world), files_(files), reader_([this] { read(); }), writer_([this] { write(); }) {
        while (begun_ < 2) std::this_thread::yield();
    }
    void stop() {
        stop_ = true;
        reader_.join();
        writer_.join();
        std::ranges::sort(reads_);
    }
    double longest_ms() const { return std::max(reads_.back(), longest_write_) / 1000; }
    double p999_us() const { return reads_[reads_.size() * 999 / 1000]; }

private:
    // At a steady pace.  A call is timed from the moment when it was due, so that calls during a
    // long hold are counted as often as independent clients would make them.
    void read() {
        reads_.reserve(std::size_t{1} << 22);
        own_.emplace(::gettid());
        while (begun_ == 0) std::this_thread::yield();
        robbed(kLateNs + 1);
        std::uint64_t due = monotonic_ns();
        long last = switches();
        for (std::size_t i = 0; !stop_; ++i) {
            due = when_due(due);
            const long before = switches();
            if (before != last) due = monotonic_ns();  // late for a reason that is not ours
            must(world_.volume().getattr(files_[i % files_.size()]), "getattr");
            const std::uint64_t end = monotonic_ns();
            last = switches();
            const bool tells = last == before && !robbed(end - due);
            if (tells) reads_.push_back(microseconds(due, end));
            due = tells ? due + kPaceNs : end;
            if (i == 0) ++begun_;
        }
    }
    void write() {
        SetAttr set;
        writers_.emplace(::gettid());
        ++begun_;
        for (std::size_t i = 0; !stop_; ++i) {
            std::this_thread::sleep_for(kWritePace);
            set.mode = 0600 + i % 0100;
            const long before = switches();
            const std::uint64_t begin = monotonic_ns();
            must(world_.volume().setattr(files_[i % files_.size()], set, {}), "chmod");
            const std::uint64_t end = monotonic_ns();
            if (switches() == before)
                longest_write_ = std::max(longest_write_, microseconds(begin, end));
        }
    }
    // Waits for that moment and returns it; a later one if the machine's host, or an interrupt,
    // took the processor meanwhile.  (Not every host reports that as stolen time.)
    static std::uint64_t when_due(std::uint64_t due) {
        for (std::uint64_t last = monotonic_ns(); last < due;) {
            const std::uint64_t now = monotonic_ns();
            if (now - last > kStalledNs) due = std::max(due, now);
            last = now;
        }
        return due;
    }
    // Whether for most of that time one of us had no processor.
    bool robbed(std::uint64_t ns) {
        if (ns <= kLateNs) return false;
        std::uint64_t delays = 0;
        for (RunDelay *delay : {&*own_, &*writers_, &workers_}) delays += delay->more();
        return delays > ns / 2;
    }
    static double microseconds(std::uint64_t begin, std::uint64_t end) {
        return static_cast<double>(end - begin) / 1000;
    }

    World &world_;
    const std::vector<InodeNo> &files_;
    RunDelay workers_{::gettid()};  // of whoever watches its own work
    std::optional<RunDelay> own_, writers_;
    std::vector<double> reads_;  // microseconds
    double longest_write_ = 0;
    std::atomic<bool> stop_ = false;
    std::atomic<int> begun_ = 0;
    std::thread reader_, writer_;
};

struct Waits {
    double held_ms = 0, longest_ms = 0, p999_us = 0;
};

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
        // The calmest of some: on a busy machine others come in between.
        for (int i = 0; i < 5; ++i) {
            const Waits waits = watch([] { std::this_thread::sleep_for(kIdle); });
            if (i == 0 || waits.p999_us < idle_.p999_us) idle_ = waits;
        }
    }

    void measure() {
        while_mapped();
        Open file = scattered();
        row("truncate", [&] { world_.truncate(file.ino, 0); });
        remove(file, 0);
        file = scattered();
        row("unlink", [&] { remove(file, extents_); });
        file = half_written();
        row("prepare", [&] { must(world_.volume().prepare(file.ino, 0, 0, 0, {}), "prepare"); });
        remove(file, extents_);
    }

private:
    void while_mapped() {
        Volume &volume = world_.volume();
        Open file = scattered();
        row(
            "info", [&] { must(volume.file_info(file.ino), "info"); }, true);
        volume.release(file.handle);
        std::uint64_t bad = 0;
        row("seal", [&] { must(volume.seal(file.ino, SealLevel::as_is, {}, true, &bad), "seal"); });
        must(volume.unseal(file.ino, {}, true), "unseal");

        OpenRequest request;
        request.write = request.direct = true;
        file.handle = must(volume.open_file(file.ino, request), "open").handle;
        for (std::size_t i = 0; i < kLeases; ++i) {
            GrantRequest lease;
            lease.kind = core::GrantKind::breakable;
            lease.offset = 2 * i * kBlock;
            lease.length = kBlock;
            must(volume.take_grant(file.handle, lease, {}, &bad), "lease");
        }
        row(
            "holders", [&] { must(volume.holders(file.ino), "holders"); }, true);
        volume.release(file.handle);

        file.handle = must(volume.open_file(file.ino, request), "open").handle;
        row("punch", [&] {
            must(volume.fallocate(file.handle, file.ino, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                  0, 2 * extents_ * kBlock, {}),
                 "punch");
        });
        remove(file, 0);
    }
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
    // Ends when `blocks` of its blocks are free again, which may happen later.
    void remove(Open file, std::uint64_t blocks) {
        const std::uint64_t wanted = world_.volume().info().blocks_free + blocks;
        world_.unlink(dir_, "file");
        world_.close(file);
        for (const std::uint64_t begin = monotonic_ns(); monotonic_ns() - begin < kRemoveNs;) {
            if (world_.volume().info().blocks_free >= wanted) return;
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
        fmt::print(stderr, "bench_engine: the blocks of a removed file are not free\n");
        std::exit(1);
    }

    template <class Work>
    Waits watch(Work work) {
        Watch others(world_, others_);
        watch_holds(true);
        work();
        const double held = static_cast<double>(longest_hold_ns()) / 1e6;
        watch_holds(false);
        others.stop();
        return {held, others.longest_ms(), others.p999_us()};
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
        print_row("engine.hold_" + name, waits.held_ms, "ms", idle_.held_ms);
        print_row("engine.wait_" + name, waits.longest_ms, "ms", idle_.longest_ms);
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
