// Reading and setting the attributes of a file, including its size.
#include <sys/stat.h>

#include <algorithm>
#include <optional>

#include "core/extent_map.h"
#include "core/inode.h"
#include "core/protection.h"
#include "core/seal.h"
#include "media/geometry.h"
#include "volume/acls.h"
#include "volume/asking.h"
#include "volume/attributes.h"
#include "volume/data.h"
#include "volume/parts.h"
#include "volume/trim.h"

namespace pmfs {

using core::Change;
using core::Move;
using core::Reader;
using media::file_block_from;
using media::file_block_of;

Result<Attr> Volume::getattr(InodeNo ino) {
    Engine &e = parts_->engine;
    SharedLock held(e.lock);
    const auto *inode = TRY(core::read_inode(Reader(*e.core), ino));
    return attr_of(e, ino, *inode);
}

void Volume::set_attribute_watcher(AttributeWatcher &watcher) {
    parts_->engine.attribute_watcher = &watcher;
}

namespace {

// setattr: the size, then the blocks behind it, then the rest.  Blocks that pins bind to their
// place stay there behind the end of the file, and are zeroed.
class SetAttributes final : public Operation {
public:
    SetAttributes(Engine &e, InodeNo ino, const SetAttr &set)
        : Operation(e.claims, ino), e_(e), set_(set) {}

    void lend(const Caller &caller) { caller_ = caller; }
    const Attr &attr() const { return attr_; }
    bool killed() const { return mode_before_ != attr_.mode; }

    Result<bool> step() override {
        e_.lock.assert_held();
        TRY(writable(e_));
        if (stage_ == Stage::begin) TRY(begin());
        if (stage_ == Stage::trim) {
            if (!TRY(trim_step(e_, ino_))) return false;
            stage_ = !sized_ ? Stage::size : around_left() ? Stage::around : Stage::rest;
        }
        if (stage_ == Stage::size) {
            if (!TRY(zero_ahead(*set_.size))) return false;
            TRY(set_size(*set_.size));
            if (stage_ != Stage::rest) return false;
        }
        if (stage_ == Stage::around) {
            if (!TRY(clear_around())) return false;
            stage_ = Stage::rest;
        }
        TRY(set_rest());
        return true;
    }

private:
    enum class Stage : std::uint8_t { begin, trim, size, around, rest };

    Result<> begin() {
        const auto *was = TRY(core::read_inode(Reader(*e_.core), ino_));
        mode_before_ = was->mode.get();
        if (set_.mode || set_.uid || set_.gid || set_.size || set_.times_given)
            TRY(core::may_change(*was));
        const bool asked = (set_.atime || set_.mtime) && !set_.times_kept;
        if (asked || set_.kill_suid_sgid) TRY(core::may_touch(*was));
        if (set_.only_kills) TRY(may_kill(*was));
        if (!set_.size) {
            stage_ = Stage::rest;
            return {};
        }
        if (*set_.size > media::kFileSizeMax) return Error(EFBIG, "a file has at most 2^50 bytes");
        if (S_ISDIR(was->mode.get())) return Error(EISDIR, "it is a directory");
        if (!S_ISREG(was->mode.get())) return Error(EINVAL, "it is not a regular file");
        TRY(e_.claims.respect(ino_, &claim_));
        stage_ = Stage::size;
        if ((was->flags.get() & media::kTrimPending) == 0) return {};
        TRY(claim_.take());
        stage_ = Stage::trim;
        return {};
    }

    // chown(path, -1, -1) by a stranger would clear set-id bits.  The kernel leaves the check to
    // us, and sends the same request before a write, for which the file must be open.
    Result<> may_kill(const media::Inode &was) {
        constexpr std::uint32_t kBits = S_ISUID | S_ISGID;
        if ((was.mode.get() & kBits) == 0 || S_ISDIR(was.mode.get())) return {};
        if (caller_.uid == 0 || caller_.uid == was.uid.get()) return {};
        const auto counts = e_.live.counts(ino_);
        if (counts.cached_write != 0 || counts.direct_write != 0) return {};
        return Error(EPERM, "only its owner may clear the set-id bits of a file");
    }

    // Zeroes what the file grows over, a step at a time, because many blocks may be bound there.
    Result<bool> zero_ahead(std::uint64_t size) REQUIRES(e_.lock) {
        TRY(e_.claims.respect(ino_, &claim_));
        const auto *was = TRY(core::read_inode(Reader(*e_.core), ino_));
        const std::uint64_t old = was->size.get();
        if (size <= old) return true;
        if (zeroed_ == 0)
            TRY(e_.holders->permit_around(ino_, *was, Move::truncate, file_block_from(old),
                                          core::kLastBlock));
        TRY(claim_.take());  // so that no other operation makes it longer and then shorter
        zeroed_ = TRY(zero_step(e_, ino_, std::max(zeroed_, old), size));
        return zeroed_ == size;
    }

