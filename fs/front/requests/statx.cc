// Attributes with their birth time: see statx.h.
#include "front/requests/statx.h"

#include <linux/stat.h>
#include <sys/sysmacros.h>

namespace pmfs::front {
namespace {

StatxTime to_time(const Timespec &time) {
    return {time.seconds, time.nanoseconds, 0};
}

}  // namespace

StatxOut to_statx(const Attr &attr, double timeout_s) {
    StatxOut out{};
    out.attr_valid = static_cast<std::uint64_t>(timeout_s);
    out.attr_valid_nsec =
        static_cast<std::uint32_t>((timeout_s - static_cast<double>(out.attr_valid)) * 1e9);
    Statx &to = out.stat;
    to.mask = STATX_BASIC_STATS | STATX_BTIME;
    to.blksize = 4096;
    to.nlink = attr.nlink;
    to.uid = attr.uid;
    to.gid = attr.gid;
    to.mode = static_cast<std::uint16_t>(attr.mode);
    to.ino = attr.ino.value();
    to.size = attr.size;
    to.blocks = attr.blocks * (4096 / 512);
    to.atime = to_time(attr.atime);
    to.btime = to_time(attr.crtime);
    to.ctime = to_time(attr.ctime);
    to.mtime = to_time(attr.mtime);
    to.rdev_major = gnu_dev_major(attr.rdev);
    to.rdev_minor = gnu_dev_minor(attr.rdev);
    return out;
}

}  // namespace pmfs::front
