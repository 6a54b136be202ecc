// The effects on a file of a holder that stores to it directly: see for_holders.h.
#include "volume/for_holders.h"

#include <cstring>
#include <span>

#include "core/extent_map.h"
#include "core/inode.h"
#include "media/geometry.h"
#include "volume/attributes.h"
#include "volume/data.h"
#include "volume/trim.h"

namespace pmfs {

using core::Change;
using core::Reader;

Result<> ForHolders::settle_trim_held(InodeNo ino) {
    engine_.lock.assert_held();
    return settle_trim(engine_, ino);
}

Result<> ForHolders::clear_map_held(InodeNo ino) {
    engine_.lock.assert_held();
    return clear_tree(engine_, ino, media::TreeKind::map);
}

namespace {

bool all_zero(std::span<const std::byte> bytes) {
    return bytes.empty() || (bytes[0] == std::byte{0} &&
                             std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0);
}

}  // namespace

// A mapping shows whole units, and the bytes behind the end of the file must be zero: removes what
// a truncation cut off, or what an earlier mapping stored there.  EROFS: not possible.
Result<> ForHolders::clear_behind_end_held(InodeNo ino) {
    engine_.lock.assert_held();
    const Reader reader(*engine_.core);
    const auto *inode = TRY(core::read_inode(reader, ino));
    const std::uint64_t size = inode->size.get(), unit = engine_.superblock.mapping_unit.get();
    const std::uint64_t end = (size + unit - 1) / unit * unit;
    for (std::uint64_t at = size; at < end;) {
        const Extent e = TRY(core::find_extent(reader, *inode, ino, media::file_block_of(at)));
        const std::uint64_t upto = std::min(end, media::byte_of(e.end()));
        const std::uint64_t place = device_byte(e, at);
        const bool clean = e.hole() || all_zero({engine_.region->data() + place, upto - at});
        if (!clean && !pmfs::writable(engine_).ok())
            return Error(EROFS,
                         "the file has old bytes behind its end, which a mapping would show, and "
                         "the volume is read-only");
        if (!clean)
            engine_.journal->persist(
                TRY(zero_written(*engine_.journal, reader, *inode, ino, at, upto)));
        at = upto;
    }
    return {};
}

// Marks the file: its blocks behind the end may contain data.
Result<> ForHolders::will_store_held(InodeNo ino, std::uint32_t uid) {
    engine_.lock.assert_held();
    TRY(drop_capability(engine_, ino));
    Change change(*engine_.core);
    TRY(change.begin());
    auto *inode = TRY(core::edit_inode(change, ino));
    inode->flags.set(inode->flags.get() | media::kEverMapped);
    if (uid != 0) kill_setid(inode);
    touch(inode, true);
    TRY(change.commit());
    return {};
}

// kParkErrno: nothing has changed, run it again.  Other failures (damaged media) do not keep a
// grant from ending; a volume that may not be written to is not changed.
Result<> ForHolders::stored_held(InodeNo ino, std::uint32_t uid) {
    engine_.lock.assert_held();
    if (!pmfs::writable(engine_).ok()) return {};
    const auto moved = [&]() -> Result<> {
        Change change(*engine_.core);
        TRY(change.begin());
        auto *inode = TRY(core::edit_inode(change, ino));
        if (uid != 0) kill_setid(inode);  // they may have been set meanwhile
        touch(inode, true);
        TRY(change.commit());
        return {};
    }();
    if (moved.ok()) attributes_changed(engine_, ino);  // the grant may have ended without a request
    if (!moved.ok() && must_park(moved.error())) return moved;
    return {};
}

}  // namespace pmfs
