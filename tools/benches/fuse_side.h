// The calls that are measured through a mount, in a directory of some filesystem.
#pragma once
#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>

#include "client/pmfs_ioctl.h"

namespace pmfs::bench {

[[noreturn]] inline void die(const char *what) {
    std::perror(what);
    std::exit(1);
}

// A directory of its own there, with a file that is open directly, one by the cache, one to append
// to, one that is sealed where there are seals, and a tree.
class Side {
public:
    static constexpr int kEntries = 100, kDirectories = 5;  // of the tree; files in each

    explicit Side(const std::string &directory) : directory_(directory) {
        direct_ = open_at("/bench-data", O_DIRECT);
        // (One file for both would make every direct read wait until the kernel has written back.)
        cached_ = open_at("/bench-cached", 0);
        log_ = open_at("/bench-log", O_APPEND);
        page_ =
            ::mmap(nullptr, kFileSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        std::memset(page_, 0x5a, kFileSize);
        for (const int fd : {direct_, cached_})
            if (::pwrite(fd, page_, kFileSize, 0) != kFileSize) die("pwrite");
    }
    ~Side() {
        for (const int fd : {direct_, cached_, log_, sealed_})
            if (fd >= 0) ::close(fd);
        for (const char *name : {"/bench-data", "/bench-cached", "/bench-log"})
            ::unlink((directory_ + name).c_str());
        ::munmap(page_, kFileSize);
    }
    Side(const Side &) = delete;
    Side &operator=(const Side &) = delete;

    // What some of the calls below need.
    void make_tree() {
        for (int d = 0; d < kDirectories; d++) {
            const std::string name = tree(d);
            if (::mkdir(name.c_str(), 0755) != 0) die(name.c_str());
            for (int f = 0; f < kEntries; f++) {
                const int fd = ::open(leaf(d, f).c_str(), O_CREAT | O_WRONLY, 0644);
                if (fd < 0) die("open");
                ::close(fd);
            }
        }
        const int fd = open_at("/bench-sealed", 0);
        if (::pwrite(fd, page_, kFileSize, 0) != kFileSize) die("pwrite");
        // (Elsewhere it is a file like any other.)
        pmfs_io_seal seal{};
        seal.version = PMFS_ABI_VERSION;
        seal.level = PMFS_SEAL_FULL;
        if (::ioctl(fd, PMFS_IOC_SEAL, &seal) != 0 && errno != ENOTTY) die("seal");
        ::close(fd);
        sealed_ = ::open((directory_ + "/bench-sealed").c_str(), O_RDONLY);
        if (sealed_ < 0) die("open");
    }

    void getattr(int) const {
        struct statx found;
        if (::statx(direct_, "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC, STATX_BASIC_STATS, &found) !=
            0)
            die("statx");
    }
    // (Of a file that nobody has open with O_DIRECT: there pmfs gives attributes no validity, which
    // makes it one request more.)
    void open_close(int) const {
        const int fd = ::open((directory_ + "/bench-cached").c_str(), O_RDONLY);
        if (fd < 0) die("open");
        ::close(fd);
    }
    void read_4k(int i) const { read(direct_, kPage, offset(i)); }
    void read_4k_cached(int i) const { read(cached_, kPage, offset(i)); }
    void read_4k_sealed(int i) const { read(sealed_, kPage, offset(i)); }
    void write_4k(int i) const { write(direct_, kPage, offset(i)); }
    void overwrite_4k(int i) const { write(cached_, kPage, offset(i)); }
    void read_1m(int) const { read(direct_, kFileSize, 0); }
    void write_1m(int) const { write(direct_, kFileSize, 0); }
    void append(int i) const {
        if (i == 0 && ::ftruncate(log_, 0) != 0) die("ftruncate");
        if (::write(log_, page_, kPage) != kPage) die("append");
    }
    void append_fsync(int i) const {
        append(i);
        if (::fdatasync(log_) != 0) die("fdatasync");
    }
    void create(int i) const {
        const int fd = ::open(name(i).c_str(), O_CREAT | O_EXCL | O_WRONLY, 0644);
        if (fd < 0) die("create");
        ::close(fd);
    }
    void rename(int i) const {
        if (::rename(name(i).c_str(), renamed(i).c_str()) != 0) die("rename");
    }
    void unlink(int i) const {
        if (::unlink(name(i).c_str()) != 0) die("unlink");
    }
    void unlink_renamed(int i) const {
        if (::unlink(renamed(i).c_str()) != 0) die("unlink");
    }
    void readdir(int i) const {
        DIR *const listing = ::opendir(tree(i % kDirectories).c_str());
        if (listing == nullptr) die("opendir");
        int entries = 0;
        while (::readdir(listing) != nullptr) entries++;
        ::closedir(listing);
        if (entries != kEntries + 2) die("readdir");
    }
    void stat_tree(int) const {
        for (int d = 0; d < kDirectories; d++)
            for (int f = 0; f < kEntries; f++) {
                struct stat found;
                if (::stat(leaf(d, f).c_str(), &found) != 0) die("stat");
            }
    }

private:
    static constexpr long kPage = 4096, kFileSize = 1 << 20;
    static off_t offset(int i) { return (static_cast<off_t>(i) * 37 * kPage) % kFileSize; }
    int open_at(const char *name, int flags) const {
        const int fd = ::open((directory_ + name).c_str(), O_CREAT | O_RDWR | flags, 0644);
        if (fd < 0) die(name);
        return fd;
    }
    void read(int fd, long size, off_t at) const {
        if (::pread(fd, page_, static_cast<std::size_t>(size), at) != size) die("pread");
    }
    void write(int fd, long size, off_t at) const {
        if (::pwrite(fd, page_, static_cast<std::size_t>(size), at) != size) die("pwrite");
    }
    std::string name(int i) const { return fmt::format("{}/entry-{:07}", directory_, i); }
    std::string renamed(int i) const { return fmt::format("{}/other-{:07}", directory_, i); }
    std::string tree(int d) const { return fmt::format("{}/tree-{}", directory_, d); }
    std::string leaf(int d, int f) const { return fmt::format("{}/leaf-{}", tree(d), f); }

    std::string directory_;
    int direct_ = -1, cached_ = -1, log_ = -1, sealed_ = -1;
    void *page_ = nullptr;
};

}  // namespace pmfs::bench
