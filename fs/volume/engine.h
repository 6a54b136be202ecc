// What the operations of a volume work on: plain members that any of them may use, and no
// behaviour.  Code that has an Engine reads and changes the volume; the parts that run steps,
// commit, reap and wait are above it (parts.h), and no operation can call them.
#pragma once
#include <atomic>
#include <memory>

#include "base/mutex.h"
#include "core/alloc.h"
#include "core/change.h"
#include "core/epoch.h"
#include "holders/holders.h"
#include "holders/live.h"
#include "journal/journal.h"
#include "pm/region.h"
#include "volume/claims.h"
#include "volume/volume.h"

namespace pmfs {

struct Engine {
    Engine(std::unique_ptr<pm::Region> region, const media::Superblock &superblock,
           const MountOptions &options, Claims::Resume resume);

    // Replays the journal, and opens the journal, the allocator and the core.
    Result<> open(const std::array<std::uint8_t, 16> &boot_id);

    const MountOptions options;
    const std::unique_ptr<pm::Region> region;
    // The size and the root reserve change under a mount: with the lock held exclusively.
    media::Superblock superblock;

    // Shared: lookups.  Exclusive: everything that makes a Change.  File data is copied without it.
    SharedMutex lock{Blocking::never};
    core::Epochs readers;  // of file data, and of writers in place
    Claims claims;
    LiveTable live;

    std::unique_ptr<journal::Journal> journal;
    std::unique_ptr<core::Allocator> allocator;
    std::unique_ptr<core::Core> core;
    std::unique_ptr<Holders> holders;

    std::atomic<bool> data_dirty{false};  // written since the last group commit began
    std::uint64_t evacuation_helps_at GUARDED_BY(lock) = 0;  // Evacuation::may_help()
    AttributeWatcher *attribute_watcher = nullptr;
};

// EROFS if the volume may not be written to.
Result<> writable(const Engine &engine);

}  // namespace pmfs
