// Freeing without a name: see reaper.h.
#include "volume/reaper.h"

#include <sys/stat.h>

#include "core/btree.h"
#include "core/extent_map.h"
#include "core/inode.h"
#include "core/xattr.h"
#include "media/geometry.h"
#include "volume/trim.h"

namespace pmfs {

using core::Change;
using core::Reader;

// An inode that is to be trimmed is on the list already.
Result<> orphan(Change &change, InodeNo ino, media::Inode *inode) {
    if ((inode->flags.get() & media::kTrimPending) != 0) return {};
    return core::add_orphan(change, ino, inode);
}

namespace {

// Frees the blocks of an inode without a name, and the inode.  No request waits for it, and the
// next mount continues it.
class Reap final : public Operation {
public:
    Reap(Engine &e, InodeNo ino) : Operation(e.claims, ino), e_(e) {}

    Result<bool> step() override {
        e_.lock.assert_held();
        switch (stage_) {
            case Stage::begin:
                return begin();
            case Stage::blocks:
                if (TRY(free_blocks())) stage_ = Stage::xattrs;
                return false;
            case Stage::xattrs:
                if (TRY(free_xattr())) stage_ = Stage::xattr_tree;
                return false;
            case Stage::xattr_tree:
                if (TRY(clear_tree_step(e_, ino_, media::TreeKind::xattr))) stage_ = Stage::tree;
                return false;
            case Stage::tree:
                if (TRY(clear_tree_step(
                        e_, ino_, directory_ ? media::TreeKind::directory : media::TreeKind::map)))
                    stage_ = Stage::inode;
                return false;
            case Stage::inode:
                break;
        }
        TRY(free_inode());
        return true;
    }

private:
    enum class Stage : std::uint8_t { begin, blocks, xattrs, xattr_tree, tree, inode };

    // True: there is nothing to do.
    Result<bool> begin() {
        const auto inode = core::read_inode(Reader(*e_.core), ino_);
        // It may have been freed meanwhile, and its number may belong to another file.
        if (!inode.ok() || inode.value()->nlink.get() != 0) return true;
        if (!e_.live.mark_unlinked(ino_)) return true;  // the last reference will reap it
        TRY(claim_.take(ClaimFor::freeing));
        directory_ = S_ISDIR(inode.value()->mode.get());
        stage_ = directory_ ? Stage::xattrs : Stage::blocks;
        return false;
    }

    Result<bool> free_blocks() {
        Change change(*e_.core);
        TRY(change.begin());
        auto *inode = TRY(core::edit_inode(change, ino_));
        const auto permit = TRY(core::permit(*inode, {}, core::Move::reap));
        const bool all = TRY(core::map_trim(change, inode, ino_, FileBlock(0), permit));
        TRY(change.commit());
        TRY(best_effort(core::map_tidy(*e_.core, ino_, core::kLastBlock)));
        return all;
    }

    Result<bool> free_xattr() {
        const auto *was = TRY(core::read_inode(Reader(*e_.core), ino_));
        if (was->xattr_root.get() == 0) return true;
        Change change(*e_.core);
        TRY(change.begin());
        auto *inode = TRY(core::edit_inode(change, ino_));
        auto removed = core::remove_any_xattr(change, inode, ino_);
        if (!removed.ok() && removed.error().errno_value() == ENODATA) return true;
        TRY(std::move(removed));
        TRY(change.commit());
        TRY(best_effort(core::tree_tidy(*e_.core, {ino_, media::TreeKind::xattr}, 0)));
        return false;
    }

    Result<> free_inode() {
        Change change(*e_.core);
        TRY(change.begin());
        auto *inode = TRY(core::edit_inode(change, ino_));
        if (inode->nlink.get() != 0) return corrupt("an inode to be freed has a name");
        TRY(core::remove_orphan(change, ino_, inode));
        TRY(core::free_inode(change, ino_, inode));
        TRY(change.commit());
        e_.allocator->release_reservation(ino_.value());
        return {};
    }

    Engine &e_;
    Stage stage_ = Stage::begin;
    bool directory_ = false;
};

// Frees the blocks behind the end of a file.
class Trim final : public Operation {
public:
    Trim(Engine &e, InodeNo ino) : Operation(e.claims, ino), e_(e) {}

