// bench_fuse_turns ROUNDS NAME=DIRECTORY...: the same calls in directories of several filesystems,
// in turns; by one thread, and by two at once.  Who begins changes from round to round.
//
// One JSON line for each call and round: the median time of a call on each side, in microseconds.
// fuse_peers.py makes rows of them.
#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <string_view>
#include <thread>
#include <vector>

#include "fuse_side.h"
#include "measure.h"

namespace {

using namespace pmfs::bench;

constexpr int kThreads = 2;

struct Measure {
    const char *name;
    int count;
    void (Side::*call)(int) const;
};
// What is made is removed by a later one.
constexpr Measure kMeasures[] = {{"getattr", 1000, &Side::getattr},
                                 {"open_close", 500, &Side::open_close},
                                 {"read_4k_cached", 1000, &Side::read_4k_cached},
                                 {"read_4k", 1000, &Side::read_4k},
                                 {"read_4k_sealed", 1000, &Side::read_4k_sealed},
                                 {"overwrite_4k", 500, &Side::overwrite_4k},
                                 {"append", 500, &Side::append},
                                 {"append_fsync", 200, &Side::append_fsync},
                                 {"create", 200, &Side::create},
                                 {"rename", 200, &Side::rename},
                                 {"unlink", 200, &Side::unlink_renamed},
                                 {"readdir", 50, &Side::readdir},
                                 {"stat_tree", 5, &Side::stat_tree},
                                 {"read_1m", 50, &Side::read_1m},
                                 {"write_1m", 50, &Side::write_1m}};

struct Place {
    std::string_view name;
    std::vector<std::unique_ptr<Side>> sides;  // one for each thread
};

// The median over the calls of all threads.
double time_together(const Place &place, const Measure &measure, int threads) {
    std::atomic<int> ready{0};
    std::vector<double> medians(static_cast<std::size_t>(threads));
    std::vector<std::thread> running;
    for (std::size_t t = 0; t < medians.size(); ++t)
        running.emplace_back([&, t] {
            const Side &side = *place.sides[t];
            ++ready;
            while (ready < threads) std::this_thread::yield();
            medians[t] = time_calls(static_cast<std::size_t>(measure.count), 1, [&](std::size_t i) {
                (side.*measure.call)(static_cast<int>(i));
            });
        });
    for (std::thread &thread : running) thread.join();
    double sum = 0;
    for (const double one : medians) sum += one;
    return sum / threads;
}

// There and back between two threads of one CPU, by pipes: no server of another process is faster.
double time_switches() {
    int there[2], back[2];
    if (::pipe(there) != 0 || ::pipe(back) != 0) die("pipe");
    const auto stay = [cpu = ::sched_getcpu()] {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(static_cast<unsigned>(cpu), &set);
        ::pthread_setaffinity_np(::pthread_self(), sizeof set, &set);
    };
    double time = 0;
    std::thread other([&] {
        stay();
        for (char byte = 0; ::read(there[0], &byte, 1) == 1;)
            if (::write(back[1], &byte, 1) != 1) die("write");
    });
    std::thread one([&] {
        stay();
        char byte = 0;
        time = time_calls(2000, 1, [&](std::size_t) {
            if (::write(there[1], &byte, 1) != 1 || ::read(back[0], &byte, 1) != 1) die("pipe");
        });
        ::close(there[1]);
    });
    one.join();
    other.join();
    for (const int fd : {there[0], back[0], back[1]}) ::close(fd);
    return time;
}

void one_round(const std::vector<Place> &places, int round) {
    fmt::print("{{\"name\": \"switches\", \"threads\": 1, \"us\": {{\"all\": {:.3f}}}}}\n",
               time_switches());
    for (int threads = 1; threads <= kThreads; ++threads)
        for (const Measure &measure : kMeasures) {
            std::string times;
            for (std::size_t i = 0; i < places.size(); ++i) {
                const Place &place = places[(i + static_cast<std::size_t>(round)) % places.size()];
                times += fmt::format("{}\"{}\": {:.3f}", i == 0 ? "" : ", ", place.name,
                                     time_together(place, measure, threads));
            }
            fmt::print("{{\"name\": \"{}\", \"threads\": {}, \"us\": {{{}}}}}\n", measure.name,
                       threads, times);
            std::fflush(stdout);
        }
}

}  // namespace

int main(int argc, char **argv) {
    const int rounds = argc > 2 ? std::atoi(argv[1]) : 0;
    std::vector<Place> places;
    for (int i = 2; i < argc; i++) {
        const std::string_view word = argv[i];
        const auto equals = word.find('=');
        if (equals == std::string_view::npos) continue;
        Place place{word.substr(0, equals), {}};
        for (int t = 0; t < kThreads; t++) {
            const std::string directory = fmt::format("{}/thread{}", word.substr(equals + 1), t);
            if (::mkdir(directory.c_str(), 0755) != 0) die(directory.c_str());
            place.sides.push_back(std::make_unique<Side>(directory));
            place.sides.back()->make_tree();
        }
        places.push_back(std::move(place));
    }
    if (rounds <= 0 || places.empty()) {
        fmt::print(stderr, "usage: bench_fuse_turns ROUNDS NAME=DIRECTORY...\n");
        return 2;
    }
    for (int round = 0; round < rounds; round++) one_round(places, round);
    return 0;
}
