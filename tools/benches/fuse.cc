// bench_fuse compare PMFS PEER ROUNDS: the same calls in a directory of a mounted pmfs and of a
// peer, in turns; one JSON line for each call and round.  Who begins changes from round to round.
// bench_fuse grow PMFS: how the making of a file takes longer as its directory grows.
//
// A line has the median time of the round on both sides, in microseconds; fuse.py makes rows of
// them.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"

namespace {

constexpr int kCalls = 4000;  // of a round: of calls that leave nothing behind
constexpr int kLarge = 200;   // of a round: calls of 1 MiB
constexpr int kNames = 500;   // of a round: files made, then removed
constexpr int kMillion = 1'000'000;
constexpr int kMillionPart = 10'000;

[[noreturn]] void die(const char *what) {
    std::perror(what);
    std::exit(1);
}

double median(std::vector<double> values) {
    const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
    std::nth_element(values.begin(), middle, values.end());
    return *middle;
}

// The median time of `call(i)`, i below `count`, in microseconds.
double time_calls(int count, const std::function<void(int)> &call) {
    std::vector<double> times;
    times.reserve(static_cast<std::size_t>(count));
    for (int i = 0; i < count; i++) {
        const std::uint64_t begin = pmfs::monotonic_ns();
        call(i);
        times.push_back(static_cast<double>(pmfs::monotonic_ns() - begin) / 1000);
    }
    return median(std::move(times));
}

void print_round(const char *name, double value, double peer) {
    fmt::print("{{\"name\": \"fuse.{}\", \"value\": {:.3f}, \"peer\": {:.3f}}}\n", name, value,
               peer);
    std::fflush(stdout);
}

// What is measured on one side: a directory with one file open in it.
class Side {
public:
    explicit Side(const char *directory) : directory_(directory) {
        const std::string path = directory_ + "/bench-data";
        file_ = ::open(path.c_str(), O_CREAT | O_RDWR | O_DIRECT, 0644);
        if (file_ < 0) die(path.c_str());
        page_ =
            ::mmap(nullptr, kFileSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        std::memset(page_, 0x5a, kFileSize);
        if (::pwrite(file_, page_, kFileSize, 0) != kFileSize) die("pwrite");
    }
    ~Side() {
        ::close(file_);
        ::unlink((directory_ + "/bench-data").c_str());
        ::munmap(page_, kFileSize);
    }
    Side(const Side &) = delete;
    Side &operator=(const Side &) = delete;

    void getattr(int) const {
        struct statx found;
        if (::statx(file_, "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC, STATX_BASIC_STATS, &found) != 0)
            die("statx");
    }
    void read_4k(int i) const {
        if (::pread(file_, page_, kPage, offset(i)) != kPage) die("pread");
    }
    void write_4k(int i) const {
        if (::pwrite(file_, page_, kPage, offset(i)) != kPage) die("pwrite");
    }
    void read_1m(int) const {
        if (::pread(file_, page_, kFileSize, 0) != kFileSize) die("pread");
    }
    void write_1m(int) const {
        if (::pwrite(file_, page_, kFileSize, 0) != kFileSize) die("pwrite");
    }
    void create(int i) const {
        const int fd = ::open(name(i).c_str(), O_CREAT | O_EXCL | O_WRONLY, 0644);
        if (fd < 0) die("create");
        ::close(fd);
    }
    void unlink(int i) const {
        if (::unlink(name(i).c_str()) != 0) die("unlink");
    }

private:
    static constexpr long kPage = 4096, kFileSize = 1 << 20;
    static off_t offset(int i) { return (static_cast<off_t>(i) * 37 * kPage) % kFileSize; }
    std::string name(int i) const { return fmt::format("{}/entry-{:07}", directory_, i); }

    std::string directory_;
    int file_ = -1;
    void *page_ = nullptr;
};

struct Measure {
    const char *name;
    int count;
    void (Side::*call)(int) const;
};

void compare(const Side &pmfs, const Side &peer, int rounds, const std::vector<Measure> &measures) {
    for (int round = 0; round < rounds; round++) {
        for (const Measure &measure : measures) {
            const auto time = [&](const Side &side) {
                return time_calls(measure.count, [&](int call) { (side.*measure.call)(call); });
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
    const Side large((directory + "/large").c_str()), small((directory + "/small").c_str());
    for (int i = 0; i < kMillion - kMillionPart; i++) large.create(i);
    for (int done = 0; done < kMillionPart; done += kNames) {
        const double last =
            time_calls(kNames, [&](int i) { large.create(kMillion - kMillionPart + done + i); });
        const double first = time_calls(kNames, [&](int i) { small.create(done + i); });
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
