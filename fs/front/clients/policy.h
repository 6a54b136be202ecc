// What a client may do, whatever it requests: set by the administrator, when the client begins.
#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/ids.h"

namespace pmfs::front {

// User or group ids of a client (inside) and those of the volume (outside), one for one.
struct IdRange {
    std::uint32_t inside = 0, outside = 0, count = 0;
};

// No range: ids are the same inside and outside.
class IdMap {
public:
    static constexpr std::uint32_t kOverflow = 65534;  // shown for an id that has none inside

    IdMap() = default;
    explicit IdMap(std::vector<IdRange> ranges) : ranges_(std::move(ranges)) {}

    bool empty() const { return ranges_.empty(); }
    // Nothing: the client has no such id.
    std::optional<std::uint32_t> in(std::uint32_t id) const {
        if (empty()) return id;
        for (const IdRange &range : ranges_)
            if (id - range.inside < range.count) return range.outside + (id - range.inside);
        return std::nullopt;
    }
    std::uint32_t out(std::uint32_t id) const {
        if (empty()) return id;
        for (const IdRange &range : ranges_)
            if (id - range.outside < range.count) return range.inside + (id - range.outside);
        return kOverflow;
    }

private:
    std::vector<IdRange> ranges_;
};

struct Policy {
    static constexpr std::size_t kGuestLocksMax = 16384, kHostLocksMax = 262144;
    // Of a guest.  Its kernel holds as many inodes as its memory allows, and cannot be asked to
    // give some back: an inode takes about 250 bytes of the server's memory.
    static constexpr std::size_t kInodesMax = 4'194'304, kFilesMax = 1'048'576, kGrantsMax = 1024;

    bool read_only = false;  // EROFS for every change
    bool may_seal = true;    // seals, and grants, which freeze maps (EPERM)
    // Its root may grow and tune the volume, end grants of others, and see their quarantines
    // (EPERM), and its process ids are those of this machine.
    bool is_host = true;
    // Its kernel can be notified of changes.  A kernel that cannot caches neither names nor
    // attributes: it asks for them each time.
    bool notifiable = true;
    // Its root directory.  It cannot name anything outside.
    InodeNo root = InodeNo(1);
    IdMap users, groups;
    // 0: no limit.  Requests beyond it are refused (a few more may pass if they run at the same
    // time).
    std::size_t lookups_max = 0;  // nodes that it holds (ENFILE for another one)
    std::size_t handles_max = 0;  // open files (EMFILE)
    std::size_t grants_max = 0;   // by ioctls (ENOLCK)
    // Whether the server keeps its locks (file_locks.h), for all clients, or its own kernel, for
    // itself.
    bool shares_ranges = true;  // fcntl
    bool shares_wholes = true;  // flock
    // Limit of locks in the server, including waiting requests (ENOLCK); an owner or user may have
    // half of them, and an eighth is reserved for root.
    std::size_t locks_max = 0;

    // A guest: its process ids mean nothing here, and its kernel cannot be notified.
    static Policy guest() {
        Policy policy;
        policy.is_host = policy.notifiable = false;
        policy.locks_max = kGuestLocksMax;
        policy.lookups_max = kInodesMax;
        policy.handles_max = kFilesMax;
        policy.grants_max = kGrantsMax;
        return policy;
    }
    // The local mount, whose kernel keeps its locks unless an option says otherwise.
    static Policy host() {
        Policy policy;
        policy.shares_ranges = policy.shares_wholes = false;
        policy.locks_max = kHostLocksMax;
        return policy;
    }
};

}  // namespace pmfs::front