    // Clears the blocks behind the end, up to the last bound one: they may be mapped.
    Result<bool> clear_around() REQUIRES(e_.lock) {
        const FileBlock from = file_block_from(around_);
        const std::uint64_t tail = media::byte_of(from);
        if (around_ < tail) {
            around_ = TRY(zero_step(e_, ino_, around_, tail));
            return false;
        }
        around_ = media::byte_of(TRY(clear_step(e_, ino_, from, bound_end_, /*punch=*/true)));
        return around_ >= media::byte_of(bound_end_);
    }
    bool around_left() const { return around_ < media::byte_of(bound_end_); }

    Result<> set_size(std::uint64_t size) {
        TRY(e_.claims.respect(ino_, &claim_));
        const Reader reader(*e_.core);
        const auto *was = TRY(core::read_inode(reader, ino_));
        const std::uint64_t old = was->size.get();
        const FileBlock from = file_block_from(size);
        // To the same size: only blocks behind the end are freed; without any, the seal need not be
        // asked.
        const bool changes =
            size != old || !TRY(core::next_extent(reader, *was, ino_, from)).hole();
        std::optional<core::MapPermit> allowed;
        // A file that grows keeps the block that contains its end.
        const FileBlock reaches = size < old ? file_block_of(size) : file_block_from(old);
        if (changes)
            allowed = TRY(
                e_.holders->permit_around(ino_, *was, Move::truncate, reaches, core::kLastBlock));
        const FileBlock bound_end = e_.live.bound_end(ino_), keep = std::max(from, bound_end);
        Change change(*e_.core);
        TRY(change.begin());
        auto *inode = TRY(core::edit_inode(change, ino_));
        inode->size.set(size);
        touch(inode, true);
        bool all = true;
        e_.live.not_dense_from(ino_, from);
        if (size <= old && changes && !TRY(core::map_trim(change, inode, ino_, keep, *allowed))) {
            all = false;
            inode->flags.set(inode->flags.get() | media::kTrimPending);
            inode->trim_from.set(keep.value());
            // Without a name it is on the list already.
            if (inode->nlink.get() != 0) TRY(core::add_orphan(change, ino_, inode));
        }
        TRY(change.commit());
        sized_ = true;
        around_ = size;
        if (size <= old && changes) bound_end_ = bound_end;
        if (keep > from) e_.live.bound_behind_end(ino_);
        stage_ = !all ? Stage::trim : around_left() ? Stage::around : Stage::rest;
        if (stage_ != Stage::rest) return claim_.take();
        return best_effort(core::map_tidy(*e_.core, ino_, core::kLastBlock));
    }

    Result<> set_rest() REQUIRES(e_.lock) {
        if (set_.size || set_.uid || set_.gid || set_.kill_suid_sgid)
            TRY(drop_capability(e_, ino_));
        if (set_.mode) TRY(acl_make_room(e_, ino_));
        Change change(*e_.core);
        TRY(change.begin());
        auto *inode = TRY(core::edit_inode(change, ino_));
        if (set_.mode) {
            TRY(acl_follows(change, inode, ino_, *set_.mode));
            inode->mode.set((inode->mode.get() & S_IFMT) | (*set_.mode & 07777));
        }
        if (set_.uid) inode->uid.set(*set_.uid);
        if (set_.gid) inode->gid.set(*set_.gid);
        // A mode in the same request has decided about these bits already.
        if (set_.kill_suid_sgid && !set_.mode) kill_setid(inode, set_.kill_any_sgid);
        if (set_.atime) inode->atime = core::to_media(*set_.atime);
        if (set_.mtime) inode->mtime = core::to_media(*set_.mtime);
        inode->ctime = core::to_media(set_.ctime ? *set_.ctime : now_coarse());
        attr_ = attr_of(e_, ino_, *inode);
        TRY(change.commit());
        return {};
    }

    Engine &e_;
    const SetAttr set_;
    Caller caller_;
    Stage stage_ = Stage::begin;
    bool sized_ = false;
    std::uint64_t zeroed_ = 0;  // up to here what the file grows over is zero; bytes
    std::uint64_t around_ = 0;  // from there to bound_end_ is to be cleared; bytes
    FileBlock bound_end_;
    std::uint32_t mode_before_ = 0;
    Attr attr_;
};

}  // namespace

Result<Attr> Volume::setattr(InodeNo ino, const SetAttr &set, const Caller &caller) {
    bool killed = false;
    return set_attributes(ino, set, caller, &killed);
}

Result<Attr> Volume::set_attributes(InodeNo ino, const SetAttr &set, const Caller &caller,
                                    bool *killed) {
    Engine &e = parts_->engine;
    TRY(writable(e));
    return asking(e, caller, [&]() -> Result<Attr> {
        auto operation = resumed_or_new<SetAttributes>(caller.progress, ino, e, ino, set);
        operation->lend(caller);
        TRY(parts_->scheduler.run_or_keep(operation, caller.progress));
        *killed = operation->killed();
        return operation->attr();
    });
}

}  // namespace pmfs
