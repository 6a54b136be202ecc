// Changes of the superblock of a mounted volume: its size, and the reserve for root.
//
// New groups are written first, then the copies of the superblock, then block 0, each durably; only
// then is the new space used.  If that is interrupted anywhere, the volume has its old size or the
// new one, and growing again finishes it.
#pragma once
#include "base/mutex.h"
#include "volume/commits.h"
#include "volume/engine.h"

namespace pmfs {

class Tuning {
public:
    // superblock_from: 0, or the block whose copy stands in for a damaged superblock.
    Tuning(Engine &engine, Commits &commits, BlockNo superblock_from)
        : engine_(engine), commits_(commits), superblock_from_(superblock_from) {}

    // Volume::grow() and set_root_reserve().
    Result<> grow(std::uint64_t size, const Caller &caller, Growth *growth) EXCLUDES(run_);
    Result<> set_root_reserve(std::uint32_t reserve, const Caller &caller) EXCLUDES(run_);
    // Something is about to be stored that older minor versions of the format do not know.
    Result<> note_minor_version() EXCLUDES(run_);
    BlockNo superblock_from() const { return superblock_from_; }

private:
    Result<> may_tune(const Caller &caller) const;
    Result<> grow_medium(std::uint64_t blocks) EXCLUDES(engine_.lock) REQUIRES(run_);
    Result<> grow_to(std::uint64_t blocks) EXCLUDES(engine_.lock) REQUIRES(run_);

    Engine &engine_;
    Commits &commits_;
    const BlockNo superblock_from_;
    Mutex run_;  // one change of the superblock at a time; outside a group commit
};

}  // namespace pmfs
