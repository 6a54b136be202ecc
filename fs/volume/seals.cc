// Seals: who may set them, what the file must fulfil, and what is written (docs/seal.md).
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <optional>

#include "core/extent_map.h"
#include "core/inode.h"
#include "core/protection.h"
#include "media/geometry.h"
#include "volume/attributes.h"
#include "volume/parts.h"
#include "volume/seal_modes.h"
#include "volume/trim.h"

namespace pmfs {

using core::Change;
using core::Reader;
using media::kBlockSize;

namespace {

SealLevel level_of(const media::Inode &inode) {
    const std::uint32_t flags = inode.flags.get();
    if ((flags & media::kSealed) == 0) return SealLevel::none;
    return (flags & media::kSealedFull) != 0 ? SealLevel::full : SealLevel::as_is;
}

Result<> may_seal(const MountOptions &options, const media::Inode &inode, const Caller &caller,
                  bool privileged) {
    if (!S_ISREG(inode.mode.get())) return Error(EINVAL, "only regular files have a block map");
    TRY(core::may_change(inode));
    if (privileged || caller.uid == 0) return {};
    if (options.owner_may_seal && caller.uid == inode.uid.get()) return {};
    return Error(EPERM, "only root may seal, or the owner on a mount with -o seal=owner");
}

}  // namespace

namespace {

// Sealing: first examines the whole map, then sets the seal.
class Seal final : public Operation {
public:
    Seal(Engine &e, InodeNo ino, SealLevel level, bool privileged)
        : Operation(e.claims, ino), e_(e), level_(level), privileged_(privileged) {}

    void lend(const Caller &caller) { caller_ = caller; }
    std::optional<FileBlock> bad_block() const { return bad_; }

    Hold hold() const override {
        return stage_ == Stage::scan || stage_ == Stage::fits ? Hold::shared : Hold::exclusive;
    }
    Result<bool> step() override {
        if (stage_ == Stage::scan || stage_ == Stage::fits) {
            e_.lock.assert_held_shared();
            return read_on();
        }
        e_.lock.assert_held();
        TRY(writable(e_));
        if (stage_ == Stage::begin) return begin();
        if (stage_ == Stage::trim) {
            if (TRY(trim_step(e_, ino_))) stage_ = Stage::begin;
            return false;
        }
        TRY(seal());
        return true;
    }

private:
    enum class Stage : std::uint8_t { begin, trim, fits, scan, seal };

    // True: the file has this seal already.
    Result<bool> begin() {
        const Reader reader(*e_.core);
        const auto *was = TRY(core::read_inode(reader, ino_));
        TRY(may_seal(e_.options, *was, caller_, privileged_));
        if (was->size.get() == 0) return Error(EINVAL, "an empty file has no block map to seal");
        if (level_of(*was) >= level_) return true;
        TRY(claim_.take());
        if ((was->flags.get() & media::kTrimPending) != 0) {
            stage_ = Stage::trim;
            return false;
        }
        TRY(core::ask(*was, e_.live.standing(ino_), core::Move::seal));
        scan_.emplace(*was);
        stage_ = level_ == SealLevel::full ? Stage::fits : Stage::scan;
        return false;
    }

    Result<bool> read_on() {
        const Reader reader(*e_.core);
        const auto *was = TRY(core::read_inode(reader, ino_));
        if (stage_ == Stage::fits) {
            const std::uint64_t unit = e_.superblock.mapping_unit.get() / kBlockSize;
            const FileBlock end = media::file_block_from(was->size.get());
            const FileBlock upto = std::min(end, at_ + kLookedAt * unit);
            FileBlock bad;
            const auto fits = core::check_mappable(reader, *was, ino_, at_, upto, unit, &bad);
            if (!fits.ok() && fits.error().errno_value() == EINVAL) bad_ = bad;
            TRY(Result<>(fits));
            at_ = upto;
            if (at_ == end) stage_ = Stage::scan;
            return false;
        }
        if (TRY(scan_->scan(reader, *was, ino_, kLookedAt))) stage_ = Stage::seal;
        return false;
    }

