// Names of media and seals.
#include "words.h"

#include <fmt/format.h>

#include <iterator>

#include "pmfs_ioctl.h"

namespace pmfs::ctl {

const char *medium_text(std::uint32_t medium) {
    switch (medium) {
        case PMFS_MEDIUM_DEVDAX:
            return "device-DAX";
        case PMFS_MEDIUM_FSDAX:
            return "file on fsdax";
        case PMFS_MEDIUM_MEMORY:
            return "memory";
        case PMFS_MEDIUM_IMAGE:
            return "image file";
        default:
            return "unknown medium";
    }
}

const char *medium_key(std::uint32_t medium) {
    switch (medium) {
        case PMFS_MEDIUM_DEVDAX:
            return "devdax";
        case PMFS_MEDIUM_FSDAX:
            return "fsdax";
        case PMFS_MEDIUM_MEMORY:
            return "memory";
        case PMFS_MEDIUM_IMAGE:
            return "image";
        default:
            return "unknown";
    }
}

const char *seal_text(std::uint32_t level) {
    switch (level) {
        case PMFS_SEAL_NONE:
            return "none";
        case PMFS_SEAL_AS_IS:
            return "as-is";
        case PMFS_SEAL_FULL:
            return "full";
        default:
            return "unknown";
    }
}

std::string request_key(std::size_t opcode) {
    static constexpr const char *kNames[] = {"other",        "lookup",        "forget",
                                             "getattr",      "setattr",       "readlink",
                                             "symlink",      nullptr,         "mknod",
                                             "mkdir",        "unlink",        "rmdir",
                                             "rename",       "link",          "open",
                                             "read",         "write",         "statfs",
                                             "release",      nullptr,         "fsync",
                                             "setxattr",     "getxattr",      "listxattr",
                                             "removexattr",  "flush",         "init",
                                             "opendir",      "readdir",       "releasedir",
                                             "fsyncdir",     "getlk",         "setlk",
                                             "setlkw",       "access",        "create",
                                             "interrupt",    "bmap",          "destroy",
                                             "ioctl",        "poll",          "notify_reply",
                                             "batch_forget", "fallocate",     "readdirplus",
                                             "rename2",      "lseek",         "copy_file_range",
                                             "setupmapping", "removemapping", "syncfs",
                                             "tmpfile",      "statx",         "copy_file_range_64"};
    const char *name = opcode < std::size(kNames) ? kNames[opcode] : nullptr;
    return name != nullptr ? name : fmt::format("opcode_{}", opcode);
}

}  // namespace pmfs::ctl
