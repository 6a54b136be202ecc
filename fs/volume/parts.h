// What a mounted volume consists of, and who stands on whom.
//
// It is for the files that implement Volume, and these are the ones without a header of their own:
// each takes a few of its operations from their call to their end (write.cc, names.cc, seals.cc). A
// file with a header is a part that they share, and includes no more than it may call.  The lint
// suite holds that.  An arrow: may call.  Everything may use the engine, and attributes.h, data.h,
// trim.h and evacuation.h, which know an Engine and nothing else.
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
    // Ends the threads; what waits is dropped.
    void quiesce();

    Engine engine;
    Scheduler scheduler;
    Workers workers;
    Commits commits;
    Reaper reaper;
    ForHolders for_holders;
    Tuning tuning;
    // Held by whoever renames between two directories, outside of the engine's lock: else none gets
    // another parent.
    Mutex moving;

private:
    Result<> start_holders(const std::array<std::uint8_t, 16> &boot_id);
};

}  // namespace pmfs
