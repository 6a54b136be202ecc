// First working regions: memory and image files.  The real backends replace this file.
#include <emmintrin.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <cstring>

#include "base/bytes.h"
#include "pm/mapping.h"
#include "pm/region.h"

namespace pmfs::pm {

const char *name_of(MediumKind kind) {
    switch (kind) {
        case MediumKind::devdax: return "device-DAX";
        case MediumKind::fsdax: return "file on fsdax";
        case MediumKind::memory: return "memory";
        case MediumKind::image: return "image file";
    }
    return "?";
}

namespace {

class MappedRegion final : public Region {
public:
    MappedRegion(MediumKind kind, Fd fd, Mapping shared, Mapping own, std::uint64_t size)
        : fd_(std::move(fd)), shared_(std::move(shared)), private_(std::move(own)) {
        kind_ = kind;
        size_ = size;
        data_ = shared_.start();
        meta_ = private_.start() != nullptr ? private_.start() : data_;
    }
    Result<> sync() override {
        if (!is_image()) return {};
        if (failed_ || ::fdatasync(fd_.get()) != 0) {
            failed_ = true;
            return Error(EIO, "the image file cannot be written");
        }
        return {};
    }
    void store_home(std::uint64_t offset, std::span<const std::byte> bytes) override {
        do_write(offset, bytes);
    }
    void drop_private(std::uint64_t offset) override {
        if (private_.start() != nullptr)
            ::madvise(private_.start() + align_down(offset, 4096), 4096, MADV_DONTNEED);
    }
    int mapping_fd() const override { return fd_.get(); }

protected:
    void do_write(std::uint64_t offset, std::span<const std::byte> bytes) override {
        PMFS_ASSERT(offset <= size_ && bytes.size() <= size_ - offset);
        std::memcpy(shared_.start() + offset, bytes.data(), bytes.size());
    }
    void do_zero(std::uint64_t offset, std::uint64_t size) override {
        PMFS_ASSERT(offset <= size_ && size <= size_ - offset);
        std::memset(shared_.start() + offset, 0, size);
    }
    void do_store_meta(std::uint64_t offset, std::span<const std::byte> bytes) override {
        PMFS_ASSERT(offset <= size_ && bytes.size() <= size_ - offset);
        auto *to = private_.start() != nullptr ? private_.start() : shared_.start();
        std::memcpy(to + offset, bytes.data(), bytes.size());
    }
    void do_fence() override { _mm_sfence(); }
    void do_fence_everywhere() override { _mm_sfence(); }

private:
    Fd fd_;
    Mapping shared_, private_;
    bool failed_ = false;
};

}  // namespace

Result<std::unique_ptr<Region>> open_region(const std::string &path, const OpenOptions &options) {
    const bool write = !options.read_only && !options.private_copy;
    Fd fd(::open(path.c_str(), (write ? O_RDWR : O_RDONLY) | O_CLOEXEC));
    if (!fd.valid()) return Error(errno, "cannot open the region");
    struct stat st {};
    struct statfs fs {};
    if (::fstat(fd.get(), &st) != 0 || ::fstatfs(fd.get(), &fs) != 0)
        return Error(errno, "cannot look at the region");
    const auto size = static_cast<std::uint64_t>(st.st_size);
    if (size == 0) return Error(EINVAL, "the region is empty");
    const bool memory = fs.f_type == TMPFS_MAGIC || fs.f_type == HUGETLBFS_MAGIC;
    const int protection = PROT_READ | (options.read_only ? 0 : PROT_WRITE);
    Mapping shared = TRY(Mapping::make(fd.get(), size, protection,
                                       options.private_copy ? MAP_PRIVATE : MAP_SHARED));
    Mapping own;
    if (!memory && !options.private_copy && !options.read_only)
        own = TRY(Mapping::make(fd.get(), size, protection, MAP_PRIVATE | MAP_NORESERVE));
    return std::make_unique<MappedRegion>(memory ? MediumKind::memory : MediumKind::image,
                                          std::move(fd), std::move(shared), std::move(own), size);
}

Result<std::unique_ptr<Region>> memory_region(std::uint64_t size) {
    Fd fd(::memfd_create("pmfs", MFD_CLOEXEC));
    if (!fd.valid() || ::ftruncate(fd.get(), static_cast<off_t>(size)) != 0)
        return Error(errno, "cannot make a memory region");
    Mapping shared = TRY(Mapping::make(fd.get(), size, PROT_READ | PROT_WRITE, MAP_SHARED));
    return std::make_unique<MappedRegion>(MediumKind::memory, std::move(fd), std::move(shared),
                                          Mapping(), size);
}

bool take_fault() { return false; }

}  // namespace pmfs::pm
