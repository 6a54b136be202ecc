// Lists and modes: see acls.h.
#include "volume/acls.h"

#include <sys/stat.h>

#include "core/btree.h"
#include "core/dir.h"
#include "core/inode.h"
#include "core/protection.h"
#include "core/xattr.h"
#include "volume/acl_ids.h"
#include "volume/attributes.h"

namespace pmfs {

using core::Acl;
using core::Change;
using core::kAccessAcl;
using core::kDefaultAcl;
using core::Reader;

namespace {

constexpr std::uint32_t kPermissions = 0777;

// A list on the medium was checked when it was set.
Result<Acl> acl_of(const Reader &reader, const media::Inode &inode, InodeNo ino,
                   std::string_view name) {
    if (!core::has_xattr(reader, inode, ino, name)) return Acl();
    auto acl = core::parse_acl(TRY(core::get_xattr(reader, inode, ino, name)));
    if (!acl.ok()) return corrupt("an access control list is damaged");
    return acl;
}

Result<> put_acl(Engine &e, InodeNo ino, std::string_view name, ConstBytes value) REQUIRES(e.lock) {
    if (value.empty()) return {};
    TRY(core::xattr_make_room(*e.core, ino, name, value.size()));
    Change change(*e.core);
    TRY(change.begin());
    TRY(core::set_xattr(change, TRY(core::edit_inode(change, ino)), ino, name, value));
    TRY(change.commit());
    return {};
}

}  // namespace

Result<InheritedAcls> inherited_acls(const Reader &reader, const media::Inode &dir, InodeNo dir_ino,
                                     std::uint32_t mode, std::uint32_t umask) {
    Acl acl = TRY(acl_of(reader, dir, dir_ino, kDefaultAcl));
    InheritedAcls acls;
    if (acl.empty()) {
        acls.mode = mode & ~(umask & kPermissions);
        return acls;
    }
    if (S_ISDIR(mode)) acls.by_default = core::bytes_of_acl(acl);
    acls.mode = core::inherit(acl, mode);
    if (!core::is_mode_only(acl)) acls.access = core::bytes_of_acl(acl);
    return acls;
}

Result<> give_acls(Engine &e, InodeNo ino, const InheritedAcls &acls) {
    TRY(put_acl(e, ino, kAccessAcl, acls.access));
    return put_acl(e, ino, kDefaultAcl, acls.by_default);
}

Result<> set_acl(Engine &e, InodeNo ino, std::string_view name, const Acl &acl, bool drop_setgid) {
    const std::vector<std::byte> value = core::bytes_of_acl(acl);
    const bool access = name == kAccessAcl;
    const Reader reader(*e.core);
    const auto *was = TRY(core::read_inode(reader, ino));
    const std::uint32_t mode = was->mode.get();
    TRY(core::may_change(*was));
    if (S_ISLNK(mode)) return Error(EOPNOTSUPP, "a symlink cannot have an access control list");
    if (!access && !S_ISDIR(mode)) {
        if (acl.empty()) return {};
        return Error(EACCES, "only a directory can have a default access control list");
    }
    // A list that says no more than a mode is stored as the mode.
    const bool kept = !acl.empty() && !(access && core::is_mode_only(acl));
    const bool there = core::has_xattr(reader, *was, ino, name);
    if (!kept && !there && acl.empty()) return {};
    if (kept) TRY(core::xattr_make_room(*e.core, ino, name, value.size()));
    Change change(*e.core);
    TRY(change.begin());
    auto *inode = TRY(core::edit_inode(change, ino));
    if (kept)
        TRY(core::set_xattr(change, inode, ino, name, value));
    else if (there)
        TRY(core::remove_xattr(change, inode, ino, name));
    if (access && !acl.empty()) {
        const std::uint32_t dropped = kPermissions | (drop_setgid ? S_ISGID : 0u);
        inode->mode.set((mode & ~dropped) | core::mode_of(acl));
    }
    touch(inode, false);
    TRY(change.commit());
    if (kept || !there) return {};
    return best_effort(core::tree_tidy(*e.core, {ino, media::TreeKind::xattr},
                                       core::name_hash(e.superblock, name)));
}

Result<> acl_make_room(Engine &e, InodeNo ino) {
    const Reader reader(*e.core);
    const Acl acl = TRY(acl_of(reader, *TRY(core::read_inode(reader, ino)), ino, kAccessAcl));
    if (acl.empty()) return {};
    return core::xattr_make_room(*e.core, ino, kAccessAcl, core::bytes_of_acl(acl).size());
}

Result<> acl_follows(Change &change, media::Inode *inode, InodeNo ino, std::uint32_t mode) {
    Acl acl = TRY(acl_of(Reader(change), *inode, ino, kAccessAcl));
    if (acl.empty()) return {};
    core::follow_mode(acl, mode);
    return core::set_xattr(change, inode, ino, kAccessAcl, core::bytes_of_acl(acl));
}

bool is_access_acl(std::string_view name) {
    return name == core::kAccessAcl;
}

ConstBytes with_other_ids(std::string_view name, ConstBytes value, const NewId &other,
                          std::vector<std::byte> *made) {
    auto acl = core::is_acl(name) ? core::parse_acl(value) : Acl();
    if (!acl.ok() || acl.value().empty()) return value;
    for (core::AclEntry &entry : acl.value())
        if (entry.tag == core::AclTag::user || entry.tag == core::AclTag::group)
            entry.id = other(entry.tag == core::AclTag::user, entry.id);
    *made = core::bytes_of_acl(acl.value());
    return *made;
}

}  // namespace pmfs
