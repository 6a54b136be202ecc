// Types for holders of block maps: the caller, its open handles, and its grants.
#pragma once
#include <cstdint>
#include <functional>

#include "base/byte_range.h"
#include "base/ids.h"
#include "base/process.h"
#include "core/seal.h"
#include "media/format.h"

namespace pmfs {

// The caller of a request.  The kernel has checked permissions (default_permissions); the volume
// uses this for the owner of new files, for sticky groups and for the right to seal.
using HandleId = std::uint64_t;
// 0: the client whose kernel is told of changes; other kernels cache what they like
// (fs/front/clients).
using ClientId = std::uint32_t;
class Progress;
struct Caller {
    std::uint32_t uid = 0;
    std::uint32_t gid = 0;
    std::uint32_t pid = 0;     // thread id as FUSE gives it; 0 = unknown (write-back)
    HandleId handle = 0;       // that it uses; 0 = none, or unknown
    ClientId client = 0;       // that the request came from
    bool nonblocking = false;  // EAGAIN instead of waiting for a lease
    // The kernel writes pages back.  It takes any answer but an error to mean that all is stored,
    // so a short write is an error.
    bool written_back = false;
    // With O_DIRECT: the kernel may make EIO of a short count (fs/fuse/file.c,
    // fuse_get_res_by_io()), and does not say when.
    bool direct = false;
    // Where an operation that has to wait is kept; valid during the call; null: nowhere.
    Progress *progress = nullptr;
    std::uint32_t umask = 0;  // of a caller that creates a file
};

struct OpenRequest {
    bool read = true;             // O_RDONLY, O_RDWR
    bool write = false;           // O_WRONLY, O_RDWR
    bool truncate = false;        // O_TRUNC
    bool append = false;          // O_APPEND
    bool direct = false;          // O_DIRECT
    bool maps_sealed = false;     // sealed files are mapped directly, and are in no page cache
    bool kill_suid_sgid = false;  // with truncate, as in SetAttr
    bool kill_any_sgid = false;
    Caller caller;
};
struct HandleInfo {  // an open handle, for ioctls and `pmfsctl holders`
    HandleId handle = 0;
    InodeNo ino;
    bool read = true, write = false;
    bool direct_io = false;  // as in OpenReply
    Caller opener;

    // Of the kernel that is told of changes.
    bool past_cache() const { return direct_io || opener.client != 0; }
};

using core::GrantKind;
using GrantId = std::uint64_t;

struct GrantRequest {
    GrantKind kind = GrantKind::temporary;
    std::uint64_t offset = 0, length = 0;  // bytes; length 0 = to the end of the file
    bool may_store = false;
    bool maps = false;     // the holder gets the device
    bool lent = false;     // ... and only by lend_device()
    bool forks = false;    // ... and its children inherit the mapping
    bool trusted = false;  // the caller may have the device
    // A pin that maps, and allows the file to be truncated and punched: its blocks stay in place
    // and are zeroed.
    bool bound = false;
    // The holder announces its first store (Holders::begin_stores): until then the file's times do
    // not change, and others may read the file through the page cache.
    bool announces = false;
    // In bytes: the range consists of whole aligned units of this size, also at the end of the
    // file.  0: the volume's mapping unit.
    std::uint64_t unit = 0;
};
struct Holder {         // one row of `pmfsctl holders`
    GrantId grant = 0;  // if quarantined, the quarantine's id
    GrantKind kind = GrantKind::temporary;
    HandleId handle = 0;
    std::uint32_t pid = 0, uid = 0;
    std::uint64_t offset = 0, length = 0;
    bool may_store = false;
    bool breaking = false;  // a lease that is being broken
    bool maps = false;
    bool lost = false;  // it has lost its grant, and is quarantined
};

using media::GrantReason;
struct Quarantined {  // a holder that lost its grant and may still map its blocks
    std::uint64_t id = 0;
    InodeNo file;
    Process process;
    std::uint32_t uid = 0;
    bool may_store = false;
    bool alive = false;   // otherwise its process is gone, or that is unknown
    bool mapped = false;  // the kernel says that a process still maps; otherwise that is unknown
    GrantReason reason = GrantReason::server_died;
    std::uint64_t total = 0, held = 0;  // bytes that it maps, and that the file gave up
};

// Of all rows together.
struct QuarantineTotal {
    std::size_t rows = 0;
    std::uint64_t held = 0;     // bytes
    std::size_t recounted = 0;  // rows for which the map of a file had to be read
};

// Tells holders about their grants.  Called without any lock of the volume, and possibly after the
// grant has ended.
class GrantWatcher {
public:
    virtual ~GrantWatcher() = default;
    virtual void lease_breaking(HandleId handle, GrantId grant, std::uint32_t milliseconds) = 0;
    virtual void grant_revoked(HandleId handle, GrantId grant) = 0;
    // Returns when each descriptor that was lent is closed on this side: before the kernel is asked
    // whether a process still has it.
    virtual void settle_lending() {}
};

// The questions about processes that the volume asks the system; tests replace it.
struct ProcessView {
    std::function<Process(std::uint32_t thread)> of_thread = process_of_thread;
    std::function<Life(const Process &)> life = life_of;
    std::function<std::uint64_t(std::uint32_t pid)> lockable_bytes = pmfs::lockable_bytes;
};

}  // namespace pmfs
