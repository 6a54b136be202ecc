// Makes and preallocates image files.
#include "mkfs/image.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "base/file_descriptor.h"

namespace pmfs::mkfs {
namespace {

constexpr std::uint64_t kStatBlock = 512;  // bytes in a unit of st_blocks

constexpr Error no_space() {
    return Error(ENOSPC,
                 "its filesystem does not have enough space (--sparse creates it nevertheless, "
                 "and writes may fail later)");
}

// fallocate(2) takes all that is free before it says ENOSPC, and meanwhile every other program on
// that filesystem has none.  So what clearly does not fit is refused before.
Result<> refuse_what_cannot_fit(int fd, const struct stat &now, std::uint64_t size) {
    struct statvfs below {};
    if (::fstatvfs(fd, &below) != 0) return Error(errno, "it cannot be accessed");
    if (below.f_blocks == 0) return {};  // a filesystem that does not say
    const std::uint64_t has = static_cast<std::uint64_t>(now.st_blocks) * kStatBlock;
    const std::uint64_t free = static_cast<std::uint64_t>(below.f_bavail) * below.f_frsize;
    if (size <= has || size - has <= free) return {};
    return no_space();
}

Result<> allocate(int fd, off_t size) {
    int error = 0;
    do error = ::fallocate(fd, 0, 0, size) == 0 ? 0 : errno;
    while (error == EINTR);
    if (error == EOPNOTSUPP)
        return Error(error, "its filesystem cannot preallocate files (use --sparse)");
    if (error == ENOSPC) return no_space();
    if (error != 0) return Error(error, "it cannot be preallocated");
    return {};
}

}  // namespace

Result<ImageState> look_at(const std::string &path) {
    struct stat st {};
    if (::stat(path.c_str(), &st) != 0) {
        if (errno == ENOENT) return ImageState{};
        return Error(errno, "it cannot be accessed (no permission, or no such directory)");
    }
    ImageState state{.exists = true, .regular = S_ISREG(st.st_mode)};
    if (state.regular) state.size = static_cast<std::uint64_t>(st.st_size);
    return state;
}

Result<> provide_image(const std::string &path, std::optional<std::uint64_t> size, bool sparse) {
    const FileDescriptor fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    if (!fd.ok()) return Error(errno, "it cannot be opened for writing");
    struct stat before {};
    if (::fstat(fd.get(), &before) != 0) return Error(errno, "it cannot be accessed");
    const off_t wanted = size ? static_cast<off_t>(*size) : before.st_size;
    if (!sparse) TRY(refuse_what_cannot_fit(fd.get(), before, static_cast<std::uint64_t>(wanted)));
    if (wanted != before.st_size && ::ftruncate(fd.get(), wanted) != 0)
        return Error(errno, "its filesystem does not allow a file of this size");
    if (sparse || wanted == 0) return {};
    Result<> allocated = allocate(fd.get(), wanted);
    // (Shortened, it needed no space.)
    if (!allocated.ok() && wanted > before.st_size && ::ftruncate(fd.get(), before.st_size) != 0)
        return Error(errno, "it cannot be given its old size again");
    return allocated;
}

}  // namespace pmfs::mkfs
