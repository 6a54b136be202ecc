// What a mounted volume consists of, and which part may call which.
//
// Only the files that implement Volume include it.  They have no header of their own; each contains
// a few operations as a whole (write.cc, names.cc, seals.cc).  A file with a header is a part that
// they share, and includes only what it may call (the lint suite checks that).  An arrow means "may
// call".  Everything may use the engine, and attributes.h, data.h, trim.h and evacuation.h, which
// know an Engine and nothing else.
//
//     Volume -> Scheduler, Reaper, Tuning, Commits, Workers, Holders
//     Holders -> ForHolders -> Reaper, Commits
//     Reaper -> Scheduler, Commits
//     Tuning -> Commits -> Workers
//     Scheduler -> an Operation -> Holders::permit()
#pragma once
#include "volume/commits.h"
#include "volume/engine.h"
#include "volume/for_holders.h"
#include "volume/reaper.h"
#include "volume/scheduler.h"
#include "volume/tuning.h"
#include "volume/volume.h"
#include "volume/workers.h"

namespace pmfs {

struct Volume::Parts {
    // superblock_from: 0, or the block whose copy stands in for a damaged superblock.
    Parts(std::unique_ptr<pm::Region> region, const media::Superblock &superblock,
          BlockNo superblock_from, const MountOptions &options);
    ~Parts();

    Result<> start();
    // Ends the threads; drops waiting operations.
    void quiesce();

    Engine engine;
    Scheduler scheduler;
    Workers workers;
    Commits commits;
    Reaper reaper;
    ForHolders for_holders;
    Tuning tuning;
    // Held by a rename between two directories, outside of the engine's lock: nothing else changes
    // a directory's parent.
    Mutex moving;

private:
    Result<> start_holders(const std::array<std::uint8_t, 16> &boot_id);
};

}  // namespace pmfs
