// The kernel's bits of a file's flags, and the volume's: see ioctl_flags.h.
//
// Linux (5.13 and up) answers these ioctls in its VFS, which asks for CAP_LINUX_IMMUTABLE where
// that is needed, and sends us one of its own with no program's pointer in it.  Older ones pass on
// what anybody asks: they are told ENOTTY.
#include "front/requests/ioctl_flags.h"

#include <linux/fs.h>

#include <cstring>

namespace pmfs::front {
namespace {

struct Bit {
    std::uint32_t flag, xflag;
    bool FileFlags::*of;
};
constexpr Bit kBits[] = {
    {FS_IMMUTABLE_FL, FS_XFLAG_IMMUTABLE, &FileFlags::immutable},
    {FS_APPEND_FL, FS_XFLAG_APPEND, &FileFlags::append_only},
    {FS_NODUMP_FL, FS_XFLAG_NODUMP, &FileFlags::no_dump},
    {FS_NOATIME_FL, FS_XFLAG_NOATIME, &FileFlags::no_access_time},
};

std::uint32_t to_bits(const FileFlags &flags, std::uint32_t Bit::*kind) {
    std::uint32_t bits = 0;
    for (const Bit &bit : kBits)
        if (flags.*bit.of) bits |= bit.*kind;
    return bits;
}

Result<FileFlags> from_bits(std::uint32_t bits, std::uint32_t Bit::*kind) {
    FileFlags flags;
    for (const Bit &bit : kBits) {
        flags.*bit.of = (bits & bit.*kind) != 0;
        bits &= ~(bit.*kind);
    }
    if (bits != 0) return Error(EOPNOTSUPP, "pmfs has the flags i, a, d and A only");
    return flags;
}

template <class T>
std::vector<std::byte> as_bytes(const T &value) {
    const ConstBytes bytes = bytes_of(value);
    return {bytes.begin(), bytes.end()};
}

Result<std::vector<std::byte>> get(IoctlContext &context, const IoctlRequest &request) {
    const FileFlags flags = TRY(context.volume.file_flags(request.ino));
    if (request.command == FS_IOC_GETFLAGS) return as_bytes(to_bits(flags, &Bit::flag));
    fsxattr attributes{};
    attributes.fsx_xflags = to_bits(flags, &Bit::xflag);
    return as_bytes(attributes);
}

Result<FileFlags> wanted(const IoctlRequest &request) {
    if (request.command == FS_IOC_SETFLAGS) {
        if (request.in.size() != sizeof(std::uint32_t)) return Error(EINVAL, "no flags");
        return from_bits(load<std::uint32_t>(request.in), &Bit::flag);
    }
    if (request.in.size() != sizeof(fsxattr)) return Error(EINVAL, "no attributes");
    const auto attributes = load<fsxattr>(request.in);
    if (attributes.fsx_extsize != 0 || attributes.fsx_projid != 0 || attributes.fsx_cowextsize != 0)
        return Error(EOPNOTSUPP, "pmfs has no projects and no extent sizes");
    return from_bits(attributes.fsx_xflags, &Bit::xflag);
}

void set(IoctlContext &context, InodeNo ino, const FileFlags &flags, std::uint32_t user,
         const IoctlDone &done) {
    if (context.client.gone()) return done({.error = EINTR, .out = {}});
    const Result<> result = context.volume.set_file_flags(ino, flags);
    if (!result.ok() && must_park(result.error()))
        return context.volume.when_ready(
            result.error(), [=, &context] { set(context, ino, flags, user, done); }, user);
    const int error = result.ok() ? 0 : result.error().errno_value();
    context.clients.forget_attributes(context.client, ino,
                                      [done, error] { done({.error = error, .out = {}}); });
}

}  // namespace

bool is_flags_ioctl(unsigned command) {
    return command == FS_IOC_GETFLAGS || command == FS_IOC_SETFLAGS ||
           command == FS_IOC_FSGETXATTR || command == FS_IOC_FSSETXATTR;
}

void handle_flags_ioctl(IoctlContext &context, const IoctlRequest &request, std::uint64_t argument,
                        IoctlDone done) {
    const auto fails = [&done](int error) { done({.error = error, .out = {}}); };
    if (argument != 0) return fails(ENOTTY);
    if (request.command == FS_IOC_GETFLAGS || request.command == FS_IOC_FSGETXATTR) {
        auto got = get(context, request);
        if (!got.ok()) return fails(got.error().errno_value());
        if (got.value().size() > request.out_size) return fails(EINVAL);
        return done({.error = 0, .out = std::move(got).take()});
    }
    if (context.client.policy().read_only) return fails(EROFS);
    const auto flags = wanted(request);
    if (!flags.ok()) return fails(flags.error().errno_value());
    // What was stored by mmap is written back as long as it may be.
    const std::uint32_t user = request.caller.uid;
    context.clients.flush(
        context.client, {.ino = request.ino}, user,
        [&context, ino = request.ino, flags = flags.value(), user, done = std::move(done)] {
            context.volume.run_later(user, ino.value(), false, [&context, ino, flags, user, done] {
                set(context, ino, flags, user, done);
            });
        });
}

}  // namespace pmfs::front
