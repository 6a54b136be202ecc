// Metadata blocks as they are on the medium, verified at their first touch after mount.
//
// A block that is not whole, not ours or not in its place is never returned: EUCLEAN.  The check
// costs 0.2 us and more, so its result is remembered for each block; scrubbing forgets it.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>

#include "base/assert.h"
#include "base/ids.h"
#include "base/result.h"
#include "media/format.h"
#include "media/geometry.h"
#include "pm/no_waiting.h"
#include "pm/region.h"

namespace pmfs::journal {

class Blocks {
public:
    Blocks(const pm::Region &region, const media::Superblock &superblock);
    ~Blocks();
    Blocks(const Blocks &) = delete;
    Blocks &operator=(const Blocks &) = delete;

    // False: no memory to note which blocks were verified.
    bool ok() const { return touched_ != nullptr; }
    std::uint64_t count() const { return count_; }
    // Reserves memory to note which of `count` blocks were verified (ENOMEM), and sets their
    // number. With the volume's lock held exclusively.
    Result<> reserve(std::uint64_t count);
    void grow(std::uint64_t count) {
        PMFS_ASSERT(count >= count_ && count <= room_);
        count_ = count;
    }
    std::uint64_t fsid() const { return fsid_; }
    const std::byte *raw(BlockNo block) const { return region_.meta() + media::byte_of(block); }

    // A whole 4 KiB block whose header says `magic`.
    Result<const std::byte *> get(BlockNo block, media::Magic magic);
    // One inode slot of an inode-table block; `self` is the inode number that it must carry.
    Result<const media::Inode *> inode(BlockNo block, unsigned slot, InodeNo self);

    // A commit wrote it, or these of its inodes: there is nothing to verify.
    static constexpr std::uint8_t kWhole = 1;
    void mark_verified(BlockNo block, std::uint8_t inodes = kWhole) {
        touched_[block.value()].fetch_or(inodes, std::memory_order_relaxed);
    }
    // A block that is whole and ours may still be inconsistent: its user checks that at first
    // touch.
    using SaneCheck = bool (*)(const std::byte *block, media::Magic magic);
    void set_sane_check(SaneCheck check) { sane_ = check; }
    // kAbsentErrno: the block is not in memory, and this thread does not wait (pm/no_waiting.h).
    Result<> check_present(BlockNo block) const {
        if (!pm::NoWaiting::on()) [[likely]]
            return {};
        return look_for(block);
    }
    // Tests: blocks for which it returns true count as not in memory.
    void set_absent_hook(std::function<bool(BlockNo)> hook) { absent_hook_ = std::move(hook); }
    // It does not contain metadata any more.
    void forget(BlockNo block) { touched_[block.value()].store(0, std::memory_order_relaxed); }

private:
    // If the bitmaps do not mark a block as metadata it contains what a file's owner wrote, and may
    // change at any moment.
    Result<> check_class(BlockNo block);
    Result<> look_for(BlockNo block) const;

    const pm::Region &region_;
    const std::uint64_t fsid_;
    std::uint64_t count_, room_;
    const bool knows_all_fields_;
    // One byte for each block, one bit for each inode slot (a whole block uses bit 0).  Its pages
    // are allocated when touched, so a volume of 1 TiB with few files costs little.
    std::atomic<std::uint8_t> *touched_;
    SaneCheck sane_ = nullptr;
    std::function<bool(BlockNo)> absent_hook_;
};

}  // namespace pmfs::journal
