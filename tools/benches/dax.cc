// bench_dax NAME=DIRECTORY...: filesystems on persistent memory, in turns, in one guest
// (tools/benches/dax.py).
//
// The first is pmfs on device-DAX; the others are mounted with -o dax=always on namespaces of the
// same size. Prints "INFO {JSON}" lines with the ratio of pmfs to each peer, the median over the
// rounds: under emulation the times themselves mean nothing.
#include <fcntl.h>
#include <pmfs.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "measure.h"

namespace {

using pmfs::monotonic_ns;
using pmfs::bench::median;

constexpr std::size_t kRounds = 11;
constexpr std::size_t kPage = 4096;
constexpr std::size_t kMapped = std::size_t{16} << 20;
constexpr std::size_t kCalls = 40;   // of what is durable each time
constexpr std::size_t kNames = 100;  // in a directory
constexpr std::size_t kReads = 2000;

[[noreturn]] void die(const std::string &what, int error) {
    fmt::print("FAIL bench_dax: {}: {}\n", what, std::strerror(error));
    std::exit(1);
}

void check(const std::string &what, long result) {
    if (result < 0) die(what, errno);
}

// Offsets in a mapping, the same for everybody.
std::size_t somewhere(std::size_t number, std::size_t unit) {
    return (number * 0x9e3779b97f4a7c15u >> 20) % (kMapped / unit) * unit;
}

// A mapping of a whole file: straight to the medium, on either side.
struct Mapping {
    struct pmfs_map *map = nullptr;  // of libpmfs; a peer's is an ordinary one
    char *address = nullptr;

    static Mapping of(int fd, bool by_libpmfs) {
        Mapping made;
        if (by_libpmfs) {
            const int error = ::pmfs_map(fd, 0, kMapped, PROT_READ | PROT_WRITE, 0, &made.map);
            if (error != 0) die("pmfs_map", -error);
            made.address = static_cast<char *>(::pmfs_map_address(made.map));
        } else {
            void *at = ::mmap(nullptr, kMapped, PROT_READ | PROT_WRITE,
                              MAP_SHARED_VALIDATE | MAP_SYNC, fd, 0);
            if (at == MAP_FAILED) die("mmap with MAP_SYNC", errno);
            made.address = static_cast<char *>(at);
        }
        return made;
    }
    void persist(std::size_t offset, std::size_t size) const {
        if (map != nullptr) {
            if (const int error = ::pmfs_persist(map, offset, size)) die("pmfs_persist", -error);
        } else {
            check("msync", ::msync(address + offset, size, MS_SYNC));
        }
    }
    void drop() const {
        if (map != nullptr)
            ::pmfs_unmap(map);
        else
            ::munmap(address, kMapped);
    }
};

class Filesystem {
public:
    Filesystem(std::string name, std::string directory, bool ours)
        : name_(std::move(name)), directory_(std::move(directory)), ours_(ours) {
        mapped_ = open_file("mapped", O_RDWR | O_CREAT);
        for (std::size_t at = 0; at < kMapped; at += sizeof page_) write_at(mapped_, at);
        if (ours_ && ::pmfs_prepare(mapped_, 0, 0, 0) != 0) die("pmfs_prepare", errno);
        check("fsync", ::fsync(mapped_));
        written_ = open_file("written", O_RDWR | O_CREAT);
        for (std::size_t i = 0; i < kCalls; ++i) write_at(written_, i * kPage);
        check("fsync", ::fsync(written_));
    }

    const std::string &name() const { return name_; }

    // What one round takes, in nanoseconds, by row.
    std::map<std::string, double> round() {
        std::map<std::string, double> times;
        times["append_fsync"] = time_append();
        times["overwrite_fsync"] = time_of([&] {
            for (std::size_t i = 0; i < kCalls; ++i) {
                write_at(written_, i * kPage);
                check("fsync", ::fsync(written_));
            }
        });
        time_names(times);
        times["read_4k"] = time_of([&] {
            for (std::size_t i = 0; i < kReads; ++i)
                check("pread",
                      ::pread(mapped_, page_, kPage, static_cast<off_t>(somewhere(i, kPage))));
        });
        time_mapping(times);
        return times;
    }

private:
    template <class Work>
    static double time_of(Work &&work) {
        const std::uint64_t begin = monotonic_ns();
        work();
        return static_cast<double>(monotonic_ns() - begin);
    }

