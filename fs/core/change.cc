// A change's begin and end: see change.h.
#include "core/change.h"

#include <cstring>

#include "core/alloc.h"
#include "media/verify.h"

namespace pmfs::core {

Change::Change(Core &core) : core_(core), tx_(core.journal) {
    tx_.watch(core.allocator);
}

void Change::copy_body(void *to, const void *from, std::size_t size) {
    constexpr std::size_t head = sizeof(media::BlockHeader);
    std::memcpy(static_cast<std::byte *>(to) + head, static_cast<const std::byte *>(from) + head,
                size - head);
}

Result<media::State *> Change::edit_state() {
    if (!state_) {
        const BlockNo a = core_.state_block(0), b = core_.state_block(1);
        auto *state = TRY(edit_copy<media::State>(a, b, media::Magic::state));
        TRY(edit_copy<media::State>(b, a, media::Magic::state));
        state_ = state;
    }
    return state_;
}

Result<TxSeq> Change::commit() {
    if (state_) {
        media::seal_block(state_->inode_table);
        auto *copy = TRY(tx_.edit<media::State>(core_.state_block(1), media::Magic::state));
        copy_body(copy, state_, sizeof *copy);
    }
    return tx_.commit();
}

}  // namespace pmfs::core
