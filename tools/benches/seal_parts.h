// What the parts of bench_seal share.
#pragma once
#include <cstdlib>
#include <cstring>
#include <string>

#include "measure.h"

namespace pmfs::bench {

[[noreturn]] inline void die(const char *what, int error) {
    fmt::print(stderr, "bench_seal: {}: {}\n", what, std::strerror(error));
    std::exit(1);
}
// Of a call of libpmfs, which gives a negative errno.
inline int must(int result, const char *what) {
    if (result < 0) die(what, -result);
    return result;
}
inline double microseconds_since(std::uint64_t begin_ns) {
    return static_cast<double>(monotonic_ns() - begin_ns) / 1000;
}

// seal_busy.cc: pmfs_map while ten users PREPARE large files; DIRECTORY has room for 1 GiB.
void measure_busy(const std::string &directory);

}  // namespace pmfs::bench
