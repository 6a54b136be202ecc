// What a client may do, whatever it asks for: set by the administrator, when the client begins.
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

    bool read_only = false;  // EROFS for whatever changes anything
    bool may_seal = true;    // seals, and grants, which freeze maps (EPERM)
    // Its root may grow and tune the volume, end what others hold, and see their quarantines
    // (EPERM), and its process ids are this machine's.
    bool is_host = true;
    // Its kernel can be told what it must not believe any more.  Of one that cannot, everything is
    // asked again: it keeps neither names nor attributes.
    bool notifiable = true;
    // What it sees as its root.  Nothing outside of it can be named.
    InodeNo root = InodeNo(1);
    IdMap users, groups;
    // 0: no limit.  A request too many (by as many as are under way at once) is refused.
    std::size_t lookups_max = 0;  // nodes that it holds (ENFILE)
    std::size_t handles_max = 0;  // open files (EMFILE)
    std::size_t grants_max = 0;   // by ioctls (ENOLCK)
    // Who keeps its locks (file_locks.h): the server, for all clients, or its own kernel, for
    // itself.
    bool shares_ranges = true;  // fcntl
    bool shares_wholes = true;  // flock
    // Of those that the server keeps, waits among them (ENOLCK); an owner or user may have half of
    // them, and an eighth is kept for root.
    std::size_t locks_max = 0;

    // A guest: nothing that it says of processes is true here, and its kernel hears nothing.
    static Policy guest() {
        Policy policy;
        policy.is_host = policy.notifiable = false;
        policy.locks_max = kGuestLocksMax;
        return policy;
    }
    // The local mount, whose kernel keeps its locks unless it is told otherwise.
    static Policy host() {
        Policy policy;
        policy.shares_ranges = policy.shares_wholes = false;
        policy.locks_max = kHostLocksMax;
        return policy;
    }
};

}  // namespace pmfs::front
