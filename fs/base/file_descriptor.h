// A file descriptor that closes itself.
#pragma once
#include <unistd.h>

#include <utility>

namespace pmfs {

class FileDescriptor {
public:
    FileDescriptor() = default;
    explicit FileDescriptor(int fd) : fd_(fd) {}
    FileDescriptor(FileDescriptor &&o) noexcept : fd_(std::exchange(o.fd_, -1)) {}
    FileDescriptor &operator=(FileDescriptor &&o) noexcept {
        std::swap(fd_, o.fd_);
        return *this;
    }
    FileDescriptor(const FileDescriptor &) = delete;
    ~FileDescriptor() { reset(); }

    void reset() {
        if (fd_ >= 0) ::close(fd_);
        fd_ = -1;
    }
    bool ok() const { return fd_ >= 0; }
    int get() const { return fd_; }

private:
    int fd_ = -1;
};

}  // namespace pmfs
