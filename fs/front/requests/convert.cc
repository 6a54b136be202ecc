// Attributes, entries and callers, between the volume's words and libfuse's.
#include "front/requests/convert.h"

#include "front/requests/request.h"
#include "volume/acl_ids.h"

namespace pmfs::front {

Attr shown(const Attr &attr, const Client &client) {
    Attr as_seen = attr;
    as_seen.uid = client.policy().users.out(attr.uid);
    as_seen.gid = client.policy().groups.out(attr.gid);
    return as_seen;
}

struct stat to_stat(const Attr &attr, const Client &client) {
    struct stat to {};
    to.st_ino = attr.ino.value();
    to.st_mode = attr.mode;
    to.st_nlink = attr.nlink;
    to.st_uid = client.policy().users.out(attr.uid);
    to.st_gid = client.policy().groups.out(attr.gid);
    to.st_rdev = attr.rdev;
    to.st_size = static_cast<off_t>(attr.size);
    to.st_blksize = 4096;
    to.st_blocks = static_cast<blkcnt_t>(attr.blocks * (4096 / 512));
    to.st_atim = to_timespec(attr.atime);
    to.st_mtim = to_timespec(attr.mtime);
    to.st_ctim = to_timespec(attr.ctime);
    return to;
}

fuse_entry_param to_entry(const Attr &attr, Dispatcher &dispatcher) {
    const Client &client = dispatcher.client();
    fuse_entry_param entry{};
    entry.ino = client.node_of(attr.ino);
    // The kernel knows the root without a lookup, as generation 0.
    entry.generation = entry.ino == FUSE_ROOT_ID ? 0 : attr.generation;
    entry.attr = to_stat(attr, client);
    entry.attr_timeout = attr_timeout(attr, dispatcher);
    entry.entry_timeout = dispatcher.timeout(dispatcher.options().entry_timeout_s);
    return entry;
}

ConstBytes xattr_out(std::string_view name, ConstBytes value, const Client &client,
                     std::vector<std::byte> *made) {
    const Policy &policy = client.policy();
    const auto other = [&policy](bool user, std::uint32_t id) {
        return user ? policy.users.out(id) : policy.groups.out(id);
    };
    return with_other_ids(name, value, other, made);
}

std::optional<ConstBytes> xattr_in(std::string_view name, ConstBytes value, const Client &client,
                                   std::vector<std::byte> *made) {
    const Policy &policy = client.policy();
    bool all = true;
    const auto other = [&](bool user, std::uint32_t id) {
        const auto outside = user ? policy.users.in(id) : policy.groups.in(id);
        all = all && outside;
        return outside.value_or(IdMap::kOverflow);
    };
    const ConstBytes bytes = with_other_ids(name, value, other, made);
    if (!all) return std::nullopt;
    return bytes;
}

Caller caller_of(fuse_req_t req, const fuse_file_info *info) {
    const fuse_ctx *context = fuse_req_ctx(req);
    Caller caller;
    caller.uid = context->uid;
    caller.gid = context->gid;
    caller.umask = context->umask;
    caller.pid = static_cast<std::uint32_t>(context->pid);
    caller.client = Dispatcher::of(req).client().id();
    caller.handle = info != nullptr ? info->fh : 0;
    caller.progress = &Request::current()->progress();
    return caller;
}

}  // namespace pmfs::front
