// The grants of one file: see grants.h.
#include "holders/grants.h"

namespace pmfs {

core::Standing InodeGrants::standing(FileBlock first, FileBlock end) const {
    core::Standing s = standing_around(first, end);
    s.pinned_here |= bound_ && bound_->overlaps(first, end);
    return s;
}

core::Standing InodeGrants::standing_around(FileBlock first, FileBlock end) const {
    core::Standing s;
    s.temporary = temporary_ != 0;
    s.breakable = breakable_ != 0;
    s.pinned = (pins_ && pins_->count() != 0) || (bound_ && bound_->count() != 0);
    s.pinned_here = pins_ && pins_->overlaps(first, end);
    return s;
}

void InodeGrants::add(const Grant &grant) {
    grants_.emplace(std::pair(grant.handle, grant.id), grant);
    temporary_ += grant.kind == GrantKind::temporary;
    breakable_ += grant.kind == GrantKind::breakable;
    may_store_ += grant.may_store;
    storing_ += grant.stores;
    freezing_gaps_ += grant.freezes_gaps;
}

void InodeGrants::begin_stores(HandleId handle, GrantId id) {
    Grant *grant = find(handle, id);
    if (grant == nullptr || grant->stores) return;
    grant->stores = true;
    ++storing_;
}

Grant *InodeGrants::find(HandleId handle, GrantId id) {
    const auto found = grants_.find({handle, id});
    return found == grants_.end() ? nullptr : &found->second;
}

std::optional<Grant> InodeGrants::remove(HandleId handle, GrantId id) {
    const auto found = grants_.find({handle, id});
    if (found == grants_.end()) return std::nullopt;
    const Grant grant = found->second;
    grants_.erase(found);
    temporary_ -= grant.kind == GrantKind::temporary;
    breakable_ -= grant.kind == GrantKind::breakable;
    may_store_ -= grant.may_store;
    storing_ -= grant.stores;
    freezing_gaps_ -= grant.freezes_gaps;
    return grant;
}

std::vector<Grant> InodeGrants::list() const {
    std::vector<Grant> all;
    all.reserve(grants_.size());
    for (const auto &[id, grant] : grants_) all.push_back(grant);
    return all;
}

std::vector<Grant> InodeGrants::of_handle(HandleId handle) const {
    std::vector<Grant> all;
    for (auto at = grants_.lower_bound({handle, 0}); at != grants_.end(); ++at) {
        if (at->first.first != handle) break;
        all.push_back(at->second);
    }
    return all;
}

std::vector<Grant> InodeGrants::ask_leases() {
    std::vector<Grant> asked;
    for (auto &[id, grant] : grants_) {
        if (grant.kind != GrantKind::breakable || grant.breaking) continue;
        grant.breaking = true;
        asked.push_back(grant);
    }
    return asked;
}

core::PinTable &InodeGrants::pins(bool bound) {
    auto &pins = bound ? bound_ : pins_;
    if (!pins) pins = std::make_unique<core::PinTable>();
    return *pins;
}

}  // namespace pmfs
