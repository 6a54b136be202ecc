// The kernel's bits of a file's flags, and the volume's: see ioctl_flags.h.
//
// Linux (5.13 and up) handles these ioctls in its VFS, which checks CAP_LINUX_IMMUTABLE where
// necessary, and sends one of its own without a program's pointer.  Older kernels pass on every
// caller's ioctl unchecked: they get ENOTTY.
#include "front/requests/ioctl_flags.h"

#include <linux/fs.h>

#include <algorithm>

#include "front/requests/ioctl_job.h"

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
    if (bits != 0) return Error(EOPNOTSUPP, "pmfs supports only the flags i, a, d and A");
    return flags;
}

// Fills in the answer.
template <class T>
Result<std::size_t> give(const Job &job, std::vector<std::byte> &bytes, const T &value) {
    if (sizeof value > job.out_size) return Error(EINVAL, "there is no room for the flags");
    const ConstBytes answer = bytes_of(value);
    bytes.assign(answer.begin(), answer.end());
    return sizeof value;
}

Result<std::size_t> get_flags(Job &job, std::vector<std::byte> &bytes) {
    return give(job, bytes, to_bits(TRY(job.context.volume.file_flags(job.ino)), &Bit::flag));
}

Result<std::size_t> get_attributes(Job &job, std::vector<std::byte> &bytes) {
    fsxattr attributes{};
    attributes.fsx_xflags = to_bits(TRY(job.context.volume.file_flags(job.ino)), &Bit::xflag);
    return give(job, bytes, attributes);
}

Result<std::size_t> set_flags(Job &job, std::vector<std::byte> &bytes) {
    if (bytes.size() != sizeof(std::uint32_t))
        return Error(EINVAL, "the request contains no flags");
    const FileFlags flags = TRY(from_bits(load<std::uint32_t>(bytes), &Bit::flag));
    TRY(job.context.volume.set_file_flags(job.ino, flags, &job.progress));
    return std::size_t{0};
}

Result<std::size_t> set_attributes(Job &job, std::vector<std::byte> &bytes) {
    if (bytes.size() != sizeof(fsxattr)) return Error(EINVAL, "the request contains no attributes");
    const auto attributes = load<fsxattr>(bytes);
    if (attributes.fsx_extsize != 0 || attributes.fsx_projid != 0 || attributes.fsx_cowextsize != 0)
        return Error(EOPNOTSUPP, "pmfs supports neither projects nor extent sizes");
    const FileFlags flags = TRY(from_bits(attributes.fsx_xflags, &Bit::xflag));
    TRY(job.context.volume.set_file_flags(job.ino, flags, &job.progress));
    return std::size_t{0};
}

using enum Command::Way;
using enum Command::Needs;
constexpr Command kCommands[] = {
    {FS_IOC_GETFLAGS, at_once, false, nothing, get_flags},
    {FS_IOC_FSGETXATTR, at_once, false, nothing, get_attributes},
    // Stores by mmap are written back first, as long as that is still allowed.
    {FS_IOC_SETFLAGS, flushed, true, change, set_flags},
    {FS_IOC_FSSETXATTR, flushed, true, change, set_attributes},
};

const Command *find_command(unsigned number) {
    const auto *found = std::ranges::find(kCommands, number, &Command::number);
    return found == std::end(kCommands) ? nullptr : found;
}

}  // namespace

bool is_flags_ioctl(unsigned command) {
    return find_command(command) != nullptr;
}

void handle_flags_ioctl(IoctlContext &context, const IoctlRequest &request, std::uint64_t argument,
                        IoctlDone done) {
    if (argument != 0) return done({.error = ENOTTY, .out = {}});
    start(*find_command(request.command), context, request, std::move(done));
}

}  // namespace pmfs::front
