// The steps: see trim.h.
#include "volume/trim.h"

#include "core/btree.h"
#include "core/extent_map.h"
#include "core/inode.h"

namespace pmfs {

using core::Change;
using core::Reader;

// Blocks behind `trim_from` belong to no byte of the file, so no seal is asked.
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
        // A file without a name stays on the list until it goes.
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

Result<bool> clear_tree_step(Engine &e, InodeNo ino, media::TreeKind kind) {
    const auto *inode = TRY(core::read_inode(Reader(*e.core), ino));
    if (core::root_of(*inode, kind).get() == 0) return true;
    const std::uint64_t before = inode->blocks.get();
    TRY(core::tree_tidy(*e.core, {ino, kind}, 0));
    inode = TRY(core::read_inode(Reader(*e.core), ino));
    if (core::root_of(*inode, kind).get() != 0 && inode->blocks.get() >= before)
        return corrupt("a tree cannot be emptied");
    return false;
}

Result<> clear_tree(Engine &e, InodeNo ino, media::TreeKind kind) {
    while (!TRY(clear_tree_step(e, ino, kind))) {
    }
    return {};
}

}  // namespace pmfs
