// Access control lists of files: kept consistent with the mode, and inherited from directories.
// (The kernel enforces them.)
#pragma once
#include "core/acl.h"
#include "volume/engine.h"

namespace pmfs {

// The initial mode and lists of a new inode.
struct InheritedAcls {
    std::uint32_t mode = 0;
    std::vector<std::byte> access, by_default;  // attribute values; empty: none
    bool any() const { return !access.empty() || !by_default.empty(); }
};
// In a directory with a default list, that list decides, and the caller's umask is ignored.
Result<InheritedAcls> inherited_acls(const core::Reader &reader, const media::Inode &dir,
                                     InodeNo dir_ino, std::uint32_t mode, std::uint32_t umask);
// In transactions of their own, for an inode that has no name yet.
Result<> give_acls(Engine &engine, InodeNo ino, const InheritedAcls &acls) REQUIRES(engine.lock);

// Sets a file's list of that name, or removes it (an empty one), together with the mode, in one
// transaction.  drop_setgid: the caller may not keep the set-group-ID bit.
Result<> set_acl(Engine &engine, InodeNo ino, std::string_view name, const core::Acl &acl,
                 bool drop_setgid) REQUIRES(engine.lock);

// Before a transaction that changes a mode, and in it: makes the list agree.
Result<> acl_make_room(Engine &engine, InodeNo ino) REQUIRES(engine.lock);
Result<> acl_follows(core::Change &change, media::Inode *inode, InodeNo ino, std::uint32_t mode);

}  // namespace pmfs
