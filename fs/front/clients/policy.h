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

    // A guest: nothing that it says of processes is true here, and its kernel hears nothing.
    static Policy guest() {
        Policy policy;
        policy.is_host = policy.notifiable = false;
        return policy;
    }
};

}  // namespace pmfs::front
