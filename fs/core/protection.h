// What the flags of chattr(1) forbid to all users: EPERM. (The kernel decides who may set them.)
//
// The rules are those of Linux's VFS and of ext4, which also enforces them on open files.
#pragma once
#include <cerrno>
#include <cstdint>

#include "base/result.h"
#include "media/format.h"

namespace pmfs::core {

inline constexpr std::uint32_t kProtectionFlags = media::kImmutable | media::kAppendOnly;
inline constexpr std::uint32_t kFileFlags =
    kProtectionFlags | media::kNoDump | media::kNoAccessTime;
// What a new file inherits from its directory.
inline constexpr std::uint32_t kInheritedFlags = media::kNoDump | media::kNoAccessTime;

inline bool is_immutable(const media::Inode &inode) {
    return (inode.flags.get() & media::kImmutable) != 0;
}
inline bool is_append_only(const media::Inode &inode) {
    return (inode.flags.get() & media::kAppendOnly) != 0;
}

// Changes of size, owner, mode, extended attributes and times that are given; of where its blocks
// are; a further name.
inline Result<> may_change(const media::Inode &inode) {
    if ((inode.flags.get() & kProtectionFlags) == 0) [[likely]]
        return {};
    return Error(EPERM, "the file is immutable or append-only (lsattr)");
}
inline Result<> may_touch(const media::Inode &inode) {
    if (!is_immutable(inode)) [[likely]]
        return {};
    return Error(EPERM, "the file is immutable (lsattr)");
}
inline Result<> may_write(const media::Inode &inode, std::uint64_t offset) {
    TRY(may_touch(inode));
    if (is_append_only(inode) && offset < inode.size.get())
        return Error(EPERM, "the file is append-only (lsattr)");
    return {};
}
inline Result<> may_open_for_writing(const media::Inode &inode, bool appends) {
    TRY(may_touch(inode));
    if (is_append_only(inode) && !appends)
        return Error(EPERM, "the file is append-only (lsattr): open it with O_APPEND");
    return {};
}
// Removing a name of `target` from `dir`.
inline Result<> may_remove_name(const media::Inode &dir, const media::Inode &target) {
    TRY(may_change(dir));
    return may_change(target);
}

}  // namespace pmfs::core
