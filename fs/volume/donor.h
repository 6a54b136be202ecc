// Donor ranges: fresh chunks that join a file far behind its end and then take the place of its
// blocks, piece by piece (docs/format.md "Block maps").  For operations that move a file's data
// and have claimed it: no transaction changes a byte of the file, and a crash in the middle leaves
// one that reads the same; recovery frees what is left of the range.
#pragma once
#include <span>
#include <vector>

#include "core/extent_map.h"
#include "volume/engine.h"

namespace pmfs {

struct DonorSource {  // of a piece to fill; from 0: zeroes
    BlockNo from, to;
    std::uint64_t blocks;
};

// The sources of `blocks` blocks of the file from `at` on, to be copied to `to`.
Result<std::vector<DonorSource>> donor_sources(const core::Reader &reader, InodeNo ino,
                                               FileBlock at, BlockNo to, std::uint64_t blocks);
// Copies them, durably.  Without the volume's lock: the file is claimed, and the blocks that are
// filled are unwritten, so that they are not read.  EIO: a bad page.
Result<> fill_donor(Engine &engine, std::span<const DonorSource> sources);

// Within a transaction: the blocks join the file at `at` in the donor range.  They are unwritten,
// so that their old content can never be seen.
Result<> add_donor(core::Change &change, media::Inode *inode, InodeNo ino, FileBlock at,
                   core::Run run, const core::MapPermit &permit);
// A transaction: the donor's blocks at `donor` take the place of the file's at `at`, up to `most`
// of them.  Gives how many.
Result<std::uint64_t> exchange_donor(Engine &engine, InodeNo ino, FileBlock at, FileBlock donor,
                                     std::uint64_t most) REQUIRES(engine.lock);

}  // namespace pmfs
