// Walks a B+tree and passes on the entries of its leaves, as far as nodes are sound.
#pragma once
#include <cstdint>
#include <functional>

#include "fsck/context.h"
#include "fsck/space.h"

namespace pmfs::fsck {

struct TreeWalk {
    std::uint64_t nodes = 0;  // claimed
    bool complete = true;     // false: a part could not be read; it was reported
};
// Keys come in strictly rising order; the value is inside its node.
using EntrySink = std::function<void(std::uint64_t key, ConstBytes value)>;

// Claims every node as metadata of `owner`.  A node with any fault is reported and skipped, with
// everything below it.  Terminates on any bytes, because no block is claimed twice.
TreeWalk walk_tree(Context &context, Space &space, std::uint64_t root, std::uint64_t owner,
                   media::TreeKind kind, const EntrySink &sink);

}  // namespace pmfs::fsck
