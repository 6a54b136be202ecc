// Mapping the memory that the front end hands over, with a check of everything that it says about
// it.
#include "virtio/guest_memory.h"

#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <string>

#include "base/bytes.h"
#include "base/sysfs.h"

namespace pmfs::virtio {
namespace {

// Filesystems that another process or machine serves.
constexpr std::uint32_t kServed[] = {FUSE_SUPER_MAGIC, NFS_SUPER_MAGIC,  CIFS_SUPER_MAGIC,
                                     SMB2_SUPER_MAGIC, CEPH_SUPER_MAGIC, V9FS_MAGIC};

bool wraps(std::uint64_t start, std::uint64_t size) {
    return size > std::numeric_limits<std::uint64_t>::max() - start;
}

// The size of a file, and the units in which it can be mapped.
struct Backing {
    std::uint64_t size;
    std::uint64_t unit;
};

// A number in sysfs about a device-DAX device; 0: it is no such device.
std::uint64_t dax_number(dev_t device, const char *what) {
    const std::string path = sysfs_of("char", device) + "/" + what;
    const std::unique_ptr<std::FILE, int (*)(std::FILE *)> file(std::fopen(path.c_str(), "re"),
                                                                std::fclose);
    unsigned long long number = 0;
    return file && std::fscanf(file.get(), "%llu", &number) == 1 ? number : 0;
}

Result<Backing> backing_of(const struct stat &status, int fd) {
    static constexpr std::uint64_t kPage = 4096;
    if (S_ISCHR(status.st_mode)) {
        const std::uint64_t size = dax_number(status.st_rdev, "size");
        const std::uint64_t unit = dax_number(status.st_rdev, "align");
        if (size == 0 || !std::has_single_bit(unit))
            return Error(EINVAL,
                         "guest memory: the descriptor is of a device other than device-DAX");
        return Backing{size, std::max(unit, kPage)};
    }
    if (!S_ISREG(status.st_mode))
        return Error(EINVAL, "guest memory: the descriptor is neither a file nor device-DAX");
    struct statfs system {};
    if (::fstatfs(fd, &system) != 0) return Error(errno, "guest memory: cannot look at its file");
    // Its server could make a page fault wait for ever; that server may even be this process.
    for (const std::uint32_t remote : kServed)
        if (static_cast<std::uint32_t>(system.f_type) == remote)
            return Error(EINVAL,
                         "guest memory: a file of a filesystem that another process or machine "
                         "serves (take memory-backend-memfd)");
    const bool huge = system.f_type == HUGETLBFS_MAGIC;
    const auto unit = huge ? static_cast<std::uint64_t>(system.f_bsize) : kPage;
    if (!std::has_single_bit(unit))
        return Error(EINVAL, "guest memory: the size of huge pages is not a power of two");
    return Backing{static_cast<std::uint64_t>(status.st_size), unit};
}

Result<> check(const MemoryRegion &region) {
    if (region.size == 0) return Error(EINVAL, "guest memory: an empty region");
    if (wraps(region.guest, region.size) || wraps(region.user, region.size) ||
        wraps(region.offset, region.size))
        return Error(EINVAL, "guest memory: a region wraps around");
    if (region.size > kMemoryMax) return Error(EINVAL, "guest memory: a region is too large");
    return {};
}

// The first entry, by guest address, that ends behind `guest`.
auto entry_at(std::span<const MemoryTable::Entry> entries, std::uint64_t guest) {
    return std::partition_point(entries.begin(), entries.end(), [guest](const auto &entry) {
        return entry.region.guest + (entry.region.size - 1) < guest;
    });
}

}  // namespace

Result<std::shared_ptr<const Mapping>> Mapping::make(const MemoryRegion &region, int fd,
                                                     MemoryOwner &owner) {
    struct stat status {};
    if (::fstat(fd, &status) != 0) return Error(errno, "guest memory: cannot look at its file");
    const Backing backing = TRY(backing_of(status, fd));
    if (region.offset > backing.size || region.size > backing.size - region.offset)
        return Error(EINVAL, "guest memory: a region is longer than its file");
    const std::uint64_t from = align_down(region.offset, backing.unit);
    const std::uint64_t size = align_up(region.offset + region.size - from, backing.unit);
    void *const at = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd,
                            static_cast<off_t>(from));
    if (at == MAP_FAILED) return Error(errno, "guest memory: a region cannot be mapped");
    ::madvise(at, size, MADV_DONTDUMP);
    std::shared_ptr<Mapping> mapping(new Mapping);
    mapping->mapped_ = at;
    mapping->mapped_size_ = size;
    mapping->before_ = region.offset - from;
    mapping->start_ = static_cast<std::byte *>(at) + mapping->before_;
    mapping->device_ = status.st_dev;
    mapping->inode_ = status.st_ino;
    mapping->guard_ = TRY(owner.guard(static_cast<std::byte *>(at), size, backing.unit));
    return std::shared_ptr<const Mapping>(std::move(mapping));
}