    Result<> seal() {
        const Reader reader(*e_.core);
        const auto *was = TRY(core::read_inode(reader, ino_));
        TRY(may_seal(e_.options, *was, caller_, privileged_));
        TRY(core::ask(*was, e_.live.standing(ino_), core::Move::seal));
        const bool cached_write = e_.live.counts(ino_).cached_write != 0;
        if (cached_write && e_.options.writeback) return Error(EBUSY, kKeptBack);
        if (cached_write && level_ != SealLevel::full && scan_->gaps())
            return Error(EBUSY, kGapsCached);
        Change change(*e_.core);
        TRY(change.begin());
        auto *inode = TRY(core::edit_inode(change, ino_));
        core::MapScan scan = *scan_;  // the commit may have to be repeated
        const auto digest = scan.digest();
        std::memcpy(inode->seal_digest, digest.data(), digest.size());
        inode->flags.set(inode->flags.get() | media::kSealed |
                         (level_ == SealLevel::full ? media::kSealedFull : 0u));
        touch(inode, false);
        TRY(change.commit());
        return {};
    }

    Engine &e_;
    const SealLevel level_;
    const bool privileged_;
    Caller caller_;
    Stage stage_ = Stage::begin;
    FileBlock at_;
    std::optional<FileBlock> bad_;
    std::optional<core::MapScan> scan_;
};

// Reads a whole map.  One that takes more than a step claims the inode.
class ReadMap : public Operation {
public:
    ReadMap(Engine &e, InodeNo ino) : Operation(e.claims, ino), e_(e) {}

    Hold hold() const override { return Hold::shared; }
    Result<bool> step() override {
        e_.lock.assert_held_shared();
        const Reader reader(*e_.core);
        const auto *inode = TRY(core::read_inode(reader, ino_));
        if (!scan_) {
            if (!TRY(begin(*inode))) return true;
            TRY(e_.claims.respect(ino_, &claim_));
            scan_.emplace(*inode);
        }
        if (!TRY(scan_->scan(reader, *inode, ino_, kLookedAt))) {
            const Result<> claimed = claim_.take();
            if (!claimed.ok()) scan_.reset();  // claimed by another: the map may change
            TRY(Result<>(claimed));
            return false;
        }
        TRY(finish(*inode));
        return true;
    }

protected:
    // False: there is no map to read.
    virtual Result<bool> begin(const media::Inode &inode) = 0;
    virtual Result<> finish(const media::Inode &inode) = 0;

    Engine &e_;
    std::optional<core::MapScan> scan_;
};

class CheckSeal final : public ReadMap {
public:
    using ReadMap::ReadMap;

private:
    Result<bool> begin(const media::Inode &inode) override {
        return (inode.flags.get() & media::kSealed) != 0 && !e_.live.seal_checked(ino_);
    }
    Result<> finish(const media::Inode &inode) override {
        if ((inode.flags.get() & media::kSealed) == 0) return {};  // unsealed meanwhile
        const auto digest = scan_->digest();
        if (std::memcmp(digest.data(), inode.seal_digest, digest.size()) != 0)
            return corrupt("a sealed file's block map is not the one that was sealed");
        e_.live.set_seal_checked(ino_, true);
        return {};
    }
};

class ReadInfo final : public ReadMap {
public:
    using ReadMap::ReadMap;
    const FileInfo &info() const { return info_; }

private:
    Result<bool> begin(const media::Inode &inode) override {
        info_.attr = attr_of(e_, ino_, inode);
        return S_ISREG(inode.mode.get());
    }
    Result<> finish(const media::Inode &inode) override {
        info_.attr = attr_of(e_, ino_, inode);
        info_.seal = level_of(inode);
        info_.in_trim = (inode.flags.get() & media::kTrimPending) != 0;
        info_.extents = scan_->extents();
        const auto digest = scan_->digest();
        std::memcpy(info_.digest, digest.data(), digest.size());
        const auto counts = e_.live.counts(ino_);
        info_.grants = counts.grants;
        info_.handles_cached = counts.cached;
        info_.handles_cached_write = counts.cached_write;
        info_.handles_direct = counts.direct;
        return {};
    }

