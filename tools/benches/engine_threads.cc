// What several threads reach together, beside one.
#include <algorithm>
#include <barrier>
#include <functional>
#include <random>
#include <thread>

#include "engine_floor.h"
#include "engine_world.h"

namespace pmfs::bench {
namespace {

constexpr std::size_t kPairRounds = 25;
constexpr std::size_t kAppends = 128;  // of 1 MiB, by each thread in a round

// Seconds from when the first thread begins work(number of the thread) until the last one has done
// it.
double seconds_of(std::size_t threads, const std::function<void(std::size_t)> &work) {
    std::barrier all_there(static_cast<std::ptrdiff_t>(threads));
    std::vector<std::uint64_t> begin(threads), end(threads);
    std::vector<std::jthread> running;
    for (std::size_t i = 0; i < threads; ++i)
        running.emplace_back([&, i] {
            all_there.arrive_and_wait();
            begin[i] = monotonic_ns();
            work(i);
            end[i] = monotonic_ns();
        });
    running.clear();  // joins
    return static_cast<double>(*std::ranges::max_element(end) - *std::ranges::min_element(begin)) /
           1e9;
}

// Each thread appends to a file of its own: MiB a second, of all.
double append_rate(World &world, InodeNo dir, std::size_t threads) {
    const std::vector<std::byte> mib(kMiB, std::byte{1});
    std::vector<Open> files;
    for (std::size_t i = 0; i < threads; ++i) files.push_back(world.create(dir, name_of(i)));
    const double seconds = seconds_of(threads, [&](std::size_t i) {
        for (std::size_t at = 0; at < kAppends; ++at)
            world.write(files[i].ino, at * kMiB / kBlock, mib);
    });
    for (std::size_t i = 0; i < threads; ++i) {
        world.unlink(dir, name_of(i));
        world.close(files[i]);
    }
    return static_cast<double>(threads * kAppends) / seconds;
}

// The same bytes copied with no filesystem: what this machine's memory lets two threads have.
double copy_rate(Floor &floor, std::size_t threads) {
    const std::vector<std::byte> mib(kMiB, std::byte{1});
    const double seconds = seconds_of(threads, [&](std::size_t i) {
        for (std::size_t at = 0; at < kAppends; ++at)
            floor.copy((i * kAppends + at) * kMiB, mib.data(), kMiB);
    });
    return static_cast<double>(threads * kAppends) / seconds;
}

// --- 1 to 16 threads

constexpr std::size_t kThreadsMax = 16;
constexpr std::size_t kCalls = 20'000;     // of a thread in a round
constexpr std::size_t kFileBlocks = 4096;  // 16 MiB

class Scaling {
public:
    Scaling() : world_(std::uint64_t{4} << 30), page_(kBlock, std::byte{1}) {
        const std::vector<std::byte> mib(kMiB, std::byte{1});
        for (std::size_t i = 0; i < kThreadsMax; ++i) {
            dirs_.push_back(world_.directory(fmt::format("thread-{}", i)));
            files_.push_back(world_.create(dirs_[i], "file"));
            for (std::size_t at = 0; at < kFileBlocks; at += kMiB / kBlock)
                world_.write(files_[i].ino, at, mib);
        }
    }
    void measure() {
        each("create", [this](std::size_t i) {
            for (std::size_t n = 0; n < kCalls; ++n)
                world_.close(world_.create(dirs_[i], name_of(n)));
        });
        each("append_4k", [this](std::size_t i) {
            const Open file = world_.create(dirs_[i], "log");
            for (std::size_t n = 0; n < kCalls / 2; ++n) world_.write(file.ino, n, page_);
            world_.close(file);
        });
        each("read_4k", [this](std::size_t i) {
            std::minstd_rand random(static_cast<unsigned>(i) + 1);
            for (std::size_t n = 0; n < kCalls; ++n)
                must(world_.volume().read(files_[i].ino, random() % kFileBlocks * kBlock, kBlock,
                                          [](std::span<const iovec>) {}),
                     "read");
        });
        each("overwrite_4k", [this](std::size_t i) {
            std::minstd_rand random(static_cast<unsigned>(i) + 1);
            for (std::size_t n = 0; n < kCalls; ++n)
                world_.write(files_[i].ino, random() % kFileBlocks, page_);
        });
    }

private:
    // Rounds with 1, 2, 4, ... threads; the peer is one thread.
    void each(const std::string &name, const std::function<void(std::size_t)> &work) {
        double one = 0;
        for (std::size_t threads = 1; threads <= kThreadsMax; threads *= 2) {
            const double rate = static_cast<double>(threads) / seconds_of(threads, work);
            if (threads == 1) one = rate;
            const double calls =
                static_cast<double>(name == "append_4k" ? kCalls / 2 : kCalls) / 1000;
            print_row(fmt::format("engine.threads_{}_{:02}", name, threads), rate * calls, "k/s",
                      one * calls);
            tidy(name, threads);
        }
    }
    void tidy(const std::string &name, std::size_t threads) {
        for (std::size_t i = 0; i < threads; ++i) {
            if (name == "create")
                for (std::size_t n = 0; n < kCalls; ++n) world_.unlink(dirs_[i], name_of(n));
            if (name == "append_4k") world_.unlink(dirs_[i], "log");
        }
    }

    World world_;
    std::vector<std::byte> page_;
    std::vector<InodeNo> dirs_;
    std::vector<Open> files_;
};

}  // namespace

// The best of many rounds: other work on the machine only ever slows a round down.
void measure_pair() {
    Floor floor(2 * kAppends * kMiB);
    World world(std::uint64_t{1} << 30);
    const InodeNo dir = world.directory("pair");
    double append[2] = {}, copy[2] = {};
    for (std::size_t round = 0; round < kPairRounds; ++round) {
        for (const std::size_t threads : {1, 2}) {
            append[threads - 1] = std::max(append[threads - 1], append_rate(world, dir, threads));
            copy[threads - 1] = std::max(copy[threads - 1], copy_rate(floor, threads));
        }
    }
    print_row("engine.append_1m_two", append[1], "MiB/s", append[0]);
    print_row("engine.copy_1m_two", copy[1], "MiB/s", copy[0]);
    print_row("engine.append_1m_two_share", append[1], "MiB/s", copy[1]);
}

void measure_threads() {
    Scaling().measure();
}

}  // namespace pmfs::bench
