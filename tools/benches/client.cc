// bench_client DIRECTORY: the cost of making a direct mapping, and of reading through it.
//
// DIRECTORY is on a mounted pmfs, on a sparse region in memory, with room for 1 GiB.  The peer of
// reading is the same memcpy from a memfd of the same size.  One JSON line a row.
#include <fcntl.h>
#include <pmfs.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include "measure.h"

namespace {

using pmfs::monotonic_ns;
using pmfs::bench::Figure;

constexpr std::size_t kRounds = 21;
constexpr std::size_t kSize = std::size_t{1} << 30;
constexpr std::size_t kPiece = std::size_t{1} << 20;

[[noreturn]] void die(const char *what, int error) {
    fmt::print(stderr, "bench_client: {}: {}\n", what, std::strerror(error));
    std::exit(1);
}

// Bytes that differ from page to page, so that nothing can be taken for zeroes or for each other.
void fill(char *piece, std::size_t number) {
    for (std::size_t i = 0; i < kPiece; i += sizeof number)
        std::memcpy(piece + i, &(number += 0x9e3779b97f4a7c15u), sizeof number);
}

struct Pair {
    int file;
    const char *memfd;  // mapped
};

// A file on pmfs and a memfd of the same bytes, written in turns: memory that was handed out
// earlier or later is up to a tenth faster or slower, on this kind of machine.
Pair make_pair(const char *directory, char *piece) {
    const std::string path = std::string(directory) + "/bench-client";
    const int fd = pmfs_open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (fd < 0) die(path.c_str(), -fd);
    const int peer = ::memfd_create("peer", MFD_CLOEXEC);
    if (peer < 0 || ::ftruncate(peer, kSize) != 0) die("memfd", errno);
    void *map = ::mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_SHARED, peer, 0);
    if (map == MAP_FAILED) die("memfd", errno);
    for (std::size_t at = 0; at < kSize; at += kPiece) {
        fill(piece, at);
        if (::pwrite(fd, piece, kPiece, static_cast<off_t>(at)) != static_cast<ssize_t>(kPiece))
            die("writing the file", errno);
        std::memcpy(static_cast<char *>(map) + at, piece, kPiece);
    }
    if (const int result = pmfs_prepare(fd, 0, 0, 0)) die("preparing the file", -result);
    return {fd, static_cast<const char *>(map)};
}

// GB/s of copying all of it out, a piece at a time.
double read_all(const char *from, char *piece) {
    const std::uint64_t begin = monotonic_ns();
    for (std::size_t at = 0; at < kSize; at += kPiece) {
        std::memcpy(piece, from + at, kPiece);
        asm volatile("" : : "r"(piece) : "memory");  // somebody looks at it
    }
    return static_cast<double>(kSize) / static_cast<double>(monotonic_ns() - begin);
}

struct pmfs_map *map_file(int fd, unsigned flags) {
    struct pmfs_map *map = nullptr;
    if (const int result = ::pmfs_map(fd, 0, 0, PROT_READ | PROT_WRITE, flags, &map))
        die("pmfs_map", -result);
    return map;
}

void time_mapping(int fd) {
    Figure map_ms, unmap_ms;
    for (std::size_t round = 0; round < kRounds; ++round) {
        const std::uint64_t begin = monotonic_ns();
        struct pmfs_map *map = map_file(fd, 0);
        const std::uint64_t mapped = monotonic_ns();
        pmfs_unmap(map);
        map_ms.add(static_cast<double>(mapped - begin) / 1e6);
        unmap_ms.add(static_cast<double>(monotonic_ns() - mapped) / 1e6);
    }
    map_ms.print("client.map_1gib", "ms");
    unmap_ms.print("client.unmap_1gib", "ms");
}

void time_reading(int fd, const char *peer, char *piece) {
    struct pmfs_map *map = map_file(fd, PMFS_MAP_POPULATE);
    const auto *mapped = static_cast<const char *>(pmfs_map_address(map));
    if (std::memcmp(mapped, peer, kSize) != 0) die("the mapping shows other bytes", EIO);
    Figure speed;
    for (std::size_t round = 0; round < kRounds; ++round) {
        double first = read_all(round % 2 ? peer : mapped, piece);
        double second = read_all(round % 2 ? mapped : peer, piece);
        if (round % 2) std::swap(first, second);
        speed.add(first, second);
    }
    speed.print("client.read_mapped", "GB/s");
    pmfs_unmap(map);
}

}  // namespace

int main(int argc, char **argv) {
    if (argc != 2) {
        fmt::print(stderr, "usage: bench_client DIRECTORY\n");
        return 2;
    }
    const std::unique_ptr<char[]> piece(new char[kPiece]);
    const Pair made = make_pair(argv[1], piece.get());
    time_mapping(made.file);
    time_reading(made.file, made.memfd, piece.get());
    ::close(made.file);
    return 0;
}
