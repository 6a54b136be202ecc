// What holders who store to a file past the volume do to it, and the requests of holders.
#include <cstring>
#include <span>

#include "volume/impl.h"

namespace pmfs {

using core::Change;
using core::Reader;
using media::kBlockSize;

// --- what holders ask of the volume

Result<> Volume::Impl::settle_trim_held(InodeNo ino) {
    lock.assert_held();
    return settle_trim(ino);
}

Result<> Volume::Impl::clear_map_held(InodeNo ino) {
    lock.assert_held();
    return clear_tree(ino, media::TreeKind::map);
}

namespace {

bool all_zero(std::span<const std::byte> bytes) {
    return bytes.empty() || (bytes[0] == std::byte{0} &&
                             std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0);
}

}  // namespace

// A mapping shows whole units, and behind the end of the file there have to be zeroes: what was cut
// off by a truncation, or stored there through a mapping of before, goes.  EROFS: it cannot.
Result<> Volume::Impl::clear_behind_end_held(InodeNo ino) {
    lock.assert_held();
    const Reader reader(*core);
    const auto *inode = TRY(core::read_inode(reader, ino));
    const std::uint64_t size = inode->size.get(), unit = superblock.mapping_unit.get();
    const std::uint64_t end = (size + unit - 1) / unit * unit;
    for (std::uint64_t at = size; at < end;) {
        const Extent e = TRY(core::find_extent(reader, *inode, ino, at / kBlockSize));
        const std::uint64_t upto = std::min(end, e.end() * kBlockSize);
        const std::uint64_t place = e.start * kBlockSize + (at - e.file_block * kBlockSize);
        const bool clean = e.hole() || all_zero({region->data() + place, upto - at});
        if (!clean && !writable().ok())
            return Error(EROFS,
                         "the file has old bytes behind its end, which a mapping would show, and "
                         "the volume is read-only");
        if (!clean) journal->persist(TRY(zero_written(reader, *inode, ino, at, upto)));
        at = upto;
    }
    return {};
}

// Marks the file as one whose blocks behind its end may hold something.
Result<> Volume::Impl::will_store_held(InodeNo ino, std::uint32_t uid) {
    lock.assert_held();
    TRY(drop_capability(ino));
    Change change(*core);
    TRY(change.begin());
    auto *inode = TRY(core::edit_inode(change, ino));
    inode->flags.set(inode->flags.get() | media::kEverMapped);
    if (uid != 0) kill_setid(inode);
    touch(inode, true);
    TRY(change.commit());
    return {};
}

// kParkErrno: nothing has changed, run it again.  Other failures (damaged media) keep no grant from
// ending, and on a volume that may not be written to nothing is.
Result<> Volume::Impl::stored_held(InodeNo ino, std::uint32_t uid) {
    lock.assert_held();
    if (!writable().ok()) return {};
    const auto moved = [&]() -> Result<> {
        Change change(*core);
        TRY(change.begin());
        auto *inode = TRY(core::edit_inode(change, ino));
        if (uid != 0) kill_setid(inode);  // it may have been given them meanwhile
        touch(inode, true);
        TRY(change.commit());
        return {};
    }();
    if (moved.ok()) attributes_changed(ino);  // it may have ended without a request
    if (!moved.ok() && must_park(moved.error())) return moved;
    return {};
}

// At close: it got on by a transaction at least.
Result<> Volume::Impl::make_room() {
    TRY(journal->group_commit(true));
    allocator->release_held();
    return {};
}

// --- the requests of holders

Result<GrantId> Volume::take_grant(HandleId handle, const GrantRequest &request,
                                   const Caller &caller, std::uint64_t *bad_offset) {
    if (impl_->options.writeback)
        return Error(EOPNOTSUPP, "no grants on a mount with -o writeback");
    return impl_->holders->take(handle, request, caller, bad_offset);
}

Result<> Volume::drop_grant(HandleId handle, GrantId id) {
    return impl_->holders->drop(handle, id);
}

void Volume::lose_grant(HandleId handle, GrantId id) {
    impl_->holders->lose_or_park(handle, id, GrantReason::cut_off);
}

Result<std::uint64_t> Volume::revoke(InodeNo ino, GrantId id, std::uint32_t pid,
                                     const Caller &caller) {
    return impl_->holders->revoke(ino, id, pid, caller);
}

Result<> Volume::adopt_grant(HandleId handle, GrantId id, const Caller &holder) {
    return impl_->holders->adopt(handle, id, holder);
}

Result<FileDescriptor> Volume::lend_device(HandleId handle, GrantId id) {
    return impl_->holders->lend_device(handle, id);
}

Result<std::vector<Holder>> Volume::holders(InodeNo ino) {
    return impl_->holders->list(ino);
}

std::uint32_t Volume::lease_time_left(HandleId handle, GrantId id) {
    return impl_->holders->lease_time_left(handle, id);
}

void Volume::set_watcher(GrantWatcher *watcher) {
    impl_->holders->set_watcher(watcher);
}

Result<std::vector<Quarantined>> Volume::quarantine() {
    return impl_->holders->quarantine();
}

Result<> Volume::release_quarantine(std::uint64_t id, const Caller &caller) {
    return impl_->holders->release_quarantine(id, caller);
}

void Volume::tend(std::uint64_t now_ns) {
    impl_->holders->tend(now_ns);
}

}  // namespace pmfs