Mapping::~Mapping() {
    guard_.reset();
    if (mapped_ != nullptr) ::munmap(mapped_, mapped_size_);
}

bool MemoryTable::translate(std::uint64_t guest, std::uint64_t size,
                            std::vector<iovec> *pieces) const {
    const std::size_t before = pieces->size();
    const std::span<const Entry> entries = entries_;
    auto entry = entry_at(entries, guest);
    while (size != 0) {
        const bool there = entry != entries.end() && entry->region.guest <= guest && entry->mapping;
        const std::uint64_t inside = there ? guest - entry->region.guest : 0;
        const std::uint64_t length = there ? std::min(size, entry->region.size - inside) : 0;
        if (!there || entry->mapping->lost(inside, length)) {
            pieces->resize(before);
            return false;
        }
        pieces->push_back({entry->mapping->start() + inside, length});
        size -= length;
        guest += length;  // wraps only when nothing is left
        ++entry;
    }
    return true;
}

std::byte *MemoryTable::at_user(std::uint64_t user, std::uint64_t size) const {
    for (const auto &[region, mapping] : entries_) {
        if (user < region.user || user - region.user >= region.size) continue;
        const std::uint64_t inside = user - region.user;
        if (size <= region.size - inside && mapping && !mapping->lost(inside, size))
            return mapping->start() + inside;
    }
    return nullptr;
}

GuestMemory::GuestMemory(MemoryOwner &owner)
    : owner_(owner), table_(std::make_shared<MemoryTable>()) {}

std::shared_ptr<const MemoryTable> GuestMemory::table() const {
    Lock lock(mutex_);
    return table_;
}

// A mapping that the table has already is used again: a new one would have to be faulted in again,
// and QEMU sends its whole table for each range of a window.
Result<MemoryTable::Entry> GuestMemory::enter(const MemoryRegion &region, int fd,
                                              const MemoryTable &before) const {
    TRY(check(region));
    if (owner_.owns(region, fd)) return MemoryTable::Entry{region, nullptr};
    struct stat status {};
    if (::fstat(fd, &status) != 0) return Error(errno, "guest memory: cannot look at its file");
    for (const auto &entry : before.entries()) {
        if (entry.region == region && entry.mapping &&
            entry.mapping->is_of(status.st_dev, status.st_ino))
            return entry;
    }
    return MemoryTable::Entry{region, TRY(Mapping::make(region, fd, owner_))};
}

Result<> GuestMemory::publish(std::vector<MemoryTable::Entry> entries) {
    if (entries.size() > kRegionsMax) return Error(EINVAL, "guest memory: too many regions");
    std::sort(entries.begin(), entries.end(),
              [](const auto &a, const auto &b) { return a.region.guest < b.region.guest; });
    std::uint64_t total = 0;
    for (std::size_t i = 0; i < entries.size(); ++i) {
        const MemoryRegion &region = entries[i].region;
        total += region.size;
        if (total > kMemoryMax) return Error(EINVAL, "guest memory: too large");
        if (i > 0 && entries[i - 1].region.guest + entries[i - 1].region.size > region.guest)
            return Error(EINVAL, "guest memory: regions overlap");
    }
    auto table = std::make_shared<MemoryTable>();
    table->entries_ = std::move(entries);
    std::shared_ptr<const MemoryTable> replaced = std::move(table);
    Lock lock(mutex_);
    std::swap(table_, replaced);
    lock.unlock();  // before the old table's mappings are destroyed
    return {};
}

Result<> GuestMemory::set(std::span<const MemoryRegion> regions,
                          std::span<const FileDescriptor> fds) {
    if (regions.size() != fds.size())
        return Error(EINVAL, "guest memory: not one descriptor for each region");
    const auto before = table();
    std::vector<MemoryTable::Entry> entries;
    for (std::size_t i = 0; i < regions.size(); ++i)
        entries.push_back(TRY(enter(regions[i], fds[i].get(), *before)));
    return publish(std::move(entries));
}

Result<> GuestMemory::add(const MemoryRegion &region, const FileDescriptor &fd) {
    const auto before = table();
    std::vector<MemoryTable::Entry> entries(before->entries_);
    entries.push_back(TRY(enter(region, fd.get(), *before)));
    return publish(std::move(entries));
}

Result<> GuestMemory::remove(const MemoryRegion &region) {
    std::vector<MemoryTable::Entry> entries(table()->entries_);
    const auto found = std::find_if(entries.begin(), entries.end(), [&region](const auto &entry) {
        return entry.region.guest == region.guest && entry.region.size == region.size &&
               entry.region.user == region.user;
    });
    if (found == entries.end()) return Error(EINVAL, "guest memory: no such region");
    entries.erase(found);
    return publish(std::move(entries));
}

void GuestMemory::clear() {
    (void)publish({}).ok();
}

}  // namespace pmfs::virtio
