// A transaction's copies and their finishing: see tx.h.
#include "journal/tx.h"

#include <cstring>

#include "base/assert.h"
#include "media/verify.h"

namespace pmfs::journal {

using media::kBlockSize;
using media::kInodeSize;
using media::kInodesPerBlock;
using media::kLineSize;

Tx::~Tx() {
    if (begun_) {
        if (data_.owed()) journal_.persist(std::move(data_));
        if (watcher_) watcher_->tx_aborted();
    }
}

Result<> Tx::begin() {
    PMFS_ASSERT(!begun_);
    TRY(journal_.make_room());
    begun_ = true;
    return {};
}

Tx::Shadow *Tx::add(BlockNo block, bool fresh) {
    PMFS_ASSERT(begun_ && used_ < shadows_.size());
    Shadow &shadow = shadows_[used_];
    shadow = {block, fresh, false, 0, journal_.shadows_.get() + used_ * kBlockSize};
    if (fresh)
        std::memset(shadow.bytes, 0, kBlockSize);
    else
        std::memcpy(shadow.bytes, journal_.blocks().raw(block), kBlockSize);
    ++used_;
    return &shadow;
}

std::byte *Tx::make_fresh(BlockNo block, media::Magic magic) {
    Shadow *shadow = find(block);
    if (shadow) {  // freed and taken again in one transaction
        std::memset(shadow->bytes, 0, kBlockSize);
        shadow->fresh = true;
    } else {
        shadow = add(block, true);
    }
    const auto header = media::header_of(magic, journal_.blocks().fsid(), block.value(), 0);
    std::memcpy(shadow->bytes, &header, sizeof header);
    return shadow->bytes;
}

media::Inode *Tx::fresh_inodes(BlockNo block, InodeNo first) {
    Shadow *shadow = add(block, true);
    shadow->inodes = true;
    auto *slots = reinterpret_cast<media::Inode *>(shadow->bytes);
    for (std::uint64_t i = 0; i < kInodesPerBlock; ++i)
        slots[i].header =
            media::header_of(media::Magic::inode, journal_.blocks().fsid(), first.value() + i, 0);
    return slots;
}

Result<media::Inode *> Tx::edit_inode(BlockNo block, unsigned slot, InodeNo self) {
    Shadow *shadow = find(block);
    // A block that is being changed for one inode says nothing of the others in it.
    if (!shadow || !shadow->fresh) TRY(journal_.blocks().inode(block, slot, self));
    if (!shadow) {
        shadow = add(block, false);
        shadow->inodes = true;
    }
    return reinterpret_cast<media::Inode *>(shadow->bytes) + slot;
}

namespace {

// Which of the lines of two equally long pieces differ; bit i = line i.
std::uint64_t differing_lines(const std::byte *a, const std::byte *b, std::size_t lines) {
    std::uint64_t mask = 0;
    for (std::size_t i = 0; i < lines; ++i)
        if (std::memcmp(a + i * kLineSize, b + i * kLineSize, kLineSize) != 0)
            mask |= std::uint64_t{1} << i;
    return mask;
}

void finish(std::byte *bytes, std::size_t size, std::uint64_t seq) {
    reinterpret_cast<media::BlockHeader *>(bytes)->tx.set(seq);
    media::seal_block(std::span<std::byte>(bytes, size));
}

}  // namespace

// Finds the changed lines, and gives each changed block (inode) its number and checksum.  What is
// fresh is logged whole: nobody knows which of its lines the medium holds durably.
void Tx::finish_blocks(std::uint64_t seq) {
    constexpr std::size_t kInodeLines = kInodeSize / kLineSize;
    for (std::size_t i = 0; i < used_; ++i) {
        Shadow &shadow = shadows_[i];
        const std::byte *home = journal_.blocks().raw(shadow.block);
        if (shadow.inodes) {
            shadow.lines = 0;
            for (std::size_t slot = 0; slot < kInodesPerBlock; ++slot) {
                const std::size_t at = slot * kInodeSize;
                std::uint64_t mask =
                    shadow.fresh ? (std::uint64_t{1} << kInodeLines) - 1
                                 : differing_lines(shadow.bytes + at, home + at, kInodeLines);
                if (mask == 0) continue;
                finish(shadow.bytes + at, kInodeSize, seq);
                shadow.lines |= (mask | 1) << (slot * kInodeLines);
            }
            continue;
        }
        shadow.lines = shadow.fresh ? ~std::uint64_t{0}
                                    : differing_lines(shadow.bytes, home, media::kLinesPerBlock);
        if (shadow.lines == 0) continue;
        finish(shadow.bytes, kBlockSize, seq);
        shadow.lines |= 1;
    }
}

Result<TxSeq> Tx::commit() {
    PMFS_ASSERT(begun_);
    const auto seq = TRY(journal_.commit(*this));
    begun_ = false;
    used_ = 0;
    if (watcher_) watcher_->tx_committed(seq);
    return seq;
}

}  // namespace pmfs::journal
