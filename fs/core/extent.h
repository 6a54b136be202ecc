// A piece of a file's block map, in memory.
#pragma once
#include <cstdint>

#include "base/ids.h"

namespace pmfs {

struct Extent {
    FileBlock file_block;
    BlockNo start;  // 0 = a hole
    std::uint64_t blocks = 0;
    bool unwritten = false;
    bool shared = false;

    FileBlock end() const { return file_block + blocks; }
    bool hole() const { return start == BlockNo(0); }
    // Where a block of the file is that lies in the extent.
    BlockNo place_of(FileBlock block) const { return start + (block - file_block); }
};

}  // namespace pmfs
