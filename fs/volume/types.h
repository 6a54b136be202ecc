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
#include "base/result.h"
#include "core/extent.h"
#include "holders/types.h"
#include "media/format.h"
#include "volume/progress.h"

namespace pmfs {

// What a kernel may still have cached of a file after an operation whose answer does not update it.
// The transport tells the kernel first, and then answers (docs/coherence.md).
struct Stale {
    bool attributes = false;
    bool mode = false;   // of the attributes: the kernel checks permissions by it
    bool pages = false;  // those of the range that was written
    // The same, of a write through the cache: all pages but the last one, if it covers only a part
    // of that, and that one (WrittenPages).
    bool refilled = false, refilled_part = false;

    bool any() const { return attributes || mode || pages || refilled || refilled_part; }
};

// A file whose blocks only the kernel knows is reported with at least one, because programs take a
// file without blocks for one hole.  In units of 4096 bytes.
inline constexpr std::uint64_t kBlocksKeptBack = 1;

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
    // They may change at any moment without an answer that tells the kernel, which therefore must
    // ask again: stores in its page cache that have no block yet, asynchronous direct writes.
    bool unsettled = false;
    // Data that the kernel has not written back yet (-o writeback) will need blocks.  The kernel
    // asks for attributes before each write(2) unless they are valid, so they are valid for a
    // moment.
    bool kept_back = false;
    bool sealed = false;  // its block map
};

// What rename() did, for kernels that cache names.
struct Renamed {
    std::vector<InodeNo> moved;  // directories that have another `..` now
    InodeNo source, target;      // what the two names led to before; 0: nothing
};

// chattr(1): see core/protection.h.
struct FileFlags {
    bool immutable = false, append_only = false, no_dump = false, no_access_time = false;
};

struct SetAttr {
    std::optional<std::uint32_t> mode;  // permission bits
    std::optional<std::uint32_t> uid, gid;
    std::optional<std::uint64_t> size;
    std::optional<Timespec> atime, mtime, ctime;
    bool times_given = false;     // the caller sets other times than now
    bool times_kept = false;      // set by the kernel itself, for writes that it had cached
    bool kill_suid_sgid = false;  // FUSE_HANDLE_KILLPRIV_V2
    bool kill_any_sgid = false;   // with that: also where the group may not execute the file
    bool only_kills = false;      // a chown(2) that changes no owner, or before a write
};

struct DirEntry {
    std::uint64_t cookie;  // pass it to continue after this entry
    InodeNo ino;
    std::uint8_t type;  // DT_*
    std::string_view name;
};
// Returns false to stop; the entry was then not taken.
using DirSink = std::function<bool(const DirEntry &)>;

struct OpenReply {
    HandleId handle = 0;
    bool direct_io = false;  // the kernel must not cache this handle's data
    // Pages that the kernel has from other handles are still valid, and opening this one, cached or
    // not, need not drop them.  False after direct stores: there was a grant that may store since
    // the last cached open.
    bool keep_cache = true;
    Stale stale;
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

struct Growth {                         // bytes
    std::uint64_t before = 0, now = 0;  // of the volume
    std::uint64_t medium = 0;
};

struct VolumeInfo {
    std::uint8_t uuid[16] = {};
    std::string label;
    std::string source;       // path of the region
    const char *medium = "";  // pm::name_of
    std::uint64_t size = 0, mapping_unit = 0;
    std::uint64_t blocks_total = 0;      // without superblocks, summaries, bitmaps, journal
    std::uint64_t blocks_free = 0;       // of any kind
    std::uint64_t blocks_for_root = 0;   // available to root's files
    std::uint64_t blocks_available = 0;  // available to users' files
    std::uint64_t inodes_used = 0;
    std::uint64_t inodes_available = 0;  // that users can make
    std::uint64_t journal_size = 0;
    std::uint64_t chunks = 0;
    BlockNo superblock_from;  // not 0: the block whose copy stands in for a damaged one
    std::uint64_t tx_last = 0, tx_durable = 0;
    bool read_only = false;
    bool damaged = false;  // a fault or a failed sync turned it read-only
};
struct ChunkInfo {
    std::uint8_t kind = 0;          // media::ChunkKind
    std::uint16_t used_blocks = 0;  // 0..512
};

// The result of one call of compact().
struct Compacted {
    std::uint64_t chunks = 0;  // that were emptied
    std::uint64_t moved = 0;   // bytes
    GroupNo next;              // the group to continue with,
    bool more = false;         // if there is one
};

// A transport whose kernel caches attributes.  It is told of changes that its requests did not make
// or their answers do not contain.  Called by any thread, with the volume's lock held.
class AttributeWatcher {
public:
    virtual ~AttributeWatcher() = default;
    virtual void attributes_changed(InodeNo ino) = 0;
};

using Completion = std::function<void(Result<>)>;

}  // namespace pmfs
