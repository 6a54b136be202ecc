// Renaming: one transaction, no matter what is replaced, moved or exchanged.
#include <dirent.h>
#include <linux/fs.h>
#include <sys/stat.h>

#include "core/dir.h"
#include "core/inode.h"
#include "core/protection.h"
#include "volume/attributes.h"
#include "volume/new_inode.h"
#include "volume/parts.h"

namespace pmfs {

using core::Change;
using core::Name;
using core::Reader;

namespace {

// How many directories one step walks through: users may nest them without limit.
constexpr unsigned kStepsAtOnce = 512;

// True when `ino` is `dir` or one of the directories above it.  Other operations run meanwhile, but
// none moves a directory (Parts::moving).
Result<bool> is_above(Engine &e, InodeNo ino, InodeNo dir) EXCLUDES(e.lock) {
    InodeNo seen = dir;  // found again if there is a cycle (Brent, 1980)
    for (std::uint64_t steps = 1;;) {
        SharedLock held(e.lock);
        const Reader reader(*e.core);
        for (unsigned n = 0; n < kStepsAtOnce; ++n, ++steps) {
            if (dir == ino) return true;
            if (dir.value() == media::kRootIno) return false;
            if ((steps & (steps - 1)) == 0) seen = dir;
            dir = InodeNo(TRY(core::read_inode(reader, dir))->parent.get());
            if (dir == seen) return corrupt("the parents of a directory form a cycle");
        }
    }
}

struct Side {  // the source or the target of a rename
    InodeNo dir;
    std::string_view name;
    Name found;  // ino 0: the name is free
    bool is_dir = false;
};

Result<Side> look(const Reader &reader, InodeNo dir_ino, std::string_view name, bool must_exist) {
    TRY(core::check_name(name));
    const auto *dir = TRY(core::read_inode(reader, dir_ino));
    if (!S_ISDIR(dir->mode.get())) return Error(ENOTDIR, "it is not a directory");
    if (dir->nlink.get() == 0) return Error(ENOENT, "the directory was removed");
    Side side{dir_ino, name, {}, false};
    auto found = core::find_name(reader, *dir, dir_ino, name);
    if (!found.ok()) {
        if (found.error().errno_value() != ENOENT || must_exist) return found.error();
        return side;
    }
    side.found = found.value();
    const auto *inode = TRY(core::read_inode(reader, side.found.ino));
    side.is_dir = S_ISDIR(inode->mode.get());
    return side;
}

struct Request {
    InodeNo from_dir;
    std::string_view from_name;
    InodeNo to_dir;
    std::string_view to_name;
    unsigned flags;
    Renamed *renamed;
    const Caller &caller;
};

// The directories that get another parent; 0: none.
struct Moves {
    InodeNo from, to;
    friend bool operator==(const Moves &, const Moves &) = default;
};
Moves moves_of(const Side &from, const Side &to, unsigned flags) {
    if (from.dir == to.dir) return {};
    return {from.is_dir ? from.found.ino : InodeNo(),
            to.is_dir && flags == RENAME_EXCHANGE ? to.found.ino : InodeNo()};
}

// The directories that it would move; checks that none would move into itself.
Result<Moves> check_moves(Engine &e, const Request &request) EXCLUDES(e.lock) {
    const auto &[from_dir, from_name, to_dir, to_name, flags, renamed, caller] = request;
    if (from_dir == to_dir) return Moves{};
    Moves moves;
    {
        SharedLock held(e.lock);
        const Reader reader(*e.core);
        const Side from = TRY(look(reader, from_dir, from_name, true));
        const Side to = TRY(look(reader, to_dir, to_name, flags == RENAME_EXCHANGE));
        moves = moves_of(from, to, flags);
    }
    const bool inside = (moves.from != InodeNo() && TRY(is_above(e, moves.from, to_dir))) ||
                        (moves.to != InodeNo() && TRY(is_above(e, moves.to, from_dir)));
    if (inside) return Error(EINVAL, "a directory cannot move into itself");
    return moves;
}

Result<> check_replace(const Reader &reader, const Side &from, const Side &to) {
    if (to.is_dir && !from.is_dir) return Error(EISDIR, "the new name is a directory");
    if (from.is_dir && !to.is_dir) return Error(ENOTDIR, "the new name is not a directory");
    if (to.is_dir && TRY(core::read_inode(reader, to.found.ino))->entries.get() != 0)
        return Error(ENOTEMPTY, "the directory to be replaced is not empty");
    return {};
}

// What chattr(1) forbids.
Result<> check_protected(const Reader &reader, const Side &from, const Side &to) {
    const auto *from_dir = TRY(core::read_inode(reader, from.dir));
    TRY(core::may_remove_name(*from_dir, *TRY(core::read_inode(reader, from.found.ino))));
    const auto *to_dir = TRY(core::read_inode(reader, to.dir));
    if (to.found.ino.value() == 0) return core::may_touch(*to_dir);
    return core::may_remove_name(*to_dir, *TRY(core::read_inode(reader, to.found.ino)));
}

// A subdirectory left `from` and came to `to`.
void move_subdir(media::Inode *moved, media::Inode *from, media::Inode *to, InodeNo to_ino) {
    moved->parent.set(to_ino.value());
    if (from == to) return;
    from->nlink.set(from->nlink.get() - 1);
    to->nlink.set(to->nlink.get() + 1);
}

Result<> exchange(core::Core &core, const Side &a, const Side &b) {
    Change change(core);
    TRY(change.begin());
    auto *dir_a = TRY(core::edit_inode(change, a.dir));
    auto *dir_b = TRY(core::edit_inode(change, b.dir));
    auto *inode_a = TRY(core::edit_inode(change, a.found.ino));
    auto *inode_b = TRY(core::edit_inode(change, b.found.ino));
    Name at_a = a.found, at_b = b.found;
    at_a.text = a.name;
    at_b.text = b.name;
    TRY(core::dir_replace(change, dir_a, a.dir, at_a, b.found.ino, b.found.type));
    TRY(core::dir_replace(change, dir_b, b.dir, at_b, a.found.ino, a.found.type));
    if (a.is_dir) move_subdir(inode_a, dir_a, dir_b, b.dir);
    if (b.is_dir) move_subdir(inode_b, dir_b, dir_a, a.dir);
    const media::Time now = core::to_media(now_coarse());
    inode_a->ctime = inode_b->ctime = now;
    dir_a->mtime = dir_a->ctime = dir_b->mtime = dir_b->ctime = now;
    TRY(change.commit());
    return {};
}

// Leaves under the old name a new inode that has no name yet (a whiteout), or nothing.
Result<> leave_behind(Change &change, media::Inode *dir, const Side &from, InodeNo whiteout) {
    if (whiteout.value() == 0) return core::dir_remove(change, dir, from.dir, from.found.key);
    TRY(core::edit_inode(change, whiteout))->nlink.set(1);
    Name at = from.found;
    at.text = from.name;
    return core::dir_replace(change, dir, from.dir, at, whiteout, DT_CHR);
}

// Returns true when the last name of what was replaced is gone.
Result<bool> move(core::Core &core, const Side &from, const Side &to, InodeNo whiteout) {
    Change change(core);
    TRY(change.begin());
    auto *from_dir = TRY(core::edit_inode(change, from.dir));
    auto *to_dir = TRY(core::edit_inode(change, to.dir));
    auto *inode = TRY(core::edit_inode(change, from.found.ino));
    const media::Time now = core::to_media(now_coarse());
    bool gone = false;
    if (to.found.ino.value() != 0) {
        auto *replaced = TRY(core::edit_inode(change, to.found.ino));
        Name at = to.found;
        at.text = to.name;
        TRY(core::dir_replace(change, to_dir, to.dir, at, from.found.ino, from.found.type));
        if (!to.is_dir && replaced->nlink.get() == 0)
            return corrupt("a name refers to an inode without links");
        replaced->nlink.set(to.is_dir ? 0 : replaced->nlink.get() - 1);
        if (to.is_dir) to_dir->nlink.set(to_dir->nlink.get() - 1);
        replaced->ctime = now;
        gone = replaced->nlink.get() == 0;
        if (gone) TRY(orphan(change, to.found.ino, replaced));
    } else {
        TRY(core::dir_insert(change, to_dir, to.dir, to.name, from.found.ino, from.found.type));
    }
    TRY(leave_behind(change, from_dir, from, whiteout));
    if (from.is_dir) move_subdir(inode, from_dir, to_dir, to.dir);
    inode->ctime = now;
    from_dir->mtime = from_dir->ctime = to_dir->mtime = to_dir->ctime = now;
    TRY(change.commit());
    return gone;
}

// A whiteout stays on the orphan list when it gets its name, as if it were to be trimmed; it is
// taken off afterwards or at the next mount, because that does not fit into the transaction of a
// rename.
constexpr NewInodeWords kWhiteout{.mode = S_IFCHR, .rdev = 0, .flags = media::kTrimPending};

struct Done {
    InodeNo replaced, whiteout;
    bool gone = false;   // what was replaced has no name any more
    bool other = false;  // nothing was done: the names have changed meanwhile
};

Result<> rename_held(Engine &e, const Request &request, const Moves &moves, Done *done)
    REQUIRES(e.lock) {
    const auto &[from_dir, from_name, to_dir, to_name, flags, renamed, caller] = request;
    const Reader reader(*e.core);
    const Side from = TRY(look(reader, from_dir, from_name, true));
    const Side to = TRY(look(reader, to_dir, to_name, flags == RENAME_EXCHANGE));
    const bool taken = to.found.ino.value() != 0;
    if ((flags & RENAME_NOREPLACE) != 0 && taken) return Error(EEXIST, "the name is taken");
    if (taken && to.found.ino == from.found.ino) return {};
    TRY(check_protected(reader, from, to));
    if (from.is_dir && from.found.ino == to_dir)
        return Error(EINVAL, "a directory cannot move into itself");
    done->other = moves_of(from, to, flags) != moves;
    if (done->other) return {};
    if (renamed != nullptr) {
        *renamed = {.moved = {}, .source = from.found.ino, .target = to.found.ino};
        for (const InodeNo moved : {moves.from, moves.to})
            if (moved != InodeNo()) renamed->moved.push_back(moved);
    }
    if (flags == RENAME_EXCHANGE) return exchange(*e.core, from, to);
    if (taken) {
        TRY(check_replace(reader, from, to));
    } else {
        TRY(core::dir_make_room(*e.core, to_dir, to_name, core::Need::essential));
    }
    // In a transaction of its own: one for all would change too much.
    if ((flags & RENAME_WHITEOUT) != 0)
        done->whiteout = TRY(make_nameless(e, from_dir, kWhiteout, caller));
    done->gone = TRY(move(*e.core, from, to, done->whiteout));
    done->replaced = to.found.ino;
    // The rename is done, even if tidying the leaf that held the old name fails.
    (void)core::tree_tidy(*e.core, {from_dir, media::TreeKind::directory}, from.found.key).ok();
    return {};
}

}  // namespace

Result<> Volume::rename(InodeNo from_dir, std::string_view from_name, InodeNo to_dir,
                        std::string_view to_name, unsigned flags, Renamed *renamed,
                        const Caller &caller) {
    Engine &e = parts_->engine;
    TRY(writable(e));
    if ((flags & ~unsigned{RENAME_NOREPLACE | RENAME_WHITEOUT}) != 0 && flags != RENAME_EXCHANGE)
        return Error(EINVAL, "rename supports only NOREPLACE, WHITEOUT and EXCHANGE");
    const Request request{from_dir, from_name, to_dir, to_name, flags, renamed, caller};
    const auto attempt = [&](Done *done) -> Result<> {
        const Moves moves = TRY(check_moves(e, request));
        return parts_->scheduler.unless_space_comes(caller.progress, [&]() -> Result<> {
            ExclusiveLock held(e.lock);
            return rename_held(e, request, moves, done);
        }());
    };
    const auto finish = [&](const Result<> &result, const Done &done) {
        if (done.whiteout.value() == 0) return;
        if (result.ok())
            parts_->reaper.trim(done.whiteout);
        else
            parts_->reaper.reap(done.whiteout);
    };
    for (;;) {
        Done done;
        const Result<> result = [&]() -> Result<> {
            if (from_dir == to_dir) return attempt(&done);
            Lock one(parts_->moving);
            return attempt(&done);
        }();
        finish(result, done);
        TRY(Result<>(result));
        if (done.other) continue;
        if (done.gone && e.live.mark_unlinked(done.replaced)) parts_->reaper.reap(done.replaced);
        return {};
    }
}

}  // namespace pmfs
