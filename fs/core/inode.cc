// The inode table and its two lists: see inode.h.
#include "core/inode.h"

#include <cstring>

#include "base/assert.h"
#include "core/alloc.h"
#include "core/extent_map.h"

namespace pmfs::core {

using media::kInodesPerBlock;
using media::Magic;

namespace {

constexpr InodeNo kTableIno(media::kInodeTableIno);

}  // namespace

Result<const media::State *> read_state(const Reader &reader) {
    auto state = reader.get<media::State>(reader.core().state_block(0), Magic::state);
    if (state.ok()) return state;
    return reader.get<media::State>(reader.core().state_block(1), Magic::state);
}

Result<InodePlace> locate_inode(const Reader &reader, InodeNo ino) {
    const media::State *state = TRY(read_state(reader));
    if (ino.value() == 0 || ino.value() >= state->inodes_total.get())
        return Error(ESTALE, "there is no inode of that number");
    const std::uint64_t file_block = ino.value() / kInodesPerBlock;
    const Extent e = TRY(find_extent(reader, state->inode_table, kTableIno, file_block));
    if (e.start == 0) return corrupt("the inode table has a hole");
    return InodePlace{BlockNo(e.start + (file_block - e.file_block)),
                      static_cast<unsigned>(ino.value() % kInodesPerBlock)};
}

Result<const media::Inode *> read_inode(const Reader &reader, InodeNo ino) {
    if (ino == kTableIno) return &TRY(read_state(reader))->inode_table;
    const InodePlace place = TRY(locate_inode(reader, ino));
    const media::Inode *inode = TRY(reader.inode(place.block, place.slot, ino));
    if (inode->mode.get() == 0) return Error(ESTALE, "the inode is not in use");
    if (inode->size.get() > media::kFileSizeMax) return corrupt("a file is larger than it may be");
    return inode;
}

Result<media::Inode *> edit_inode(Change &change, InodeNo ino) {
    if (ino == kTableIno) return &TRY(change.edit_state())->inode_table;
    const Reader reader(change);
    TRY(read_inode(reader, ino));
    const InodePlace place = TRY(locate_inode(reader, ino));
    return change.tx().edit_inode(place.block, place.slot, ino);
}

namespace {

// An inode of any kind, free ones too.
Result<media::Inode *> edit_slot(Change &change, InodeNo ino) {
    const InodePlace place = TRY(locate_inode(Reader(change), ino));
    return change.tx().edit_inode(place.block, place.slot, ino);
}

// The table grows by a few blocks, contiguous with its end where that is free.
Result<> grow_table(Core &core) {
    constexpr std::uint64_t kGrowBlocks = 4;
    const Reader outside(core);
    const media::State *was = TRY(read_state(outside));
    const std::uint64_t file_block = was->inodes_total.get() / kInodesPerBlock;
    TRY(map_make_room(core, kTableIno, file_block, 1));

    Change change(core);
    TRY(change.begin());
    media::State *state = TRY(change.edit_state());
    media::Inode *table = &state->inode_table;
    std::uint64_t near = 0;
    if (file_block != 0) {
        const Extent last = TRY(find_extent(Reader(change), *table, kTableIno, file_block - 1));
        near = last.start == 0 ? 0 : last.start + last.blocks;
    }
    const Run run = TRY(core.allocator.take_meta(change, near, kGrowBlocks));
    const std::uint64_t first = file_block * kInodesPerBlock;
    std::uint64_t next = state->free_inode_head.get();
    for (std::uint64_t i = run.blocks; i-- > 0;) {
        media::Inode *slots = TRY(
            change.tx().fresh_inodes(BlockNo(run.start + i), InodeNo(first + i * kInodesPerBlock)));
        for (std::uint64_t s = kInodesPerBlock; s-- > 0;) {
            slots[s].next.set(next);
            next = first + i * kInodesPerBlock + s;
        }
    }
    state->free_inode_head.set(next);
    state->inodes_total.set(first + run.blocks * kInodesPerBlock);
    table->size.set(state->inodes_total.get() * media::kInodeSize);
    table->blocks.set(table->blocks.get() + run.blocks);
    TRY(map_insert_unchecked(change, table, kTableIno,
                             {file_block, run.start, run.blocks, false, false}));
    TRY(change.commit());
    return {};
}

}  // namespace

// A damaged head of the list costs what hangs behind it, until fsck: fresh inodes go before it.
Result<> ensure_free_inode(Core &core) {
    const Reader reader(core);
    const InodeNo head(TRY(read_state(reader))->free_inode_head.get());
    if (head.value() != 0) {
        const auto place = locate_inode(reader, head);
        if (place.ok()) {
            const auto inode = reader.inode(place.value().block, place.value().slot, head);
            if (inode.ok() && inode.value()->mode.get() == 0) return {};
        }
    }
    return grow_table(core);
}

Result<NewInode> take_inode(Change &change) {
    media::State *state = TRY(change.edit_state());
    const InodeNo ino(state->free_inode_head.get());
    if (ino.value() == 0) return Error(ENOSPC, "the inode table cannot grow");
    media::Inode *inode = TRY(edit_slot(change, ino));
    if (inode->mode.get() != 0) return corrupt("the list of free inodes names one in use");
    state->free_inode_head.set(inode->next.get());
    state->inodes_used.set(state->inodes_used.get() + 1);
    const std::uint64_t generation = inode->generation.get() + 1;
    const media::BlockHeader header = inode->header;
    std::memset(static_cast<void *>(inode), 0, sizeof *inode);
    inode->header = header;
    inode->generation.set(generation);
    return NewInode{ino, inode};
}

Result<> free_inode(Change &change, InodeNo ino, media::Inode *inode) {
    media::State *state = TRY(change.edit_state());
    const std::uint64_t generation = inode->generation.get();
    const media::BlockHeader header = inode->header;
    std::memset(static_cast<void *>(inode), 0, sizeof *inode);
    inode->header = header;
    inode->generation.set(generation);
    inode->next.set(state->free_inode_head.get());
    state->free_inode_head.set(ino.value());
    state->inodes_used.set(state->inodes_used.get() - 1);
    return {};
}

// One that a list leads to is in use.
static Result<media::Inode *> edit_listed(Change &change, InodeNo ino) {
    auto inode = edit_inode(change, ino);
    if (!inode.ok() && inode.error().errno_value() == ESTALE)
        return corrupt("a list of inodes leads to one that is not in use");
    return inode;
}

Result<> push_inode(Change &change, InodeNo ino, media::Inode *inode, ListHead head) {
    media::State *state = TRY(change.edit_state());
    const std::uint64_t first = (state->*head).get();
    inode->next.set(first);
    inode->prev.set(0);
    if (first != 0) TRY(edit_listed(change, InodeNo(first)))->prev.set(ino.value());
    (state->*head).set(ino.value());
    return {};
}

Result<> unlink_inode(Change &change, media::Inode *inode, ListHead head) {
    media::State *state = TRY(change.edit_state());
    const std::uint64_t next = inode->next.get(), prev = inode->prev.get();
    if (next != 0) TRY(edit_listed(change, InodeNo(next)))->prev.set(prev);
    if (prev != 0)
        TRY(edit_listed(change, InodeNo(prev)))->next.set(next);
    else
        (state->*head).set(next);
    inode->next.set(0);
    inode->prev.set(0);
    return {};
}

// A damaged head of the list costs what hangs behind it, until fsck: else no name could be removed
// any more.
Result<> add_orphan(Change &change, InodeNo ino, media::Inode *inode) {
    auto pushed = push_inode(change, ino, inode, &media::State::orphan_head);
    if (pushed.ok() ||
        (pushed.error().errno_value() != EUCLEAN && pushed.error().errno_value() != EIO))
        return pushed;
    inode->next.set(0);
    TRY(change.edit_state())->orphan_head.set(ino.value());
    return {};
}

Result<> remove_orphan(Change &change, InodeNo, media::Inode *inode) {
    return unlink_inode(change, inode, &media::State::orphan_head);
}

}  // namespace pmfs::core