    FileInfo info_;
};

}  // namespace

// A sealed map must be the one that was sealed: compared once as long as the inode is referenced.
Result<> Volume::check_seal(InodeNo ino, const Caller &caller) {
    Engine &e = parts_->engine;
    {
        SharedLock held(e.lock);
        const auto *inode = TRY(core::read_inode(Reader(*e.core), ino));
        if ((inode->flags.get() & media::kSealed) == 0 || e.live.seal_checked(ino)) return {};
    }
    auto operation = resumed_or_new<CheckSeal>(caller.progress, ino, e, ino);
    return parts_->scheduler.run_or_keep(operation, caller.progress);
}

Result<> Volume::seal(InodeNo ino, SealLevel level, const Caller &caller, bool privileged,
                      std::uint64_t *bad_offset) {
    Engine &e = parts_->engine;
    if (level == SealLevel::none) return Error(EINVAL, "the level of a seal must be as-is or full");
    TRY(writable(e));
    auto operation = resumed_or_new<Seal>(caller.progress, ino, e, ino, level, privileged);
    operation->lend(caller);
    const Result<> done = parts_->scheduler.unless_closed_soon(
        caller.progress, parts_->scheduler.run_or_keep(operation, caller.progress));
    if (operation && operation->bad_block() && bad_offset != nullptr)
        *bad_offset = media::byte_of(*operation->bad_block());
    operation.reset();
    TRY(Result<>(done));
    // What is sealed already may be so by a call that is not durable yet: wait for that as well.
    return parts_->commits.make_durable();
}

Result<> Volume::unseal(InodeNo ino, const Caller &caller, bool privileged) {
    Engine &e = parts_->engine;
    TRY(writable(e));
    // What is sealed already may be so by a call that is not durable yet: wait for that as well.
    const auto unseal = [&]() -> Result<> {
        ExclusiveLock held(e.lock);
        const auto *was = TRY(core::read_inode(Reader(*e.core), ino));
        TRY(may_seal(e.options, *was, caller, privileged));
        if (level_of(*was) == SealLevel::none) return {};
        TRY(core::ask(*was, e.holders->standing(ino), core::Move::unseal));
        Change change(*e.core);
        TRY(change.begin());
        auto *inode = TRY(core::edit_inode(change, ino));
        inode->flags.set(inode->flags.get() & ~(media::kSealed | media::kSealedFull));
        std::memset(inode->seal_digest, 0, sizeof inode->seal_digest);
        touch(inode, false);
        TRY(change.commit());
        return {};
    };
    Result<> done = unseal();
    // A holder may have ended just now, and we hear of it later than the caller.
    if (!done.ok() && done.error().errno_value() == EBUSY) {
        e.holders->end_with_processes(ino);
        done = unseal();
    }
    TRY(parts_->scheduler.unless_closed_soon(caller.progress, std::move(done)));
    return parts_->commits.make_durable();
}

Result<> Volume::seal_by_fallocate(HandleId handle, InodeNo ino, unsigned mode,
                                   std::uint64_t offset, std::uint64_t length,
                                   const Caller &caller) {
    Engine &e = parts_->engine;
    {
        SharedLock held(e.lock);
        const auto *inode = TRY(core::read_inode(Reader(*e.core), ino));
        if (offset != 0 || length < inode->size.get() || length == 0)
            return Error(EINVAL,
                         "a seal covers the whole file: offset 0, length at least its size");
    }
    const auto opened = e.live.handle(handle);
    if (!opened || opened->ino != ino || !opened->write)
        return Error(EBADF, "the file is not open for writing");
    if (mode == kUnsealMode) return unseal(ino, caller, false);
    std::uint64_t bad = 0;
    return seal(ino, SealLevel::full, caller, false, &bad);
}

Result<FileInfo> Volume::file_info(InodeNo ino, Progress *progress) {
    Engine &e = parts_->engine;
    auto operation = resumed_or_new<ReadInfo>(progress, ino, e, ino);
    TRY(parts_->scheduler.run_or_keep(operation, progress));
    return operation->info();
}

Result<std::size_t> Volume::extents(InodeNo ino, FileBlock from, std::span<Extent> out) {
    Engine &engine = parts_->engine;
    SharedLock held(engine.lock);
    const Reader reader(*engine.core);
    const auto *inode = TRY(core::read_inode(reader, ino));
    if (!S_ISREG(inode->mode.get())) return Error(EINVAL, "only regular files have a block map");
    std::size_t n = 0;
    while (n < out.size()) {
        const Extent e = TRY(core::next_extent(reader, *inode, ino, from));
        if (e.hole() || e.file_block >= core::kDonorRange) break;
        out[n++] = e;
        from = e.end();
    }
    return n;
}

}  // namespace pmfs
