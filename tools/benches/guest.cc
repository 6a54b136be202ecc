// bench_guest: loads from mapped files, in a guest that has them over virtiofs
// (tools/benches/guests.py).
//
//     bench_guest random ROUNDS COUNT FILE...   COUNT loads of 4 KiB at random places of each file,
//     in turns bench_guest touch FILE                    the first load in each range of 2 MiB
//     bench_guest read FILE                     loads all of it once
//
// random: a line for each round, with the time of one load of each file.  touch: the medians of the
// first and the last tenth of the ranges.  All in microseconds.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "measure.h"

namespace {

using pmfs::monotonic_ns;
using pmfs::bench::median;

constexpr std::size_t kPage = 4096;
constexpr std::size_t kRange = std::size_t{2} << 20;

[[noreturn]] void die(const std::string &what) {
    fmt::print("FAIL bench_guest: {}: {}\n", what, std::strerror(errno));
    std::exit(1);
}

// A whole file, mapped for as long as this program runs.
struct Mapped {
    explicit Mapped(const char *path) {
        const int fd = ::open(path, O_RDONLY);
        struct stat status {};
        if (fd < 0 || ::fstat(fd, &status) != 0) die(path);
        size = static_cast<std::size_t>(status.st_size);
        // (A sealed file is in no page cache, so without DAX nobody maps it shared.)
        void *at = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (at == MAP_FAILED) die(path);
        bytes = static_cast<const volatile char *>(at);
        ::close(fd);
    }
    void load_all() const {
        for (std::size_t at = 0; at < size; at += kPage) static_cast<void>(bytes[at]);
    }
    void load_page(std::size_t number) const {
        char page[kPage];
        const std::size_t at = (number * 0x9e3779b97f4a7c15u >> 20) % (size / kPage) * kPage;
        std::memcpy(page, const_cast<const char *>(bytes) + at, sizeof page);
        asm volatile("" : : "r"(page) : "memory");  // the copy is wanted
    }

    std::size_t size = 0;
    const volatile char *bytes = nullptr;
};

double microseconds_since(std::uint64_t begin) {
    return static_cast<double>(monotonic_ns() - begin) / 1000;
}

void random_loads(std::size_t rounds, std::size_t count, std::span<char *> paths) {
    std::vector<Mapped> files;
    for (const char *path : paths) files.emplace_back(path).load_all();
    for (std::size_t round = 0; round < rounds; ++round) {
        std::string line;
        for (const Mapped &file : files) {
            const std::uint64_t begin = monotonic_ns();
            for (std::size_t i = 0; i < count; ++i) file.load_page(round * count + i);
            line += fmt::format("{:.4f} ", microseconds_since(begin) / static_cast<double>(count));
        }
        fmt::print("{}\n", line);
    }
}

void first_touch(const char *path) {
    const Mapped file(path);
    std::vector<double> times;
    for (std::size_t at = 0; at < file.size; at += kRange) {
        const std::uint64_t begin = monotonic_ns();
        static_cast<void>(file.bytes[at]);
        times.push_back(microseconds_since(begin));
    }
    const auto tenth = static_cast<std::ptrdiff_t>(times.size() / 10);
    if (tenth == 0) die("the file is too small");
    fmt::print("{:.1f} {:.1f}\n", median({times.begin(), times.begin() + tenth}),
               median({times.end() - tenth, times.end()}));
}

}  // namespace

int main(int argc, char **argv) {
    const std::string_view what = argc > 1 ? argv[1] : "";
    if (what == "random" && argc >= 5) {
        random_loads(std::strtoul(argv[2], nullptr, 10), std::strtoul(argv[3], nullptr, 10),
                     std::span(argv + 4, static_cast<std::size_t>(argc - 4)));
    } else if (what == "touch" && argc == 3) {
        first_touch(argv[2]);
    } else if (what == "read" && argc == 3) {
        Mapped(argv[2]).load_all();
    } else {
        fmt::print(stderr,
                   "usage: bench_guest random ROUNDS COUNT FILE... | touch FILE | read FILE\n");
        return 2;
    }
    return 0;
}
