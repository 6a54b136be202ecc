// Types for holders of block maps: who asks, what it has open, what it holds.
#pragma once
#include <cstdint>
#include <functional>

#include "base/ids.h"
#include "base/process.h"
#include "core/seal.h"
#include "media/format.h"

namespace pmfs {

// Who asks.  The kernel has checked permissions (default_permissions); the volume uses this for
// the owner of what it makes, for sticky groups and for the rights to seal.
using HandleId = std::uint64_t;
// 0: the client whose kernel hears of changes; others' kernels cache what they like
// (fs/front/clients).
using ClientId = std::uint32_t;
class Progress;
struct Caller {
    std::uint32_t uid = 0;
    std::uint32_t gid = 0;
    std::uint32_t pid = 0;     // thread id as FUSE gives it; 0 = unknown (write-back)
    HandleId handle = 0;       // that it uses; 0 = none, or not to be told
    ClientId client = 0;       // that the request came from
    bool nonblocking = false;  // rather EAGAIN than wait for a lease to be given back
    // The kernel writes pages back.  It takes any answer but an error for "all of it is stored", so
    // a part is an error.
    bool written_back = false;
    // Where an operation that has to wait is kept, for the call's duration; null: nowhere.
    Progress *progress = nullptr;
    std::uint32_t umask = 0;  // of a caller that makes a file
};

struct OpenRequest {
    bool read = true;             // O_RDONLY, O_RDWR
    bool write = false;           // O_WRONLY, O_RDWR
    bool truncate = false;        // O_TRUNC
    bool append = false;          // O_APPEND
    bool direct = false;          // O_DIRECT
    bool maps_sealed = false;     // files that are sealed are mapped elsewhere, in no page cache
    bool kill_suid_sgid = false;  // with truncate, as in SetAttr
    bool kill_any_sgid = false;
    Caller caller;
};
struct HandleInfo {  // an open handle, for ioctls and `pmfsctl holders`
    HandleId handle = 0;
    InodeNo ino;
    bool read = true, write = false;
    bool direct_io = false;  // as OpenReply said
    Caller opener;

    // Of the kernel that hears of changes.
    bool past_cache() const { return direct_io || opener.client != 0; }
};

using core::GrantKind;
using GrantId = std::uint64_t;

struct GrantRequest {
    GrantKind kind = GrantKind::temporary;
    std::uint64_t offset = 0, length = 0;  // bytes; length 0 = to the end of the file
    bool may_store = false;
    bool maps = false;     // the holder is to have the device
    bool lent = false;     // ... and gets it by lend_device() only
    bool forks = false;    // ... and hands the mapping down to its children
    bool trusted = false;  // the caller may have the device
    // A pin that maps, and lets the file be truncated and punched: its blocks stay where they are,
    // and are zeroed there.
    bool bound = false;
    // It says before it stores for the first time (Holders::begin_stores): until then the file's
    // times stay, and others may read the file by the page cache.
    bool announces = false;
    // In bytes: the range is in whole aligned units of it, the last one behind the end of the file,
    // too.  0: the volume's mapping unit.
    std::uint64_t unit = 0;
};
struct Holder {         // one row of `pmfsctl holders`
    GrantId grant = 0;  // a quarantined one: the quarantine's id
    GrantKind kind = GrantKind::temporary;
    HandleId handle = 0;
    std::uint32_t pid = 0, uid = 0;
    std::uint64_t offset = 0, length = 0;
    bool may_store = false;
    bool breaking = false;  // a lease that was asked to go
    bool maps = false;
    bool lost = false;  // it has no grant any more, and is quarantined
};

using media::GrantReason;
struct Quarantined {  // a holder that lost its grant and may still map its blocks
    std::uint64_t id = 0;
    InodeNo file;
    Process process;
    std::uint32_t uid = 0;
    bool may_store = false;
    bool alive = false;   // else its process is gone, or it cannot be told
    bool mapped = false;  // the kernel says that somebody still maps; else it cannot be told
    GrantReason reason = GrantReason::server_died;
    std::uint64_t total = 0, held = 0;  // bytes that it maps, and those that the file gave up
};

// Who tells holders what becomes of their grants.  Called without any lock of the volume's, and
// maybe after the grant has ended.
class GrantWatcher {
public:
    virtual ~GrantWatcher() = default;
    virtual void lease_breaking(HandleId handle, GrantId grant, std::uint32_t milliseconds) = 0;
    virtual void grant_revoked(HandleId handle, GrantId grant) = 0;
};

// What the volume asks the system about processes; tests put their own in its place.
struct ProcessView {
    std::function<Process(std::uint32_t thread)> of_thread = process_of_thread;
    std::function<Life(const Process &)> life = life_of;
    std::function<std::uint64_t(std::uint32_t pid)> lockable_bytes = pmfs::lockable_bytes;
};

}  // namespace pmfs
