// Extended attributes, among them those that set the seal (docs/seal.md).
#include <sys/stat.h>
#include <sys/xattr.h>

#include "core/btree.h"
#include "core/dir.h"
#include "core/inode.h"
#include "core/protection.h"
#include "core/xattr.h"
#include "volume/acls.h"
#include "volume/attributes.h"
#include "volume/gather.h"
#include "volume/parts.h"

namespace pmfs {

using core::Change;
using core::Reader;

namespace {

constexpr std::string_view kTrustedSeal = "trusted.pmfs.seal";
constexpr std::string_view kUserSeal = "user.pmfs.seal";

bool is_seal(std::string_view name) {
    return name == kTrustedSeal || name == kUserSeal;
}

// The kernel keeps the inode locked until it has the answer, and so holds up whoever writes to the
// file.  Its owner must not be able to make that last.
void expect_no_close(std::string_view name, const Caller &caller) {
    if (name == kUserSeal && caller.progress != nullptr)
        caller.progress->waited_for_close = Progress::kNever;
}

// The name without its prefix.  The errors are those of the VFS for filesystems that declare their
// prefixes.
Result<std::string_view> check_xattr_name(std::string_view name) {
    if (name.empty() || name.size() > media::kNameMax)
        return Error(ERANGE, "an attribute's name has 1 to 255 bytes");
    for (const std::string_view prefix : {"user.", "trusted.", "security."}) {
        if (!name.starts_with(prefix)) continue;
        if (name == prefix)
            return Error(EINVAL, "an attribute's name must be longer than its prefix");
        return name.substr(prefix.size());
    }
    if (core::is_acl(name)) return name;
    return Error(
        EOPNOTSUPP,
        "pmfs stores only user., trusted. and security. attributes, and access control lists");
}

Result<> check_changeable(std::string_view name) {
    if (TRY(check_xattr_name(name)).starts_with("pmfs.") && !is_seal(name))
        return Error(EINVAL, "pmfs.* attributes are reserved, and only pmfs.seal exists");
    return {};
}

std::string_view text_of(std::span<const std::byte> value) {
    std::string_view text(reinterpret_cast<const char *>(value.data()), value.size());
    while (!text.empty() && (text.back() == '\n' || text.back() == '\0')) text.remove_suffix(1);
    return text;
}

bool is_full(const Result<> &done) {
    return !done.ok() && done.error().errno_value() == ENOSPC;
}

// Whether there is room for a value, perhaps not in one piece.
bool may_be_scattered(Engine &e, std::size_t size) {
    const std::uint64_t blocks = media::blob_blocks(size);
    SharedLock held(e.lock);
    return blocks > 1 && e.allocator->check_space(blocks, core::need_of_data(false)).ok();
}

// On an image, blocks that were moved out of a chunk become free by a group commit.
Result<> unless_held_back(Engine &e, Result<> done) {
    if (!is_full(done)) return done;
    SharedLock held(e.lock);
    if (!e.allocator->space_comes()) return done;
    return Error(kParkErrno, "the blocks of an emptied chunk wait for a group commit");
}

std::string_view name_of_level(SealLevel level) {
    return level == SealLevel::full ? "full" : "as-is";
}

}  // namespace

Result<> Volume::setxattr(InodeNo ino, std::string_view name, std::span<const std::byte> value,
                          int flags, const Caller &caller, bool drop_setgid) {
    Engine &e = parts_->engine;
    TRY(writable(e));
    TRY(check_changeable(name));
    if (is_seal(name)) {
        const std::string_view text = text_of(value);
        if (text != "full" && text != "as-is")
            return Error(EINVAL, "the level of a seal must be as-is or full");
        expect_no_close(name, caller);
        std::uint64_t bad = 0;
        return seal(ino, text == "full" ? SealLevel::full : SealLevel::as_is, caller,
                    name == kTrustedSeal, &bad);
    }
    if (value.size() > media::kXattrValueMax)
        return Error(E2BIG, "an attribute's value has at most 64 KiB");
    if (core::is_acl(name)) return change_acl(ino, name, value, drop_setgid, caller.progress);

    const auto set = [&]() -> Result<> {
        ExclusiveLock held(e.lock);
        const Reader reader(*e.core);
        const auto *was = TRY(core::read_inode(reader, ino));
        TRY(core::may_change(*was));
        const bool there = core::has_xattr(reader, *was, ino, name);
        if ((flags & XATTR_CREATE) != 0 && there)
            return Error(EEXIST, "the file has this attribute already");
        if ((flags & XATTR_REPLACE) != 0 && !there)
            return Error(ENODATA, "the file has no such attribute");
        TRY(core::xattr_make_room(*e.core, ino, name, value.size()));
        Change change(*e.core);
        TRY(change.begin());
        auto *inode = TRY(core::edit_inode(change, ino));
        TRY(core::set_xattr(change, inode, ino, name, value));
        touch(inode, false);
        TRY(change.commit());
        return {};
    };
    Result<> done = set();
    // A large value consists of few runs (decision 6), and free space may consist of more.
    if (is_full(done) && may_be_scattered(e, value.size())) {
        const Result<> gathered = gather_free_space(e, parts_->scheduler, caller);
        if (!gathered.ok() && must_park(gathered.error())) return gathered;
        if (gathered.ok()) done = unless_held_back(e, set());
    }
    return parts_->scheduler.unless_space_comes(caller.progress, std::move(done));
}

// A value that means "no list" removes it.
Result<> Volume::change_acl(InodeNo ino, std::string_view name, ConstBytes value, bool drop_setgid,
                            Progress *progress) {
    const core::Acl acl = value.empty() ? core::Acl() : TRY(core::parse_acl(value));
    return parts_->scheduler.unless_space_comes(progress, [&]() -> Result<> {
        ExclusiveLock held(parts_->engine.lock);
        return set_acl(parts_->engine, ino, name, acl, drop_setgid);
    }());
}

Result<std::vector<std::byte>> Volume::getxattr(InodeNo ino, std::string_view name) {
    Engine &e = parts_->engine;
    TRY(check_xattr_name(name));
    SharedLock held(e.lock);
    const Reader reader(*e.core);
    const auto *inode = TRY(core::read_inode(reader, ino));
    if (is_seal(name)) {
        const std::uint32_t flags = inode->flags.get();
        if ((flags & media::kSealed) == 0) return Error(ENODATA, "the file is not sealed");
        const auto text = std::as_bytes(std::span(
            name_of_level((flags & media::kSealedFull) != 0 ? SealLevel::full : SealLevel::as_is)));
        return std::vector<std::byte>(text.begin(), text.end());
    }
    if (inode->xattr_root.get() == 0) return Error(ENODATA, "the file has no such attribute");
    return core::get_xattr(reader, *inode, ino, name);
}

Result<std::string> Volume::listxattr(InodeNo ino, bool trusted) {
    Engine &e = parts_->engine;
    SharedLock held(e.lock);
    const Reader reader(*e.core);
    const auto *inode = TRY(core::read_inode(reader, ino));
    std::string names;
    const auto add = [&](std::string_view name) {
        if (!trusted && name.starts_with("trusted.")) return;
        names.append(name);
        names.push_back('\0');
    };
    // The seal is not listed: cp -a, rsync and backups copy what is listed, and would seal the
    // copy.
    if (inode->xattr_root.get() != 0) TRY(core::list_xattrs(reader, *inode, ino, add));
    return names;
}

Result<> Volume::removexattr(InodeNo ino, std::string_view name, const Caller &caller) {
    Engine &e = parts_->engine;
    TRY(writable(e));
    TRY(check_changeable(name));
    // Also for a file that is not sealed: unsealing twice succeeds through every interface
    // (docs/seal.md).
    if (is_seal(name)) {
        expect_no_close(name, caller);
        return unseal(ino, caller, name == kTrustedSeal);
    }
    if (core::is_acl(name)) return change_acl(ino, name, {}, false, nullptr);
    ExclusiveLock held(e.lock);
    const auto *was = TRY(core::read_inode(Reader(*e.core), ino));
    TRY(core::may_change(*was));
    if (was->xattr_root.get() == 0) return Error(ENODATA, "the file has no such attribute");
    Change change(*e.core);
    TRY(change.begin());
    auto *inode = TRY(core::edit_inode(change, ino));
    TRY(core::remove_xattr(change, inode, ino, name));
    touch(inode, false);
    TRY(change.commit());
    return best_effort(core::tree_tidy(*e.core, {ino, media::TreeKind::xattr},
                                       core::name_hash(e.superblock, name)));
}

}  // namespace pmfs
