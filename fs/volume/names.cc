// Names, and references to their inodes: looking up, creating, linking and removing.  Renaming is
// in rename.cc.
#include <dirent.h>
#include <sys/stat.h>

#include <cstring>
#include <functional>
#include <vector>

#include "core/dir.h"
#include "core/extent_map.h"
#include "core/inode.h"
#include "core/protection.h"
#include "core/xattr.h"
#include "volume/acls.h"
#include "volume/attributes.h"
#include "volume/new_inode.h"
#include "volume/parts.h"

namespace pmfs {

using core::Change;
using core::Reader;

namespace {

std::uint8_t type_of(std::uint32_t mode) {
    return static_cast<std::uint8_t>(IFTODT(mode));
}

Result<const media::Inode *> read_dir(const Reader &reader, InodeNo ino) {
    const auto *dir = TRY(core::read_inode(reader, ino));
    if (!S_ISDIR(dir->mode.get())) return Error(ENOTDIR, "it is not a directory");
    return dir;
}

// The directory, for a new entry: ENOENT when it was removed.
Result<const media::Inode *> read_parent(const Reader &reader, InodeNo ino) {
    const auto *dir = TRY(read_dir(reader, ino));
    if (dir->nlink.get() == 0) return Error(ENOENT, "the directory was removed");
    TRY(core::may_touch(*dir));
    return dir;
}

// The name has been removed, even if tidying its leaf fails; the next operation that meets damage
// reports it.
void tidy_dir(core::Core &core, InodeNo dir, std::uint64_t key) {
    (void)core::tree_tidy(core, {dir, media::TreeKind::directory}, key).ok();
}

// An inode by its number alone, as handles of open_by_handle_at(2) name it: a file that has a name,
// or a nameless one that is referenced already.
Result<Attr> lookup_number(Engine &e, InodeNo ino) REQUIRES_SHARED(e.lock) {
    const auto *inode = TRY(core::read_inode(Reader(*e.core), ino));
    if ((inode->flags.get() & media::kGrantRecord) != 0)
        return Error(ESTALE, "the inode is not a file");
    const bool known = e.live.reference_known(ino);
    if (!known && inode->nlink.get() == 0) return Error(ESTALE, "the file was removed");
    if (!known) e.live.reference(ino);
    return attr_of(e, ino, *inode);
}

}  // namespace

Result<Attr> Volume::lookup(InodeNo dir_ino, std::string_view name) {
    Engine &e = parts_->engine;
    SharedLock held(e.lock);
    const Reader reader(*e.core);
    if (name == ".") return lookup_number(e, dir_ino);
    const auto *dir = TRY(read_dir(reader, dir_ino));
    InodeNo ino;
    if (name == "..") {
        if (dir->nlink.get() == 0) return Error(ENOENT, "the directory was removed");
        ino = InodeNo(dir->parent.get());
    } else {
        if (name.size() > media::kNameMax)
            return Error(ENAMETOOLONG, "a name has at most 255 bytes");
        ino = TRY(core::find_name(reader, *dir, dir_ino, name)).ino;
    }
    auto found = core::read_inode(reader, ino);
    if (!found.ok() && found.error().errno_value() == ESTALE)
        return corrupt("a name refers to an inode that is not in use");
    const auto *inode = TRY(std::move(found));
    e.live.reference(ino);
    return attr_of(e, ino, *inode);
}

void Volume::forget(InodeNo ino, std::uint64_t count) {
    if (ino.value() == media::kRootIno) return;
    if (parts_->engine.live.forget(ino, count)) parts_->reaper.reap(ino);
}

Result<> Volume::check_named(InodeNo ino) {
    Engine &e = parts_->engine;
    SharedLock held(e.lock);
    const auto *inode = TRY(core::read_inode(Reader(*e.core), ino));
    if (inode->nlink.get() == 0) return Error(ESTALE, "the file was removed");
    return {};
}

Result<> Volume::readdir(InodeNo dir_ino, std::uint64_t cookie, const DirSink &sink) {
    Engine &e = parts_->engine;
    SharedLock held(e.lock);
    const Reader reader(*e.core);
    const auto *dir = TRY(read_dir(reader, dir_ino));
    if (cookie < 1 && !sink({1, dir_ino, DT_DIR, "."})) return {};
    if (cookie < 2 && !sink({2, InodeNo(dir->parent.get()), DT_DIR, ".."})) return {};
    core::Cursor at(reader, *dir, {dir_ino, media::TreeKind::directory});
    for (TRY(at.seek(cookie + 1)); !at.at_end(); TRY(at.next())) {
        const auto name = TRY(core::decode_name(at));
        if (!sink({name.key, name.ino, name.type, name.text})) return {};
    }
    return {};
}

namespace {

// Checks and makes room before a new name is entered into `dir`.
Result<> prepare_name(core::Core &core, InodeNo dir_ino, std::string_view name) {
    TRY(core::check_name(name));
    const Reader reader(core);
    const auto *dir = TRY(read_parent(reader, dir_ino));
    auto there = core::find_name(reader, *dir, dir_ino, name);
    if (there.ok()) return Error(EEXIST, "the name is taken");
    if (there.error().errno_value() != ENOENT) return there.error();
    return core::dir_make_room(core, dir_ino, name, core::Need::growth);
}

// Initializes a new inode, after its directory entry was made.
using Fill = std::function<Result<>(Change &, media::Inode *dir, const core::NewInode &)>;

Result<> count_subdirectory(media::Inode *dir) {
    if (dir->nlink.get() == media::kLinksMax)
        return Error(EMLINK, "the directory has too many subdirectories");
    dir->nlink.set(dir->nlink.get() + 1);
    return {};
}

// With access control lists this does not fit into one transaction, so the inode gets its name
// last. *unfinished: an inode without a name, which must be freed if this fails.
Result<Attr> make_with_acls(Engine &e, InodeNo dir_ino, std::string_view name,
                            const NewInodeWords &words, const InheritedAcls &acls,
                            const Caller &caller, InodeNo *unfinished) REQUIRES(e.lock) {
    const InodeNo ino = *unfinished = TRY(make_nameless(e, dir_ino, words, caller));
    TRY(give_acls(e, ino, acls));
    Change change(*e.core);
    TRY(change.begin());
    auto *dir = TRY(core::edit_inode(change, dir_ino));
    auto *inode = TRY(core::edit_inode(change, ino));
    TRY(core::dir_insert(change, dir, dir_ino, name, ino, type_of(words.mode)));
    if (S_ISDIR(words.mode)) TRY(count_subdirectory(dir));
    inode->nlink.set(S_ISDIR(words.mode) ? 2 : 1);
    TRY(core::remove_orphan(change, ino, inode));
    touch(dir, true);
    const Attr attr = attr_of(e, ino, *inode);
    TRY(change.commit());
    *unfinished = InodeNo(0);
    e.live.reference(ino);
    return attr;
}

// Makes a new name and its inode.  Counts one reference.  `blob`: its content needs blocks.
Result<Attr> make_named(Engine &e, InodeNo dir_ino, std::string_view name,
                        const NewInodeWords &words, bool blob, const Caller &caller,
                        const Fill &fill) REQUIRES(e.lock) {
    TRY(prepare_name(*e.core, dir_ino, name));
    if (blob) TRY(core::dir_make_leaf(*e.core, dir_ino));
    const GroupNo group = TRY(prepare_inode(*e.core, dir_ino, words.mode, caller));

    Change change(*e.core);
    TRY(change.begin());
    auto *dir = TRY(core::edit_inode(change, dir_ino));
    const auto made = TRY(new_inode(change, *dir, dir_ino, group, words, caller));
    // The entry first, because a blob takes the room that is left in the transaction.
    TRY(core::dir_insert(change, dir, dir_ino, name, made.ino, type_of(words.mode)));
    TRY(fill(change, dir, made));
    touch(dir, true);
    const Attr attr = attr_of(e, made.ino, *made.inode);
    TRY(change.commit());
    e.live.reference(made.ino);
    return attr;
}

Result<> set_target(Change &change, const core::NewInode &link, std::string_view target) {
    link.inode->size.set(target.size());
    if (target.size() <= media::kInlineBytes) {
        std::memcpy(link.inode->inline_bytes, target.data(), target.size());
        return {};
    }
    const auto runs =
        TRY(core::write_blob(change, link.inode, link.ino, std::as_bytes(std::span(target))));
    const auto permit = TRY(core::permit(*link.inode, {}, core::Move::allocate));
    FileBlock at;
    for (const core::Run &run : runs) {
        TRY(core::map_insert(change, link.inode, link.ino,
                             {at, run.start, run.blocks, false, false}, permit));
        at += run.blocks;
    }
    return {};
}

}  // namespace

Result<Attr> Volume::make(InodeNo dir_ino, std::string_view name, std::uint32_t mode,
                          std::uint64_t rdev, const Caller &caller) {
    Engine &e = parts_->engine;
    TRY(writable(e));
    if (!S_ISREG(mode) && !S_ISDIR(mode) && !S_ISCHR(mode) && !S_ISBLK(mode) && !S_ISFIFO(mode) &&
        !S_ISSOCK(mode))
        return Error(EINVAL, "a file of this type cannot be created");
    if ((mode & ~(S_IFMT | 07777u)) != 0) return Error(EINVAL, "the mode is invalid");
    NewInodeWords words{.mode = mode, .rdev = S_ISCHR(mode) || S_ISBLK(mode) ? rdev : 0};
    const auto fill = [&](Change &, media::Inode *dir, const core::NewInode &) -> Result<> {
        return S_ISDIR(mode) ? count_subdirectory(dir) : Result<>();
    };
    InodeNo unfinished;
    const auto made = parts_->scheduler.unless_space_comes(caller.progress, [&]() -> Result<Attr> {
        ExclusiveLock held(e.lock);
        const Reader reader(*e.core);
        const auto *dir = TRY(read_parent(reader, dir_ino));
        const auto acls = TRY(inherited_acls(reader, *dir, dir_ino, mode, caller.umask));
        words.mode = acls.mode;
        if (!acls.any()) return make_named(e, dir_ino, name, words, false, caller, fill);
        TRY(prepare_name(*e.core, dir_ino, name));
        return make_with_acls(e, dir_ino, name, words, acls, caller, &unfinished);
    }());
    if (unfinished.value() != 0) parts_->reaper.reap(unfinished);
    return made;
}

Result<Attr> Volume::symlink(InodeNo dir_ino, std::string_view name, std::string_view target,
                             const Caller &caller) {
    Engine &e = parts_->engine;
    TRY(writable(e));
    if (target.empty()) return Error(ENOENT, "a symlink needs a target");
    if (target.size() > media::kSymlinkMax)
        return Error(ENAMETOOLONG, "a symlink's target has at most 4095 bytes");
    const auto fill = [&](Change &change, media::Inode *, const core::NewInode &made) {
        return set_target(change, made, target);
    };
    const bool blob = target.size() > media::kInlineBytes;
    return parts_->scheduler.unless_space_comes(caller.progress, [&]() -> Result<Attr> {
        ExclusiveLock held(e.lock);
        return make_named(e, dir_ino, name, {.mode = S_IFLNK | 0777}, blob, caller, fill);
    }());
}

Result<std::string> Volume::readlink(InodeNo ino) {
    Engine &engine = parts_->engine;
    SharedLock held(engine.lock);
    const Reader reader(*engine.core);
    const auto *inode = TRY(core::read_inode(reader, ino));
    if (!S_ISLNK(inode->mode.get())) return Error(EINVAL, "it is not a symlink");
    const std::uint64_t size = inode->size.get();
    if (size <= media::kInlineBytes)
        return std::string(reinterpret_cast<const char *>(inode->inline_bytes), size);
    if (size > media::kSymlinkMax) return corrupt("a symlink's target is too long");
    std::vector<core::Run> runs;
    for (FileBlock at, end(media::blob_blocks(size)); at < end; at += runs.back().blocks) {
        const Extent e = TRY(core::find_extent(reader, *inode, ino, at));
        if (e.hole()) return corrupt("a symlink's target is missing");
        runs.push_back({e.place_of(at), 1});
    }
    const auto bytes = TRY(core::read_blob(*engine.core, ino, runs, size));
    return std::string(reinterpret_cast<const char *>(bytes.data()), bytes.size());
}

Result<Attr> Volume::link(InodeNo ino, InodeNo dir_ino, std::string_view name, Progress *progress) {
    Engine &e = parts_->engine;
    TRY(writable(e));
    return parts_->scheduler.unless_space_comes(progress, [&]() -> Result<Attr> {
        ExclusiveLock held(e.lock);
        const auto *was = TRY(core::read_inode(Reader(*e.core), ino));
        if (S_ISDIR(was->mode.get())) return Error(EPERM, "a directory can have only one name");
        TRY(core::may_change(*was));
        const bool nameless = was->nlink.get() == 0;
        if (nameless && !e.live.linkable(ino)) return Error(ENOENT, "the file was removed");
        if (was->nlink.get() == media::kLinksMax)
            return Error(EMLINK, "the file has too many links");
        TRY(prepare_name(*e.core, dir_ino, name));

        Change change(*e.core);
        TRY(change.begin());
        auto *dir = TRY(core::edit_inode(change, dir_ino));
        auto *inode = TRY(core::edit_inode(change, ino));
        TRY(core::dir_insert(change, dir, dir_ino, name, ino, type_of(inode->mode.get())));
        // (A file that is to be trimmed stays on the list.)
        if (nameless && (inode->flags.get() & media::kTrimPending) == 0)
            TRY(core::remove_orphan(change, ino, inode));
        inode->nlink.set(inode->nlink.get() + 1);
        touch(inode, false);
        touch(dir, true);
        const Attr attr = attr_of(e, ino, *inode);
        TRY(change.commit());
        if (nameless) e.live.set_named(ino);
        e.live.reference(ino);
        return attr;
    }());
}

Result<Attr> Volume::create_nameless(InodeNo dir_ino, std::uint32_t mode, bool linkable,
                                     const OpenRequest &request, OpenReply *reply) {
    Engine &e = parts_->engine;
    TRY(writable(e));
    if ((mode & ~07777u) != S_IFREG)
        return Error(EINVAL, "only a regular file can be created without a name");
    InodeNo ino;
    const auto made =
        parts_->scheduler.unless_space_comes(request.caller.progress, [&]() -> Result<Attr> {
            ExclusiveLock held(e.lock);
            const Reader reader(*e.core);
            const auto *dir = TRY(read_parent(reader, dir_ino));
            const auto acls =
                TRY(inherited_acls(reader, *dir, dir_ino, mode, request.caller.umask));
            ino = TRY(make_nameless(e, dir_ino, {.mode = acls.mode}, request.caller));
            TRY(give_acls(e, ino, acls));
            e.live.reference(ino);
            e.live.set_nameless(ino, linkable);
            return attr_of(e, ino, *TRY(core::read_inode(reader, ino)));
        }());
    if (!made.ok() && ino.value() != 0) parts_->reaper.reap(ino);
    return open_new(TRY(made), request, reply);
}

Result<> Volume::unlink(InodeNo dir_ino, std::string_view name, InodeNo *removed) {
    Engine &e = parts_->engine;
    TRY(writable(e));
    InodeNo ino;
    bool gone;
    {
        ExclusiveLock held(e.lock);
        const Reader reader(*e.core);
        const auto *was = TRY(read_dir(reader, dir_ino));
        const auto found = TRY(core::find_name(reader, *was, dir_ino, name));
        ino = found.ino;
        const auto *target = TRY(core::read_inode(reader, ino));
        if (S_ISDIR(target->mode.get())) return Error(EISDIR, "it is a directory: use rmdir");
        TRY(core::may_remove_name(*was, *target));
        if (target->nlink.get() == 0) return corrupt("a name refers to an inode without links");

        Change change(*e.core);
        TRY(change.begin());
        auto *dir = TRY(core::edit_inode(change, dir_ino));
        auto *inode = TRY(core::edit_inode(change, ino));
        TRY(core::dir_remove(change, dir, dir_ino, found.key));
        inode->nlink.set(inode->nlink.get() - 1);
        gone = inode->nlink.get() == 0;
        if (gone) TRY(orphan(change, ino, inode));
        touch(inode, false);
        touch(dir, true);
        TRY(change.commit());
        tidy_dir(*e.core, dir_ino, found.key);
    }
    if (removed != nullptr) *removed = ino;
    if (gone && e.live.mark_unlinked(ino)) parts_->reaper.reap(ino);
    return {};
}

Result<> Volume::rmdir(InodeNo dir_ino, std::string_view name, InodeNo *removed) {
    Engine &e = parts_->engine;
    TRY(writable(e));
    InodeNo ino;
    {
        ExclusiveLock held(e.lock);
        const Reader reader(*e.core);
        const auto *was = TRY(read_dir(reader, dir_ino));
        const auto found = TRY(core::find_name(reader, *was, dir_ino, name));
        ino = found.ino;
        const auto *target = TRY(read_dir(reader, ino));
        TRY(core::may_remove_name(*was, *target));
        if (target->entries.get() != 0) return Error(ENOTEMPTY, "the directory is not empty");

        Change change(*e.core);
        TRY(change.begin());
        auto *dir = TRY(core::edit_inode(change, dir_ino));
        auto *inode = TRY(core::edit_inode(change, ino));
        TRY(core::dir_remove(change, dir, dir_ino, found.key));
        dir->nlink.set(dir->nlink.get() - 1);
        inode->nlink.set(0);
        TRY(core::add_orphan(change, ino, inode));
        touch(inode, false);
        touch(dir, true);
        TRY(change.commit());
        tidy_dir(*e.core, dir_ino, found.key);
    }
    if (removed != nullptr) *removed = ino;
    if (e.live.mark_unlinked(ino)) parts_->reaper.reap(ino);
    return {};
}

}  // namespace pmfs
