// The words that a volume and its front ends share: plain values, no behaviour.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/errors.h"
#include "base/ids.h"
#include "base/process.h"
#include "base/result.h"
#include "core/extent.h"
#include "core/seal.h"
#include "media/format.h"
#include "volume/progress.h"

namespace pmfs {

// Who asks.  The kernel has checked permissions (default_permissions); the volume uses this for
// the owner of what it makes, for sticky groups and for the rights to seal.
using HandleId = std::uint64_t;
struct Caller {
    std::uint32_t uid = 0;
    std::uint32_t gid = 0;
    std::uint32_t pid = 0;     // thread id as FUSE gives it; 0 = unknown (write-back)
    HandleId handle = 0;       // that he uses; 0 = none, or not to be told
    bool nonblocking = false;  // rather EAGAIN than wait for a lease to be given back
    // The kernel writes pages back.  It takes any answer but an error for "all of it is stored", so
    // a part is an error.
    bool written_back = false;
    // Where an operation that has to wait is kept, for the call's duration; null: nowhere.
    Progress *progress = nullptr;
};

// What a kernel may still believe of a file after an operation whose answer does not tell it
// better.  The transport tells the kernel first, and answers then (docs/coherence.md).
struct Stale {
    bool attributes = false;
    bool pages = false;  // those of the range that was written

    bool any() const { return attributes || pages; }
};

struct Attr {
    InodeNo ino;
    std::uint64_t generation = 0;
    std::uint32_t mode = 0;
    std::uint32_t nlink = 0;
    std::uint32_t uid = 0, gid = 0;
    std::uint64_t rdev = 0;  // as dev_t
    std::uint64_t size = 0;
    std::uint64_t blocks = 0;  // of 4096 bytes
    Timespec atime, mtime, ctime, crtime;
    // They may change at any moment without an operation that tells the kernel, which therefore
    // must ask again: stores of its page cache that no block holds yet, asynchronous direct writes.
    bool unsettled = false;
};

struct SetAttr {
    std::optional<std::uint32_t> mode;  // permission bits
    std::optional<std::uint32_t> uid, gid;
    std::optional<std::uint64_t> size;
    std::optional<Timespec> atime, mtime, ctime;
    bool kill_suid_sgid = false;  // FUSE_HANDLE_KILLPRIV_V2
};

struct DirEntry {
    std::uint64_t cookie;  // give it back to continue after this entry
    InodeNo ino;
    std::uint8_t type;  // DT_*
    std::string_view name;
};
// Returns false to stop; the entry was then not taken.
using DirSink = std::function<bool(const DirEntry &)>;

struct OpenRequest {
    bool read = true;             // O_RDONLY, O_RDWR
    bool write = false;           // O_WRONLY, O_RDWR
    bool truncate = false;        // O_TRUNC
    bool direct = false;          // O_DIRECT
    bool kill_suid_sgid = false;  // with truncate, as in SetAttr
    Caller caller;
};
struct OpenReply {
    HandleId handle = 0;
    bool direct_io = false;  // the kernel must not cache this handle's data
    // Pages that the kernel kept from earlier handles are still true.  False after direct stores: a
    // grant that may store has lived since the last cached open.
    bool keep_cache = true;
    Stale stale;
};

struct HandleInfo {  // an open handle, for ioctls and `pmfsctl holders`
    HandleId handle = 0;
    InodeNo ino;
    bool read = true, write = false;
    bool direct_io = false;  // as OpenReply said
    Caller opener;
};

enum class SealLevel : std::uint8_t { none = 0, as_is = 1, full = 2 };

struct FileInfo {
    Attr attr;
    SealLevel seal = SealLevel::none;
    bool in_trim = false;
    std::uint64_t extents = 0;
    std::uint8_t digest[32] = {};  // of the map as it is now, sealed or not
    std::uint64_t grants = 0;      // T, B and R held now
    std::uint64_t handles_cached = 0, handles_cached_write = 0, handles_direct = 0;
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

struct VolumeInfo {
    std::uint8_t uuid[16] = {};
    std::string label;
    std::string source;       // path of the region
    const char *medium = "";  // pm::name_of
    std::uint64_t size = 0, mapping_unit = 0;
    std::uint64_t blocks_total = 0;      // without superblocks, summaries, bitmaps, journal
    std::uint64_t blocks_free = 0;       // of any kind
    std::uint64_t blocks_available = 0;  // that users' files can get
    std::uint64_t inodes_used = 0;
    std::uint64_t inodes_available = 0;  // that users can make
    std::uint64_t journal_size = 0;
    std::uint64_t chunks = 0;
    std::uint64_t superblock_from = 0;  // not 0: the block whose copy stands in for a damaged one
    std::uint64_t tx_last = 0, tx_durable = 0;
    bool read_only = false;
    bool damaged = false;  // a fault or a failed sync turned it read-only
};
struct ChunkInfo {
    std::uint8_t kind = 0;          // media::ChunkKind
    std::uint16_t used_blocks = 0;  // 0..512
};

// What one call of compact() did.
struct Compacted {
    std::uint64_t chunks = 0;  // that were emptied
    std::uint64_t moved = 0;   // bytes
    std::uint64_t next = 0;    // the group to go on with,
    bool more = false;         // if there is one
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

// Who tells holders what becomes of their grants.  Called with the volume's lock held.
class GrantWatcher {
public:
    virtual ~GrantWatcher() = default;
    virtual void lease_breaking(HandleId handle, GrantId grant, std::uint32_t milliseconds) = 0;
    virtual void grant_revoked(HandleId handle, GrantId grant) = 0;
};

// A transport whose kernel keeps attributes.  It is told of those that change outside of its
// requests or beside their answers.  Called by any thread, with the volume's lock held.
class AttributeWatcher {
public:
    virtual ~AttributeWatcher() = default;
    virtual void attributes_changed(InodeNo ino) = 0;
};

// What the volume asks the system about processes; tests put their own in its place.
struct ProcessView {
    std::function<Process(std::uint32_t thread)> of_thread = process_of_thread;
    std::function<Life(const Process &)> life = life_of;
    std::function<std::uint64_t(std::uint32_t pid)> lockable_bytes = pmfs::lockable_bytes;
};

using Completion = std::function<void(Result<>)>;

}  // namespace pmfs
