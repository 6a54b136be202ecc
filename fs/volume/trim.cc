// The steps: see trim.h.
#include "volume/trim.h"

#include <algorithm>

#include "core/btree.h"
#include "core/extent_map.h"
#include "core/inode.h"
#include "media/geometry.h"
#include "volume/data.h"
#include "volume/operation.h"

namespace pmfs {

using core::Change;
using core::Reader;

// Blocks behind `trim_from` belong to no byte of the file, so no permit is needed.
Result<bool> trim_step(Engine &e, InodeNo ino) {
    const auto *was = TRY(core::read_inode(Reader(*e.core), ino));
    if ((was->flags.get() & media::kTrimPending) == 0) return true;
    Change change(*e.core);
    TRY(change.begin());
    auto *inode = TRY(core::edit_inode(change, ino));
    const auto permit = TRY(core::permit(*inode, {}, core::Move::reap));
    const bool all =
        TRY(core::map_trim(change, inode, ino, FileBlock(inode->trim_from.get()), permit));
    if (all) {
        inode->flags.set(inode->flags.get() & ~media::kTrimPending);
        inode->trim_from.set(0);
        // A file without a name stays on the list until it is freed.
        if (inode->nlink.get() != 0) TRY(core::remove_orphan(change, ino, inode));
    }
    TRY(change.commit());
    TRY(best_effort(core::map_tidy(*e.core, ino, core::kLastBlock)));
    return all;
}

Result<> settle_trim(Engine &e, InodeNo ino) {
    while (!TRY(trim_step(e, ino))) {
    }
    return {};
}

namespace {

// Blocks [at, upto), one piece of one extent.
Result<> clear_piece(Engine &e, InodeNo ino, FileBlock at, FileBlock upto, bool punch)
    REQUIRES(e.lock) {
    TRY(core::map_make_room(*e.core, ino, at, 2));
    TRY(core::map_make_room(*e.core, ino, upto, 2));
    Change change(*e.core);
    TRY(change.begin());
    auto *inode = TRY(core::edit_inode(change, ino));
    const auto permit = TRY(e.holders->permit(ino, *inode, core::Move::punch, at, upto));
    const core::Run run = TRY(core::map_remove(change, inode, ino, at, upto, permit));
    if (punch) {
        TRY(e.allocator->give_back(change, run));
        inode->blocks.set(inode->blocks.get() - run.blocks);
    } else {
        TRY(core::map_insert(change, inode, ino, {at, run.start, run.blocks, true, false}, permit));
    }
    TRY(change.commit());
    return best_effort(core::map_tidy(*e.core, ino, at));
}

}  // namespace

Result<FileBlock> clear_step(Engine &e, InodeNo ino, FileBlock at, FileBlock end, bool punch) {
    for (unsigned n = 0; n < kLookedAt; ++n) {  // extents that do not change
        const Reader reader(*e.core);
        const auto *was = TRY(core::read_inode(reader, ino));
        const Extent found = TRY(core::next_extent(reader, *was, ino, at));
        if (at >= end || found.hole() || found.file_block >= end) return end;
        at = std::max(at, found.file_block);
        FileBlock upto = std::min(found.end(), end);
        const auto bound = e.live.bound(ino, at);
        const bool stays = bound && bound->first == at;
        if (bound) upto = std::min(upto, stays ? bound->end : bound->first);
        if (stays && !found.unwritten)
            return media::file_block_of(
                TRY(zero_step(e, ino, media::byte_of(at), media::byte_of(upto))));
        if (!stays && (punch || !found.unwritten)) {
            upto = at + e.allocator->piece({found.place_of(at), upto - at}).blocks;
            TRY(clear_piece(e, ino, at, upto, punch));
            return upto;
        }
        at = upto;
    }
    return at;
}

Result<bool> clear_tree_step(Engine &e, InodeNo ino, media::TreeKind kind) {
    const auto *inode = TRY(core::read_inode(Reader(*e.core), ino));
    if (core::root_of(*inode, kind).get() == 0) return true;
    const std::uint64_t before = inode->blocks.get();
    TRY(core::tree_tidy(*e.core, {ino, kind}, 0));
    inode = TRY(core::read_inode(Reader(*e.core), ino));
    if (core::root_of(*inode, kind).get() != 0 && inode->blocks.get() >= before)
        return corrupt("a tree has entries that cannot be removed");
    return false;
}

Result<> clear_tree(Engine &e, InodeNo ino, media::TreeKind kind) {
    while (!TRY(clear_tree_step(e, ino, kind))) {
    }
    return {};
}

}  // namespace pmfs
