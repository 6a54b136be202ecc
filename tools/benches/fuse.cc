// bench_fuse compare PMFS PEER ROUNDS: the same calls in a directory of a mounted pmfs and of a
// peer, in turns; one JSON line for each call and round.  Who begins changes from round to round.
// bench_fuse grow PMFS: how the making of a file takes longer as its directory grows.
//
// A line has the median time of the round on both sides, in microseconds; fuse.py makes rows of
// them.
#include <fmt/format.h>
#include <sys/stat.h>

#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "fuse_side.h"
#include "measure.h"

namespace {

using pmfs::bench::die;
using pmfs::bench::Side;
using pmfs::bench::time_calls;

constexpr int kCalls = 4000;  // of a round: of calls that leave nothing behind
constexpr int kLarge = 200;   // of a round: calls of 1 MiB
constexpr int kNames = 500;   // of a round: files made, then removed
constexpr int kMillion = 1'000'000;
constexpr int kMillionPart = 10'000;

void print_round(const char *name, double value, double peer) {
    fmt::print("{{\"name\": \"fuse.{}\", \"value\": {:.3f}, \"peer\": {:.3f}}}\n", name, value,
               peer);
    std::fflush(stdout);
}

struct Measure {
    const char *name;
    int count;
    void (Side::*call)(int) const;
};

void compare(const Side &pmfs, const Side &peer, int rounds, const std::vector<Measure> &measures) {
    for (int round = 0; round < rounds; round++) {
        for (const Measure &measure : measures) {
            const auto time = [&](const Side &side) {
                return time_calls(
                    static_cast<std::size_t>(measure.count), 1,
                    [&](std::size_t call) { (side.*measure.call)(static_cast<int>(call)); });
            };
            double first = time(round % 2 ? peer : pmfs);
            double second = time(round % 2 ? pmfs : peer);
            if (round % 2) std::swap(first, second);
            print_round(measure.name, first, second);
        }
    }
}

// A directory that has grown to a million entries against one that begins: the last 10,000 of the
// one and the first of the other, in turns.
void grow(const std::string &directory) {
    for (const char *name : {"/large", "/small"})
        if (::mkdir((directory + name).c_str(), 0755) != 0) die(name);
    const Side large(directory + "/large"), small(directory + "/small");
    for (int i = 0; i < kMillion - kMillionPart; i++) large.create(i);
    for (int done = 0; done < kMillionPart; done += kNames) {
        const double last = time_calls(kNames, 1, [&](std::size_t i) {
            large.create(kMillion - kMillionPart + done + static_cast<int>(i));
        });
        const double first =
            time_calls(kNames, 1, [&](std::size_t i) { small.create(done + static_cast<int>(i)); });
        print_round("create_millionth", last, first);
    }
}

}  // namespace

int main(int argc, char **argv) {
    const std::string_view what = argc > 1 ? argv[1] : "";
    if (what == "compare" && argc == 5) {
        const Side pmfs(argv[2]), peer(argv[3]);
        compare(pmfs, peer, std::atoi(argv[4]),
                {{"getattr", kCalls, &Side::getattr},
                 {"read_4k", kCalls, &Side::read_4k},
                 {"write_4k", kCalls, &Side::write_4k},
                 {"read_1m", kLarge, &Side::read_1m},
                 {"write_1m", kLarge, &Side::write_1m},
                 {"create", kNames, &Side::create},
                 {"unlink", kNames, &Side::unlink}});
    } else if (what == "grow" && argc == 3) {
        grow(argv[2]);
    } else {
        fmt::print(stderr, "usage: bench_fuse compare PMFS PEER ROUNDS | grow PMFS\n");
        return 2;
    }
    return 0;
}
