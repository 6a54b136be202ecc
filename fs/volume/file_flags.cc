// The flags of chattr(1), which are stored in the inode.  core/protection.h says what they forbid.
#include <sys/stat.h>

#include "core/inode.h"
#include "core/protection.h"
#include "volume/attributes.h"
#include "volume/parts.h"

namespace pmfs {

using core::Change;
using core::Reader;

namespace {

std::uint32_t bits_of(const FileFlags &flags) {
    return (flags.immutable ? media::kImmutable : 0u) |
           (flags.append_only ? media::kAppendOnly : 0u) | (flags.no_dump ? media::kNoDump : 0u) |
           (flags.no_access_time ? media::kNoAccessTime : 0u);
}

Result<const media::Inode *> read_flagged(const Reader &reader, InodeNo ino) {
    const auto *inode = TRY(core::read_inode(reader, ino));
    if (S_ISREG(inode->mode.get()) || S_ISDIR(inode->mode.get())) return inode;
    return Error(EOPNOTSUPP, "only files and directories have these flags");
}

// Stores that do not pass the server can only be prevented before they begin.
Result<> check_no_stores(Engine &e, InodeNo ino) {
    for (const Grant &grant : e.live.grants(ino))
        if (grant.may_store)
            return Error(EBUSY, "a process holds a grant that may store: see pmfsctl holders");
    if (e.options.writeback && e.live.counts(ino).cached_write != 0)
        return Error(
            EBUSY, "the file is open for writing through the kernel's cache: see pmfsctl holders");
    return {};
}

}  // namespace

Result<FileFlags> Volume::file_flags(InodeNo ino) {
    Engine &e = parts_->engine;
    SharedLock held(e.lock);
    const std::uint32_t bits = TRY(read_flagged(Reader(*e.core), ino))->flags.get();
    return FileFlags{.immutable = (bits & media::kImmutable) != 0,
                     .append_only = (bits & media::kAppendOnly) != 0,
                     .no_dump = (bits & media::kNoDump) != 0,
                     .no_access_time = (bits & media::kNoAccessTime) != 0};
}

Result<> Volume::set_file_flags(InodeNo ino, const FileFlags &flags, Progress *progress) {
    Engine &e = parts_->engine;
    TRY(writable(e));
    const std::uint32_t bits = bits_of(flags);
    if (bits != 0) TRY(parts_->tuning.note_minor_version());
    const auto set = [&]() -> Result<> {
        ExclusiveLock held(e.lock);
        const auto *was = TRY(read_flagged(Reader(*e.core), ino));
        if ((bits & core::kProtectionFlags & ~was->flags.get()) != 0) TRY(check_no_stores(e, ino));
        Change change(*e.core);
        TRY(change.begin());
        auto *inode = TRY(core::edit_inode(change, ino));
        inode->flags.set((inode->flags.get() & ~core::kFileFlags) | bits);
        touch(inode, false);
        TRY(change.commit());
        return {};
    };
    return parts_->scheduler.unless_closed_soon(progress, set());
}

}  // namespace pmfs
