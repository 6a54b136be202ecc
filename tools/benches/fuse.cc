// bench_fuse PMFS PEER: the same calls in a directory of a mounted pmfs and of a peer, in turns.
//
// One JSON line a row: the median of the rounds' medians on both sides in microseconds, and the
// median of the rounds' ratios.  Rounds in turns, so that what else the machine does hits both.
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
#include <vector>

#include "base/clock.h"

namespace {

constexpr int kRounds = 21;
constexpr int kCalls = 4000;  // of a round: of calls that leave nothing behind
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

void print_row(const char *name, double value, double peer, double ratio) {
    fmt::print(
        "{{\"name\": \"fuse.{}\", \"value\": {:.3f}, \"unit\": \"us\", \"peer\": {:.3f}, "
        "\"ratio\": {:.3f}}}\n",
        name, value, peer, ratio);
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

void compare(const Side &pmfs, const Side &peer, const std::vector<Measure> &measures) {
    std::vector<std::vector<double>> values(measures.size()), peers(measures.size()),
        ratios(measures.size());
    for (int round = 0; round < kRounds; round++) {
        for (std::size_t i = 0; i < measures.size(); i++) {
            const auto time = [&](const Side &side) {
                return time_calls(measures[i].count,
                                  [&](int call) { (side.*measures[i].call)(call); });
            };
            // Who begins changes from round to round.
            double first = time(round % 2 ? peer : pmfs);
            double second = time(round % 2 ? pmfs : peer);
            if (round % 2) std::swap(first, second);
            values[i].push_back(first);
            peers[i].push_back(second);
            ratios[i].push_back(first / second);
        }
    }
    for (std::size_t i = 0; i < measures.size(); i++)
        print_row(measures[i].name, median(values[i]), median(peers[i]), median(ratios[i]));
}

// A directory that grows to a million entries: the last ones against the first ones.
void grow(const Side &pmfs) {
    const auto part = [&](int from) {
        return time_calls(kMillionPart, [&](int i) { pmfs.create(from + i); });
    };
    const double first = part(0);
    for (int i = kMillionPart; i < kMillion - kMillionPart; i++) pmfs.create(i);
    const double last = part(kMillion - kMillionPart);
    print_row("create_millionth", last, first, last / first);
    for (int i = 0; i < kMillion; i++) pmfs.unlink(i);
}

}  // namespace

int main(int argc, char **argv) {
    if (argc != 3) {
        fmt::print(stderr, "usage: bench_fuse PMFS-DIRECTORY PEER-DIRECTORY\n");
        return 2;
    }
    const Side pmfs(argv[1]), peer(argv[2]);
    compare(pmfs, peer,
            {{"getattr", kCalls, &Side::getattr},
             {"read_4k", kCalls, &Side::read_4k},
             {"write_4k", kCalls, &Side::write_4k},
             {"create", kNames, &Side::create},
             {"unlink", kNames, &Side::unlink}});
    grow(pmfs);
    return 0;
}
