// The socket that front ends connect to, from its making to its removal.
#pragma once
#include <sys/types.h>

#include <string>
#include <utility>

#include "base/file_descriptor.h"
#include "base/result.h"

namespace pmfs::virtio {

class Listener {
public:
    // At `path`, for this user only (mode 0600).  A socket without a listener is replaced.
    // EADDRINUSE: it has a listener; EEXIST: the path is another file.
    static Result<Listener> bind(std::string path);
    Listener(Listener &&o) noexcept
        : path_(std::exchange(o.path_, {})),
          socket_(std::move(o.socket_)),
          device_(o.device_),
          inode_(o.inode_) {}
    Listener(const Listener &) = delete;
    Listener &operator=(const Listener &) = delete;
    ~Listener() { remove(); }

    int socket() const { return socket_.get(); }
    const std::string &path() const { return path_; }
    // Removes its name, if that still is this socket's.
    void remove() const;

private:
    Listener() = default;

    std::string path_;  // empty: moved away
    FileDescriptor socket_;
    dev_t device_ = 0;
    ino_t inode_ = 0;
};

}  // namespace pmfs::virtio
