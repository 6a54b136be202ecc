// A piece of a file's block map, in memory.
#pragma once
#include <cstdint>

namespace pmfs {

struct Extent {
    std::uint64_t file_block = 0;
    std::uint64_t start = 0;  // device block; 0 = a hole
    std::uint64_t blocks = 0;
    bool unwritten = false;
    bool shared = false;

    std::uint64_t end() const { return file_block + blocks; }
    bool hole() const { return start == 0; }
};

}  // namespace pmfs
