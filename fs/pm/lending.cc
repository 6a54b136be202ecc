// Locks on open file descriptions: see lending.h.
#include "pm/lending.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <algorithm>
#include <cerrno>
#include <string>

#include "base/blocking.h"
#include "base/clock.h"

namespace pmfs::pm {

namespace {

constexpr std::uint64_t kFirstByte = std::uint64_t{1} << 62;
constexpr std::uint64_t kTrial = kFirstByte - 1;

// Filesystems whose locks are kept, or asked for, on another machine.
constexpr std::uint32_t kElsewhere[] = {
    0x00006969,  // NFS
    0xff534d42,  // CIFS
    0xfe534d42,  // SMB2
    0x01021997,  // 9p
    0x00c36400,  // Ceph
    0x5346414f,  // AFS
    0x65735546,  // FUSE
    0x0bd00bd0,  // Lustre
    0x01161970,  // GFS2
    0x7461636f,  // OCFS2
    0x47504653,  // GPFS
};

struct flock one_byte(short type, std::uint64_t number) {
    struct flock lock {};
    lock.l_type = type;
    lock.l_whence = SEEK_SET;
    lock.l_start = static_cast<off_t>(kFirstByte + number);
    lock.l_len = 1;
    return lock;
}

Error not_here() {
    return Error(EOPNOTSUPP, "this medium cannot tell which processes still map it");
}

}  // namespace

Result<Lender> Lender::make(const Region &region) {
    struct stat status;
    struct statfs filesystem;
    if (::fstat(region.mapping_fd(), &status) != 0 ||
        ::fstatfs(region.mapping_fd(), &filesystem) != 0)
        return not_here();
    const auto type = static_cast<std::uint32_t>(filesystem.f_type);
    if (std::find(std::begin(kElsewhere), std::end(kElsewhere), type) != std::end(kElsewhere))
        return not_here();
    Lender lender(region, {status.st_dev, status.st_ino});
    TRY(lender.try_out());
    return lender;
}

// Does what a borrower does: maps, closes the descriptor, and unmaps.
Result<> Lender::try_out() const {
    const std::uint64_t mapping_unit = region_->mapping_unit();
    // Two mounts may try at the same time, so the number is chosen to be almost certainly unique.
    const std::uint64_t number = kTrial - (monotonic_ns() & 0xffffff);
    FileDescriptor lent = TRY(open(false));
    if (!mark(lent, number).ok()) return not_here();
    void *at = ::mmap(nullptr, mapping_unit, PROT_READ, MAP_SHARED, lent.get(), 0);
    if (at == MAP_FAILED) return not_here();
    lent.reset();
    const Use mapped = use_of(number);
    ::munmap(at, mapping_unit);
    if (mapped != Use::some || use_of(number) != Use::none) return not_here();
    return {};
}

Result<> Lender::mark(const FileDescriptor &lent, std::uint64_t number) {
    may_block("fcntl F_OFD_SETLK");
    const struct flock lock = one_byte(F_RDLCK, number);
    if (::fcntl(lent.get(), F_OFD_SETLK, &lock) != 0)
        return Error(errno, "cannot lock a descriptor of the medium");
    return {};
}

bool Lender::anybody_has_one(int medium) {
    struct flock all = one_byte(F_WRLCK, 0);
    all.l_len = 0;  // and all behind it
    return ::fcntl(medium, F_OFD_GETLK, &all) == 0 && all.l_type != F_UNLCK;
}

Lender::Use Lender::use_of(std::uint64_t number) const {
    may_block("fcntl F_OFD_GETLK");
    struct flock lock = one_byte(F_WRLCK, number);
    if (::fcntl(region_->mapping_fd(), F_OFD_GETLK, &lock) != 0) return Use::unknown;
    return lock.l_type == F_UNLCK ? Use::none : Use::some;
}

}  // namespace pmfs::pm