    // As a program that maps does it: on pmfs bypassing the page cache.  (DAX has none.)
    int open_file(const std::string &leaf, int flags) const {
        const std::string path = directory_ + "/" + leaf;
        if (!ours_) {
            const int fd = ::open(path.c_str(), flags | O_CLOEXEC, 0600);
            check(path, fd);
            return fd;
        }
        const int fd = ::pmfs_open(path.c_str(), flags | O_CLOEXEC, 0600);
        if (fd < 0) die(path, -fd);
        return fd;
    }

    void write_at(int fd, std::size_t offset) {
        page_[0] = static_cast<char>(offset / kPage);
        if (::pwrite(fd, page_, kPage, static_cast<off_t>(offset)) != static_cast<ssize_t>(kPage))
            die("write", errno);
    }

    double time_append() {
        const int fd = open_file("appended", O_RDWR | O_CREAT | O_TRUNC);
        const double time = time_of([&] {
            for (std::size_t i = 0; i < kCalls; ++i) {
                write_at(fd, i * kPage);
                check("fsync", ::fsync(fd));
            }
        });
        ::close(fd);
        return time;
    }

    void time_names(std::map<std::string, double> &times) const {
        std::vector<std::string> paths;
        for (std::size_t i = 0; i < kNames; ++i)
            paths.push_back(fmt::format("{}/name{}", directory_, i));
        times["create"] = time_of([&] {
            for (const std::string &path : paths) {
                const int fd = ::open(path.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
                check(path, fd);
                ::close(fd);
            }
        });
        times["unlink"] = time_of([&] {
            for (const std::string &path : paths) check(path, ::unlink(path.c_str()));
        });
    }

    void time_mapping(std::map<std::string, double> &times) {
        unsigned sum = 0;
        const std::size_t offset = 3 * kPage;
        Mapping mapping = Mapping::of(mapped_, ours_);
        times["first_touch"] = time_of([&] {
            for (std::size_t at = 0; at < kMapped; at += kPage)
                sum += static_cast<unsigned char>(mapping.address[at]);
        });
        times["random_read"] = time_of([&] {
            for (std::size_t i = 0; i < 50 * kReads; ++i)
                sum += static_cast<unsigned char>(mapping.address[somewhere(i, 64)]);
        });
        times["store_persist"] = time_of([&] {
            for (std::size_t i = 0; i < kCalls; ++i) {
                std::memcpy(mapping.address + offset, page_, kPage);
                mapping.persist(offset, kPage);
            }
        });
        asm volatile("" : : "r"(sum));
        mapping.drop();
    }

    const std::string name_, directory_;
    const bool ours_;
    int mapped_ = -1, written_ = -1;
    alignas(kPage) char page_[kPage] = "a page of it";
};

}  // namespace

int main(int argc, char **argv) {
    std::vector<std::unique_ptr<Filesystem>> all;
    for (int i = 1; i < argc; ++i) {
        const std::string word = argv[i];
        const std::size_t equals = word.find('=');
        if (equals == std::string::npos) die("usage: bench_dax NAME=DIRECTORY...", EINVAL);
        all.push_back(
            std::make_unique<Filesystem>(word.substr(0, equals), word.substr(equals + 1), i == 1));
    }
    // row and peer -> ratio in each round
    std::map<std::string, std::vector<double>> ratios;
    for (std::size_t round = 0; round < kRounds + 1; ++round) {
        std::vector<std::map<std::string, double>> times;
        for (const auto &filesystem : all) times.push_back(filesystem->round());
        if (round == 0) continue;  // cold
        for (std::size_t peer = 1; peer < all.size(); ++peer)
            for (const auto &[row, time] : times[0])
                ratios[row + "." + all[peer]->name()].push_back(time / times[peer][row]);
    }
    for (const auto &[row, values] : ratios)
        fmt::print("INFO {{\"name\": \"dax.{}\", \"ratio\": {:.4f}}}\n", row, median(values));
    return 0;
}
