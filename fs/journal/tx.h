// A transaction: the only way to change metadata.
//
//     Tx tx(journal);
//     TRY(tx.begin());                           // room in the ring; may ask to park
//     auto *node = TRY(tx.edit<NodeHeader>(block, Magic::node));   // a private copy to change
//     tx.after(std::move(data));                 // data that the new metadata refers to
//     TRY(tx.commit());                          // all of it or nothing, whatever happens
//
// edit() gives a copy in memory; nothing reaches the medium before commit(), which finds the lines
// that differ, sets transaction number and checksum of each changed block, appends one record to
// the ring, fences, and applies the lines to their homes.  So no change can be missing from the
// log, and dropping an uncommitted Tx undoes everything.  Code that changes a field or two of a
// large block names their lines, and only those are copied and compared; AddressSanitizer detects
// an access to other lines.  The volume's lock allows one Tx at a time.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "base/ids.h"
#include "base/result.h"
#include "journal/blocks.h"
#include "journal/journal.h"
#include "media/format.h"

namespace pmfs::journal {

// State in memory that must be committed or dropped together with a transaction (the allocator's).
class TxWatcher {
public:
    virtual ~TxWatcher() = default;
    virtual void tx_committed(TxSeq seq) = 0;
    virtual void tx_aborted() = 0;
};

// Lines of a block: bit i is bytes [64 i, 64 i + 64).
using Lines = std::uint64_t;
inline constexpr Lines kAllLines = ~Lines{0};
constexpr Lines lines_of(std::size_t offset, std::size_t size) {
    const std::size_t first = offset / media::kLineSize;
    const std::size_t count = (offset + size - 1) / media::kLineSize - first + 1;
    return (count == 64 ? kAllLines : (Lines{1} << count) - 1) << first;
}

class Tx {
public:
    explicit Tx(Journal &journal) : journal_(journal) {}
    ~Tx();  // what was not committed is undone
    Tx(const Tx &) = delete;
    Tx &operator=(const Tx &) = delete;

    // Makes sure that the ring has room for the largest record.  kParkErrno: see volume/types.h.
    Result<> begin();

    // Reads what this transaction has made of a block so far.  A block is of one kind: asking for
    // another one, here and below, is EUCLEAN, because only a medium that contradicts itself leads
    // to that.  So is a change of more blocks than any operation makes.
    template <class T>
    Result<const T *> read(BlockNo block, media::Magic magic, Lines lines = kAllLines) {
        if (Shadow *s = find(block))
            return reinterpret_cast<const T *>(TRY(copied(*s, magic, lines)));
        return reinterpret_cast<const T *>(TRY(journal_.blocks().get(block, magic)));
    }
    Result<const media::Inode *> read_inode(BlockNo block, unsigned slot, InodeNo self) {
        if (const Shadow *s = find(block); s) {
            TRY(s->is(media::Magic::inode));
            if (s->has(slot)) return TRY(inode_in(s->bytes, slot, self));
        }
        return journal_.blocks().inode(block, slot, self);
    }
    // A copy of a block to change: `lines` of it are there, and those that were asked for before.
    // Stays where it is until the transaction ends.
    template <class T>
    Result<T *> edit(BlockNo block, media::Magic magic, Lines lines = kAllLines) {
        Shadow *s = find(block);
        if (s == nullptr) {
            TRY(journal_.blocks().get(block, magic));
            s = TRY(add(block, magic, false));
        }
        return reinterpret_cast<T *>(TRY(copied(*s, magic, lines | 1)));
    }
    Result<media::Inode *> edit_inode(BlockNo block, unsigned slot, InodeNo self);
    // A block that held nothing: zeroed, its header filled in.  All of it is logged.  EUCLEAN for a
    // block that this transaction has already, or that is never free: the bitmap is wrong.
    template <class T>
    Result<T *> fresh(BlockNo block, media::Magic magic) {
        return reinterpret_cast<T *>(TRY(make_fresh(block, magic)));
    }
    // An inode-table block that held nothing: eight free slots from `first` on.
    Result<media::Inode *> fresh_inodes(BlockNo block, InodeNo first);

    // Data that was written for this transaction: it is fenced before the record.
    void after(pm::Unfenced data) { data_.add(std::move(data)); }
    void watch(TxWatcher &watcher) { watcher_ = &watcher; }
    std::size_t blocks() const { return used_; }
    bool changes(BlockNo block) { return find(block) != nullptr; }

    // EIO: the medium failed while the transaction was prepared; nothing happened.
    Result<TxSeq> commit();

private:
    friend class Journal;
    static constexpr unsigned kInodeLines = media::kInodeSize / media::kLineSize;
    static constexpr Lines lines_of_slot(unsigned slot) {
        return ((Lines{1} << kInodeLines) - 1) << slot * kInodeLines;
    }
    struct Shadow {
        BlockNo block;
        media::Magic magic;  // inode: a block of inodes
        bool fresh;
        Lines copied;  // from home; of a block of inodes all lines of an inode, or none
        Lines lines;   // that differ from home; set by commit
        std::byte *bytes;

        bool inodes() const { return magic == media::Magic::inode; }
        bool has(unsigned slot) const { return (copied & lines_of_slot(slot)) != 0; }
        std::uint8_t slots() const {
            std::uint8_t mask = 0;
            for (unsigned slot = 0; slot < media::kInodesPerBlock; ++slot)
                mask |= static_cast<std::uint8_t>(has(slot) << slot);
            return mask;
        }
        Result<> is(media::Magic wanted) const {
            if (magic == wanted) return {};
            return corrupt("a pointer refers to a metadata block of another kind");
        }
    };

    Shadow *find(BlockNo block) {
        for (std::size_t i = 0; i < used_; ++i)
            if (shadows_[i].block == block) return &shadows_[i];
        return nullptr;
    }
    Result<Shadow *> add(BlockNo block, media::Magic magic, bool fresh);
    Result<std::byte *> copied(Shadow &shadow, media::Magic magic, Lines lines) {
        TRY(shadow.is(magic));
        if ((lines & ~shadow.copied) != 0) copy_lines(shadow, lines);
        return shadow.bytes;
    }
    void copy_lines(Shadow &shadow, Lines lines);
    Result<std::byte *> make_fresh(BlockNo block, media::Magic magic);
    static Result<media::Inode *> inode_in(const std::byte *block, unsigned slot, InodeNo self);
    void finish_blocks(std::uint64_t seq);

    Journal &journal_;
    std::array<Shadow, media::kTxBlocksMax> shadows_;
    std::size_t used_ = 0;
    pm::Unfenced data_;
    TxWatcher *watcher_ = nullptr;
    bool begun_ = false;
};

}  // namespace pmfs::journal