    Result<bool> step() override {
        e_.lock.assert_held();
        if (!begun_ && TRY(begin())) return true;
        begun_ = true;
        return trim_step(e_, ino_);
    }

private:
    // True: there is nothing to do.
    Result<bool> begin() {
        TRY(e_.claims.respect(ino_, &claim_));
        const auto inode = core::read_inode(Reader(*e_.core), ino_);
        // A file without a name is freed as a whole.
        if (!inode.ok() || inode.value()->nlink.get() == 0) return true;
        const FileBlock from = media::file_block_from(inode.value()->size.get());
        if (!e_.holders->permit(ino_, *inode.value(), core::Move::truncate, from, core::kLastBlock)
                 .ok())
            return true;
        TRY(claim_.take());
        if ((inode.value()->flags.get() & media::kTrimPending) != 0) return false;
        e_.live.not_dense_from(ino_, from);
        Change change(*e_.core);
        TRY(change.begin());
        auto *edited = TRY(core::edit_inode(change, ino_));
        edited->flags.set(edited->flags.get() | media::kTrimPending);
        edited->trim_from.set(from.value());
        TRY(core::add_orphan(change, ino_, edited));
        TRY(change.commit());
        return false;
    }

    Engine &e_;
    bool begun_ = false;
};

}  // namespace

void Reaper::reap(InodeNo ino) {
    go_on(std::make_shared<Reap>(engine_, ino));
}

void Reaper::trim(InodeNo ino) {
    go_on(std::make_shared<Trim>(engine_, ino));
}

// Damage ends it.
void Reaper::go_on(const std::shared_ptr<Operation> &operation) {
    for (;;) {
        const Result<> done = scheduler_.run(*operation);
        if (done.ok() || !must_park(done.error())) return;
        auto again = [this, operation] { go_on(operation); };
        if (done.error().errno_value() == kClaimErrno)
            return engine_.claims.wait(operation->ino(), std::move(again));
        if (!engine_.options.no_background) return commits_.park(0, std::move(again));
        if (!commits_.now(true).ok()) return;
    }
}

static Result<> finish(Engine &e, InodeNo ino) REQUIRES(e.lock) {
    Reap reap(e, ino);
    while (!TRY(reap.step())) {
    }
    return {};
}

// Finishes what a crash interrupted: frees inodes without a name, completes truncations and moves.
// Damage ends it for a group: the rest of its list keeps taking space, but no file needs it.
Result<> finish_orphans(Engine &e) {
    const core::Reader reader(*e.core);
    const core::GroupSet &groups = e.allocator->map().listed(true);
    for (auto g = groups.search(GroupNo(0)); g; g = groups.search(*g + 1)) {
        for (std::uint64_t last = 0;;) {
            const InodeNo ino(TRY(core::read_summary(reader, *g))->orphan_head.get());
            const auto inode = core::read_inode(reader, ino);
            if (!inode.ok() || last == ino.value()) break;  // empty, or it does not get shorter
            auto done = inode.value()->nlink.get() == 0 ? finish(e, ino) : settle_trim(e, ino);
            if (!done.ok() && must_park(done.error())) {
                TRY(make_room(e));
                continue;
            }
            if (!done.ok()) break;
            last = ino.value();
        }
    }
    return {};
}

namespace {

// Visits files that have no name and are not open, until `visit` returns that it has seen enough.
template <class Visit>
void visit_leaving(Engine &e, const Visit &visit) REQUIRES_SHARED(e.lock) {
    constexpr int kOrphansMax = 10000;
    const core::Reader reader(*e.core);
    int looked_at = 0;
    const core::GroupSet &groups = e.allocator->map().listed(true);
    for (auto g = groups.search(GroupNo(0)); g; g = groups.search(*g + 1)) {
        const auto summary = core::read_summary(reader, *g);
        std::uint64_t next = summary.ok() ? summary.value()->orphan_head.get() : 0;
        for (; next != 0 && looked_at < kOrphansMax; ++looked_at) {
            const InodeNo ino(next);
            const auto inode = core::read_inode(reader, ino);
            if (!inode.ok()) break;
            next = inode.value()->next.get();
            const auto counts = e.live.counts(ino);
            const bool used = counts.cached + counts.direct + counts.grants != 0;
            if (inode.value()->nlink.get() == 0 && !used && !visit(*inode.value())) return;
        }
    }
}

}  // namespace

std::uint64_t leaving_blocks(Engine &e) {
    std::uint64_t blocks = 0;
    visit_leaving(e, [&](const media::Inode &inode) {
        blocks += inode.blocks.get();
        return true;
    });
    return blocks;
}

bool files_leave(Engine &e) {
    bool any = false;
    visit_leaving(e, [&](const media::Inode &) {
        any = true;
        return false;
    });
    return any;
}

}  // namespace pmfs
