// Makes and preallocates image files.
#include "mkfs/image.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "base/file_descriptor.h"

namespace pmfs::mkfs {

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
    if (size && ::ftruncate(fd.get(), static_cast<off_t>(*size)) != 0)
        return Error(errno, "its filesystem does not allow a file of this size");
    struct stat st {};
    if (::fstat(fd.get(), &st) != 0) return Error(errno, "it cannot be accessed");
    if (sparse || st.st_size == 0) return {};
    int error = 0;
    do error = ::fallocate(fd.get(), 0, 0, st.st_size) == 0 ? 0 : errno;
    while (error == EINTR);
    if (error == EOPNOTSUPP)
        return Error(error, "its filesystem cannot preallocate files (use --sparse)");
    if (error == ENOSPC)
        return Error(error,
                     "its filesystem does not have enough space (--sparse creates it nevertheless, "
                     "and writes "
                     "may fail later)");
    if (error != 0) return Error(error, "it cannot be preallocated");
    return {};
}

}  // namespace pmfs::mkfs
