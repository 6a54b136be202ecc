// Attributes, entries and callers, between the volume's words and libfuse's.
#include "front/requests/convert.h"

#include "front/requests/request.h"

namespace pmfs::front {

struct stat to_stat(const Attr &attr) {
    struct stat to {};
    to.st_ino = attr.ino.value();
    to.st_mode = attr.mode;
    to.st_nlink = attr.nlink;
    to.st_uid = attr.uid;
    to.st_gid = attr.gid;
    to.st_rdev = attr.rdev;
    to.st_size = static_cast<off_t>(attr.size);
    to.st_blksize = 4096;
    to.st_blocks = static_cast<blkcnt_t>(attr.blocks * (4096 / 512));
    to.st_atim = to_timespec(attr.atime);
    to.st_mtim = to_timespec(attr.mtime);
    to.st_ctim = to_timespec(attr.ctime);
    return to;
}

fuse_entry_param to_entry(const Attr &attr, const DispatchOptions &options) {
    fuse_entry_param entry{};
    entry.ino = attr.ino.value();
    // The kernel knows the root without having asked, as generation 0.
    entry.generation = attr.ino.value() == FUSE_ROOT_ID ? 0 : attr.generation;
    entry.attr = to_stat(attr);
    entry.attr_timeout = attr_timeout(attr, options);
    entry.entry_timeout = options.entry_timeout_s;
    return entry;
}

Caller caller_of(fuse_req_t req, const fuse_file_info *info) {
    const fuse_ctx *context = fuse_req_ctx(req);
    Caller caller;
    caller.uid = context->uid;
    caller.gid = context->gid;
    caller.pid = static_cast<std::uint32_t>(context->pid);
    caller.handle = info != nullptr ? info->fh : 0;
    caller.progress = &Request::current()->progress();
    return caller;
}

}  // namespace pmfs::front
