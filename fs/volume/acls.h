// Access control lists of files: kept in step with the mode, and given to what is made in a
// directory.  (Who may do what, the kernel decides.)
#pragma once
#include "core/acl.h"
#include "volume/engine.h"

namespace pmfs {

// What a new inode begins with.
struct InheritedAcls {
    std::uint32_t mode = 0;
    std::vector<std::byte> access, by_default;  // attribute values; empty: none
    bool any() const { return !access.empty() || !by_default.empty(); }
};
// In a directory with a default list that decides, and the caller's umask does not count.
Result<InheritedAcls> inherited_acls(const core::Reader &reader, const media::Inode &dir,
                                     InodeNo dir_ino, std::uint32_t mode, std::uint32_t umask);
// In transactions of their own, for an inode that has no name yet.
Result<> give_acls(Engine &engine, InodeNo ino, const InheritedAcls &acls) REQUIRES(engine.lock);

// Sets a file's list of that name, or takes it away (an empty one), with the mode, in one
// transaction.  drop_setgid: whoever sets it may not keep that bit.
Result<> set_acl(Engine &engine, InodeNo ino, std::string_view name, const core::Acl &acl,
                 bool drop_setgid) REQUIRES(engine.lock);

// Before a transaction that changes a mode, and in it: the list says the same.
Result<> acl_make_room(Engine &engine, InodeNo ino) REQUIRES(engine.lock);
Result<> acl_follows(core::Change &change, media::Inode *inode, InodeNo ino, std::uint32_t mode);

}  // namespace pmfs
