// pmfsctl's queries as ioctls and calls of libpmfs, also those with answers of any length.
#include "file.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <memory>

namespace pmfs::ctl {

namespace {

int open_past_cache(const char *path, int flags) {
    // O_NONBLOCK: opening a FIFO must not block.
    flags |= O_CLOEXEC | O_NONBLOCK;
    int fd = ::open(path, flags | O_DIRECT);
    if (fd < 0 && errno == EINVAL) fd = ::open(path, flags);  // a directory
    // ... but calls are to wait for leases that are being broken.
    if (fd >= 0) ::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) & ~O_NONBLOCK);
    return fd;
}

}  // namespace

File::File(const std::string &path, Access access) : path_(path) {
    fd_ = open_past_cache(path.c_str(), access == Access::read ? O_RDONLY : O_RDWR);
    if (fd_ < 0 && access == Access::either && errno != ENOENT)
        fd_ = open_past_cache(path.c_str(), O_RDONLY);
    struct stat status;
    if (fd_ < 0 || ::fstat(fd_, &status) != 0) {
        error_ = errno;
        return;
    }
    is_regular_ = S_ISREG(status.st_mode);
}

File::~File() {
    if (fd_ >= 0) ::close(fd_);
}

int File::call(unsigned long command, void *io) const {
    if (error_ != 0) return error_;
    return ::ioctl(fd_, command, io) == 0 ? 0 : errno;
}

int File::info(pmfs_info *out) const {
    return error_ != 0 ? error_ : -pmfs_query(fd_, out);
}

int File::volume(pmfs_volume *out) const {
    return error_ != 0 ? error_ : -pmfs_query_volume(fd_, out);
}

int File::extents(std::vector<pmfs_extent> *out) const {
    const auto page = std::make_unique<pmfs_extents>();
    do {
        page->version = PMFS_ABI_VERSION;
        page->flags = 0;
        page->from = page->next;
        if (const int error = call(PMFS_IOC_EXTENTS, page.get())) return error;
        out->insert(out->end(), page->extent, page->extent + page->count);
    } while (page->next != 0);
    return 0;
}

int File::holders(std::vector<pmfs_holder> *out) const {
    const auto page = std::make_unique<pmfs_holders>();
    do {
        page->version = PMFS_ABI_VERSION;
        page->flags = 0;
        page->from = page->next;
        if (const int error = call(PMFS_IOC_HOLDERS, page.get())) return error;
        for (std::uint32_t i = 0; i < page->count; i++)
            if (page->holder[i].pid != static_cast<std::uint32_t>(::getpid()))
                out->push_back(page->holder[i]);
    } while (page->next != 0);
    return 0;
}

int File::chunks(std::vector<pmfs_chunk> *out) const {
    const auto page = std::make_unique<pmfs_chunks>();
    do {
        page->version = PMFS_ABI_VERSION;
        page->flags = 0;
        page->first = out->size();
        if (const int error = call(PMFS_IOC_CHUNKS, page.get())) return error;
        out->insert(out->end(), page->chunk, page->chunk + page->count);
    } while (page->count != 0);
    return 0;
}

int File::clients(std::vector<pmfs_client> *out) const {
    const auto page = std::make_unique<pmfs_clients>();
    do {
        page->version = PMFS_ABI_VERSION;
        page->flags = 0;
        page->from = page->next;
        if (const int error = call(PMFS_IOC_CLIENTS, page.get())) return error;
        out->insert(out->end(), page->client, page->client + page->count);
    } while (page->next != 0);
    return 0;
}

int File::quarantine(std::vector<pmfs_quarantined> *out) const {
    const auto page = std::make_unique<pmfs_quarantine>();
    do {
        page->version = PMFS_ABI_VERSION;
        page->flags = 0;
        page->from = page->next;
        if (const int error = call(PMFS_IOC_QUARANTINE, page.get())) return error;
        out->insert(out->end(), page->entry, page->entry + page->count);
    } while (page->next != 0);
    return 0;
}

int File::release_quarantine(std::uint64_t id) const {
    pmfs_io_quarantine_release io{};
    io.version = PMFS_ABI_VERSION;
    io.id = id;
    return call(PMFS_IOC_QUARANTINE_RELEASE, &io);
}

int File::compact(pmfs_io_compact *io) const {
    io->version = PMFS_ABI_VERSION;
    return call(PMFS_IOC_COMPACT, io);
}

int File::revoke(pmfs_io_revoke *io) const {
    io->version = PMFS_ABI_VERSION;
    return call(PMFS_IOC_REVOKE, io);
}

int File::grow(pmfs_io_grow *io) const {
    io->version = PMFS_ABI_VERSION;
    return call(PMFS_IOC_GROW, io);
}

int File::tune(pmfs_io_tune *io) const {
    io->version = PMFS_ABI_VERSION;
    return call(PMFS_IOC_TUNE, io);
}

int File::seal(unsigned level, std::uint64_t *bad_offset) const {
    pmfs_io_seal io{};
    io.version = PMFS_ABI_VERSION;
    io.level = level;
    const int error = call(PMFS_IOC_SEAL, &io);
    *bad_offset = io.bad_offset;
    return error;
}

Process process_of_thread(unsigned thread) {
    Process process;
    std::ifstream status("/proc/" + std::to_string(thread) + "/status");
    for (std::string line; std::getline(status, line);) {
        if (line.rfind("Name:\t", 0) == 0) process.name = line.substr(6);
        if (line.rfind("Tgid:\t", 0) == 0)
            process.pid = static_cast<unsigned>(std::stoul(line.substr(6)));
    }
    return process;
}

}  // namespace pmfs::ctl
