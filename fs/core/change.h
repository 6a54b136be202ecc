// The engine's parts, and a change of metadata that they make together.
#pragma once
#include <cstdint>
#include <memory>

#include "base/errors.h"
#include "base/ids.h"
#include "base/result.h"
#include "journal/journal.h"
#include "journal/tx.h"
#include "media/format.h"

namespace pmfs::core {

class Allocator;

// The parts of the engine that all others need; owned by the volume, guarded by its lock.
struct Core {
    journal::Journal &journal;
    const media::Superblock &superblock;
    Allocator &allocator;

    journal::Blocks &blocks() const { return journal.blocks(); }
};

// One transaction; the allocator commits or undoes its state with it.
class Change {
public:
    explicit Change(Core &core);
    Change(const Change &) = delete;

    Result<> begin() { return tx_.begin(); }
    Result<TxSeq> commit() { return tx_.commit(); }

    Core &core() { return core_; }
    journal::Tx &tx() { return tx_; }
    // True if `more` further blocks certainly fit.
    bool has_room(std::size_t more) const { return tx_.blocks() + more <= media::kTxBlocksMax; }
    void after(pm::Unfenced data) { tx_.after(std::move(data)); }

    // Edits `lines` of a block that exists twice: a damaged copy is restored from the sound one.
    template <class T>
    Result<T *> edit_copy(BlockNo copy, BlockNo other, media::Magic magic, journal::Lines lines) {
        const auto found = tx_.edit<T>(copy, magic, lines);
        if (found.ok() || !is_damage(found.error())) return found;
        const T *sound = TRY(tx_.read<T>(other, magic));
        T *made = TRY(tx_.fresh<T>(copy, magic));
        copy_body(made, sound, sizeof(T));
        return made;
    }

private:
    static void copy_body(void *to, const void *from, std::size_t size);

    Core &core_;
    journal::Tx tx_;
};

// Reads metadata as a transaction sees it, or, without one, as it is on the medium.
class Reader {
public:
    explicit Reader(Core &core) : core_(core), tx_(nullptr) {}
    explicit Reader(Change &change) : core_(change.core()), tx_(&change.tx()) {}

    // `lines`: those that the caller looks at.
    template <class T>
    Result<const T *> get(BlockNo block, media::Magic magic,
                          journal::Lines lines = journal::kAllLines) const {
        if (tx_) return tx_->read<T>(block, magic, lines);
        return reinterpret_cast<const T *>(TRY(core_.blocks().get(block, magic)));
    }
    Result<const media::Inode *> inode(BlockNo block, unsigned slot, InodeNo self) const {
        if (tx_) return tx_->read_inode(block, slot, self);
        return core_.blocks().inode(block, slot, self);
    }
    Core &core() const { return core_; }

private:
    Core &core_;
    journal::Tx *tx_;
};

}  // namespace pmfs::core
