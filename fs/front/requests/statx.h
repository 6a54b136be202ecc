// FUSE_STATX, which libfuse 3.14 and the headers of Debian 12 do not know: the kernel asks by it
// for what FUSE_GETATTR has no room for, the birth time.
//
// Wire structures: include/uapi/linux/fuse.h of Linux, protocol 7.39.
#pragma once
#include <cstdint>

#include "volume/types.h"

namespace pmfs::front {

inline constexpr std::uint32_t kFuseStatx = 52;

struct StatxIn {
    std::uint32_t getattr_flags;  // FUSE_GETATTR_FH: fh is a handle of the file
    std::uint32_t reserved;
    std::uint64_t fh;
    std::uint32_t sx_flags, sx_mask;
};
static_assert(sizeof(StatxIn) == 24);

struct StatxTime {
    std::int64_t seconds;
    std::uint32_t nanoseconds;
    std::int32_t reserved;
};

struct Statx {
    std::uint32_t mask;  // STATX_* of statx(2): what is filled in
    std::uint32_t blksize;
    std::uint64_t attributes;
    std::uint32_t nlink, uid, gid;
    std::uint16_t mode, spare0;
    std::uint64_t ino, size, blocks, attributes_mask;
    StatxTime atime, btime, ctime, mtime;
    std::uint32_t rdev_major, rdev_minor, dev_major, dev_minor;
    std::uint64_t spare2[14];
};
static_assert(sizeof(Statx) == 256);

struct StatxOut {
    std::uint64_t attr_valid;
    std::uint32_t attr_valid_nsec;
    std::uint32_t flags;
    std::uint64_t spare[2];
    Statx stat;
};
static_assert(sizeof(StatxOut) == 288);

StatxOut to_statx(const Attr &attr, double timeout_s);

}  // namespace pmfs::front
