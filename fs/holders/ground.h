// What the code of holders depends on: the parts of the volume below it, which must outlive it, and
// the few calls that it makes to the volume itself.
//
// Who calls what: the volume calls Holders; Holders calls Records and Quarantines; these never call
// each other, and all of them call System. They call the volume only through VolumeSide.
#pragma once
#include <functional>
#include <optional>

#include "base/fair_pool.h"
#include "base/mutex.h"
#include "core/alloc.h"
#include "core/change.h"
#include "holders/live.h"
#include "holders/types.h"

namespace pmfs {

class VolumeSide {
public:
    virtual ~VolumeSide() = default;
    virtual Result<> writable() const = 0;

    // --- with the volume's lock held exclusively.  kParkErrno: run it again after a checkpoint.
    // kClaimErrno: an operation is changing the file's map.
    virtual Result<> unclaimed_held(InodeNo ino) = 0;
    // Finishes an interrupted truncation or move.
    virtual Result<> settle_trim_held(InodeNo ino) = 0;
    // Frees the nodes of a map's tree that is empty of extents.
    virtual Result<> clear_map_held(InodeNo ino) = 0;
    // A process may have stored to the file directly: updates its mtime and ctime.  Only kParkErrno
    // counts as a failure: other errors do not keep a grant from ending.
    virtual Result<> stored_held(InodeNo ino, std::uint32_t uid) = 0;
    // A process is about to store directly: updates the times, and clears set-id bits and
    // capabilities as a write does.
    virtual Result<> will_store_held(InodeNo ino, std::uint32_t uid) = 0;
    // Zeroes the bytes behind the end of the file in its last mapping unit.
    virtual Result<> clear_behind_end_held(InodeNo ino) = 0;

    // --- without any lock
    // Waits until all threads that write in place now have left: they may have seen a file longer
    // than it is.
    virtual void wait_for_writers() = 0;
    // The last reference to a file without a name is gone.
    virtual void reap_or_park(InodeNo ino) = 0;
    // Blocks behind the end of the file are not needed any more.
    virtual void trim_or_park(InodeNo ino) = 0;
    virtual Result<> make_durable() = 0;
    virtual Result<> checkpoint() = 0;
    // Runs `again` on another thread after a checkpoint.
    virtual void parked_later(std::function<void()> again) = 0;
};

struct Ground {
    SharedMutex &lock;  // the volume's: exclusive for every Change
    core::Core &core;
    LiveTable &live;
    VolumeSide &volume;
    FairPool *pool = nullptr;  // for work that may take long; null: the caller of tend() does it
    ProcessView processes;
    std::array<std::uint8_t, 16> boot_id{};
    bool read_only = false;
    unsigned lease_break_ms = 0;
    std::optional<std::uint64_t> pin_quota;  // bytes a user may pin; none: its RLIMIT_MEMLOCK
};

}  // namespace pmfs
