// A transaction's copies and their finishing: see tx.h.
#include "journal/tx.h"

#include <sanitizer/asan_interface.h>

#include <array>
#include <bit>
#include <cstring>

#include "base/assert.h"
#include "base/crc32c.h"
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

Result<Tx::Shadow *> Tx::add(BlockNo block, media::Magic magic, bool fresh) {
    PMFS_ASSERT(begun_);
    if (used_ == shadows_.size())
        return corrupt("a transaction would change more blocks than any may");
    Shadow &shadow = shadows_[used_];
    shadow = {block, magic, fresh, 0, 0, journal_.shadows_.get() + used_ * kBlockSize};
    ++used_;
    if (fresh) {
        ASAN_UNPOISON_MEMORY_REGION(shadow.bytes, kBlockSize);
        std::memset(shadow.bytes, 0, kBlockSize);
        shadow.copied = kAllLines;
    } else {
        ASAN_POISON_MEMORY_REGION(shadow.bytes, kBlockSize);
    }
    return &shadow;
}

void Tx::copy_lines(Shadow &shadow, Lines lines) {
    const std::byte *home = journal_.blocks().raw(shadow.block);
    for (Lines missing = lines & ~shadow.copied; missing != 0; missing &= missing - 1) {
        const std::size_t at = static_cast<std::size_t>(std::countr_zero(missing)) * kLineSize;
        ASAN_UNPOISON_MEMORY_REGION(shadow.bytes + at, kLineSize);
        std::memcpy(shadow.bytes + at, home + at, kLineSize);
    }
    shadow.copied |= lines;
}

Result<std::byte *> Tx::make_fresh(BlockNo block, media::Magic magic) {
    if (find(block) || !journal_.homes_.allow(block))
        return corrupt("a block that is in use was allocated");
    TRY(journal_.blocks().check_present(block));  // its home will be stored to
    Shadow *shadow = TRY(add(block, magic, true));
    const auto header = media::header_of(magic, journal_.blocks().fsid(), block.value(), 0);
    if (!shadow->inodes()) std::memcpy(shadow->bytes, &header, sizeof header);
    return shadow->bytes;
}

Result<media::Inode *> Tx::fresh_inodes(BlockNo block, InodeNo first) {
    auto *slots = reinterpret_cast<media::Inode *>(TRY(make_fresh(block, media::Magic::inode)));
    for (std::uint64_t i = 0; i < kInodesPerBlock; ++i)
        slots[i].header =
            media::header_of(media::Magic::inode, journal_.blocks().fsid(), first.value() + i, 0);
    return slots;
}

// One block may have been used for two entries of the table.
Result<media::Inode *> Tx::inode_in(const std::byte *block, unsigned slot, InodeNo self) {
    auto *inode = reinterpret_cast<media::Inode *>(const_cast<std::byte *>(block)) + slot;
    if (inode->header.self.get() == self.value()) return inode;
    return corrupt("an inode is not in its place");
}

Result<media::Inode *> Tx::edit_inode(BlockNo block, unsigned slot, InodeNo self) {
    Shadow *shadow = find(block);
    if (shadow) TRY(shadow->is(media::Magic::inode));
    if (!shadow || !shadow->has(slot)) {
        TRY(journal_.blocks().inode(block, slot, self));
        if (!shadow) shadow = TRY(add(block, media::Magic::inode, false));
        copy_lines(*shadow, lines_of_slot(slot));
    }
    return inode_in(shadow->bytes, slot, self);
}

namespace {

// Which of `lines` differ.
Lines differing(const std::byte *a, const std::byte *b, Lines lines) {
    Lines mask = 0;
    for (; lines != 0; lines &= lines - 1) {
        const auto line = static_cast<std::size_t>(std::countr_zero(lines));
        if (std::memcmp(a + line * kLineSize, b + line * kLineSize, kLineSize) != 0)
            mask |= Lines{1} << line;
    }
    return mask;
}

void finish(std::byte *bytes, std::size_t size, std::uint64_t seq) {
    reinterpret_cast<media::BlockHeader *>(bytes)->tx.set(seq);
    media::seal_block(std::span<std::byte>(bytes, size));
}

constexpr int kFewLines = 10;

// The same for a block of which few lines differ from its home, the first one always among them:
// from the checksum that the home has, for a CRC is linear.  With few lines that is cheaper than
// reading the whole block, and damage that happened to another line meanwhile is not covered by a
// new checksum.
void finish_lines(std::byte *bytes, const std::byte *home, Lines lines, std::uint64_t seq) {
    auto *header = reinterpret_cast<media::BlockHeader *>(bytes);
    header->tx.set(seq);
    header->crc32c = reinterpret_cast<const media::BlockHeader *>(home)->crc32c;  // it counts as 0
    std::uint32_t crc = header->crc32c.get();
    for (; lines != 0; lines &= lines - 1) {
        const std::size_t at = static_cast<std::size_t>(std::countr_zero(lines)) * kLineSize;
        std::array<std::byte, kLineSize> difference;
        for (std::size_t i = 0; i < kLineSize; ++i) difference[i] = bytes[at + i] ^ home[at + i];
        crc ^= crc32c_of_change(difference, kBlockSize - at - kLineSize);
    }
    header->crc32c.set(crc);
}

}  // namespace

// Finds the changed lines, and gives each changed block (inode) its number and checksum.  A fresh
// block is logged as a whole: which of its lines are durable on the medium is unknown.
void Tx::finish_blocks(std::uint64_t seq) {
    for (std::size_t i = 0; i < used_; ++i) {
        Shadow &shadow = shadows_[i];
        const std::byte *home = journal_.blocks().raw(shadow.block);
        shadow.lines = shadow.fresh ? kAllLines : differing(shadow.bytes, home, shadow.copied);
        if (shadow.inodes()) {
            for (unsigned slot = 0; slot < kInodesPerBlock; ++slot) {
                const Lines all = lines_of_slot(slot);
                if ((shadow.lines & all) == 0) continue;
                finish(shadow.bytes + slot * kInodeSize, kInodeSize, seq);
                shadow.lines |= all & ~(all << 1);  // the first one
            }
            continue;
        }
        if (shadow.lines == 0) continue;
        shadow.lines |= 1;
        if (std::popcount(shadow.lines) <= kFewLines) {
            finish_lines(shadow.bytes, home, shadow.lines, seq);
        } else {
            copy_lines(shadow, kAllLines);
            finish(shadow.bytes, kBlockSize, seq);
        }
    }
}

Result<TxSeq> Tx::commit() {
    PMFS_ASSERT(begun_);
    if (pm::NoWaiting::met())
        return Error(kAbsentErrno, "a transaction needs a block of metadata that is not in memory");
    const auto seq = TRY(journal_.commit(*this));
    pm::NoWaiting::end();
    begun_ = false;
    used_ = 0;
    if (watcher_) watcher_->tx_committed(seq);
    return seq;
}

}  // namespace pmfs::journal
