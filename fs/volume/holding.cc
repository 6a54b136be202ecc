// Requests of holders, and about them: passed on to holders/holders.h.
#include "volume/attributes.h"
#include "volume/parts.h"

namespace pmfs {

Result<GrantId> Volume::take_grant(HandleId handle, const GrantRequest &request,
                                   const Caller &caller, std::uint64_t *bad_offset) {
    return parts_->scheduler.unless_closed_soon(
        caller.progress, parts_->engine.holders->take(handle, request, caller, bad_offset));
}

Result<> Volume::drop_grant(HandleId handle, GrantId id) {
    return parts_->engine.holders->drop(handle, id);
}

void Volume::lose_grant(HandleId handle, GrantId id) {
    parts_->engine.holders->lose_or_park(handle, id, GrantReason::cut_off);
}

Result<std::uint64_t> Volume::revoke(InodeNo ino, GrantId id, std::uint32_t pid,
                                     const Caller &caller) {
    return parts_->engine.holders->revoke(ino, id, pid, caller);
}

Result<> Volume::adopt_grant(HandleId handle, GrantId id, const Caller &holder) {
    return parts_->engine.holders->adopt(handle, id, holder);
}

Result<> Volume::begin_stores(HandleId handle, GrantId id, Progress *progress) {
    Engine &e = parts_->engine;
    const auto opened = e.live.handle(handle);
    TRY(parts_->scheduler.unless_closed_soon(progress, e.holders->begin_stores(handle, id)));
    if (opened) attributes_changed(e, opened->ino);  // no request of its kernel did that
    return {};
}

Result<FileDescriptor> Volume::lend_device(HandleId handle, GrantId id) {
    return parts_->engine.holders->lend_device(handle, id);
}

Result<std::vector<Holder>> Volume::holders(InodeNo ino) {
    return parts_->engine.holders->list(ino);
}

std::uint32_t Volume::lease_time_left(HandleId handle, GrantId id) {
    return parts_->engine.holders->lease_time_left(handle, id);
}

void Volume::set_watcher(GrantWatcher *watcher) {
    parts_->engine.holders->set_watcher(watcher);
}

Result<std::vector<Quarantined>> Volume::quarantine(std::uint64_t from, std::size_t count,
                                                    std::uint64_t *next) {
    InodeNo behind;
    auto rows = TRY(parts_->engine.holders->quarantine(InodeNo(from), count, &behind));
    if (next != nullptr) *next = behind.value();
    return rows;
}

Result<QuarantineTotal> Volume::quarantine_total() {
    return parts_->engine.holders->quarantine_total();
}

Result<> Volume::release_quarantine(std::uint64_t id, const Caller &caller) {
    return parts_->engine.holders->release_quarantine(id, caller);
}

void Volume::tend(std::uint64_t now_ns) {
    parts_->engine.holders->tend(now_ns);
}

}  // namespace pmfs
