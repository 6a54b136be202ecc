// Blocks that somebody may still store to although he lost his grant: a holder that outlived the
// server, or did not give his lease back in time.  Whoever frees such a block frees nothing: it
// stays in use, and belongs to the holder's record (media/format.h "GrantHolder") until he is known
// to be gone.
//
// Empty in all but rare times, and changed rarely: so it is rebuilt at each change, and O(log n) to
// ask.
#pragma once
#include <array>
#include <cstdint>
#include <map>
#include <vector>

#include "base/ids.h"
#include "core/extent.h"

namespace pmfs::core {

struct Run {
    std::uint64_t start = 0;  // device block
    std::uint64_t blocks = 0;
};

class Quarantine {
public:
    bool empty() const { return merged_.empty(); }
    void add(InodeNo record, std::vector<Run> runs);
    // What was added for the record, which holds nothing back any more.
    std::vector<Run> remove(InodeNo record);
    // Clears the bits of 512 blocks from `first` on that nobody may have.
    void strike(std::uint64_t first, std::array<std::uint64_t, 8> &bits);
    // What is left of `run` when all quarantined blocks are taken out, in order.
    std::vector<Run> without(Run run) const;
    // Grows whenever a block that was freed stayed: so long nothing has to be looked for.
    std::uint64_t struck() const { return struck_; }

private:
    void rebuild();
    std::map<std::uint64_t, std::vector<Run>> records_;
    std::map<std::uint64_t, std::uint64_t> merged_;  // start -> end; apart from each other
    std::uint64_t struck_ = 0;
};

}  // namespace pmfs::core
