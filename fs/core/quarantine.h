// Blocks to which a process may still store although its grant was lost: a holder that outlived the
// server, or did not give its lease back in time. Freeing such a block does not make it free: it
// stays in use, and belongs to the holder's record (media/format.h "GrantHolder") until the holder
// is known to be gone.
//
// A map of segments that equally many records hold: a lookup is O(log n), and a change costs as
// much as the record in question has runs, however many others there are.
#pragma once
#include <array>
#include <cstdint>
#include <map>
#include <vector>

#include "base/ids.h"
#include "core/extent.h"

namespace pmfs::core {

struct Run {
    BlockNo start;
    std::uint64_t blocks = 0;

    BlockNo end() const { return start + blocks; }
};

class Quarantine {
public:
    bool empty() const { return held_.empty(); }
    void add(InodeNo record, std::vector<Run> runs);
    // Removes what was added for the record.
    std::vector<Run> remove(InodeNo record);
    // Clears the bits of quarantined blocks among the 512 from `first` on.
    void strike(BlockNo first, std::array<std::uint64_t, 8> &bits);
    // The parts of `run` without quarantined blocks, in order.
    std::vector<Run> without(Run run) const;
    // Grows whenever a freed block was held back: as long as it does not grow there is nothing to
    // search for.
    std::uint64_t struck() const { return struck_; }

private:
    struct Segment {
        BlockNo end;
        std::uint32_t records = 0;  // never 0
    };
    using Held = std::map<BlockNo, Segment>;
    void split(BlockNo at);
    void join(BlockNo at);
    void count(const Run &run, bool more);

    std::map<std::uint64_t, std::vector<Run>> records_;
    Held held_;  // by first block; a block without a segment is not held
    std::uint64_t struck_ = 0;
};

}  // namespace pmfs::core
