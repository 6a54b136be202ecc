// An open file or directory of a mounted volume.
#pragma once
#include <string>
#include <vector>

#include "base/printable.h"
#include "pmfs.h"

namespace pmfs::ctl {

class File {
public:
    enum class Access { read, write, either };  // either: for writing if this user may

    // Opened bypassing the page cache if possible, so that examining a file never prevents a grant.
    // On failure error() is the errno value, and every call returns it.
    File(const std::string &path, Access access);
    ~File();
    File(const File &) = delete;
    File &operator=(const File &) = delete;

    const std::string &path() const { return path_; }
    std::string name() const { return printable(path_); }  // for people
    int fd() const { return fd_; }
    int error() const { return error_; }
    bool is_regular() const { return is_regular_; }

    // Each gives 0 or a positive errno value.
    int info(pmfs_info *out) const;
    int volume(pmfs_volume *out) const;
    int extents(std::vector<pmfs_extent> *out) const;
    int holders(std::vector<pmfs_holder> *out) const;  // without pmfsctl itself
    int chunks(std::vector<pmfs_chunk> *out) const;
    int clients(std::vector<pmfs_client> *out) const;
    int quarantine(std::vector<pmfs_quarantined> *out) const;
    int release_quarantine(std::uint64_t id) const;
    int revoke(pmfs_io_revoke *io) const;
    int grow(pmfs_io_grow *io) const;
    int tune(pmfs_io_tune *io) const;
    int compact(pmfs_io_compact *io) const;
    int seal(unsigned level, std::uint64_t *bad_offset) const;

private:
    int call(unsigned long command, void *io) const;

    const std::string path_;
    int fd_ = -1;
    int error_ = 0;
    bool is_regular_ = false;
};

// The process that a thread belongs to, and its name; 0 and "" when it is gone.
struct Process {
    unsigned pid = 0;
    std::string name;
};
Process process_of_thread(unsigned thread);

}  // namespace pmfs::ctl
