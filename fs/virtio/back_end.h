// A vhost-user back end: listens on a socket, and serves one front end after the other with one
// device.  A process may have several.
#pragma once
#include <sys/types.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>

#include "base/file_descriptor.h"
#include "base/result.h"
#include "virtio/session.h"

namespace pmfs::virtio {

class BackEnd {
public:
    // Listens at `path`, for this user only (mode 0600).  A socket that nobody listens at any more
    // is replaced.  EADDRINUSE: somebody does; EEXIST: something else is there.  `device` outlives
    // what is returned.
    static Result<std::unique_ptr<BackEnd>> listen(Device &device, std::string path,
                                                   SessionOptions options);
    // The front end is disconnected, and the socket removed.
    ~BackEnd();
    BackEnd(const BackEnd &) = delete;
    BackEnd &operator=(const BackEnd &) = delete;

private:
    BackEnd(Device &device, std::string path, SessionOptions options);
    Result<> bind();
    void run();
    void serve(FileDescriptor socket);
    bool wait(int socket) const;
    void turn_away() const;

    Device &device_;
    const std::string path_;
    const SessionOptions options_;
    FileDescriptor listener_, stop_;
    dev_t bound_device_ = 0;
    ino_t bound_inode_ = 0;
    std::atomic<bool> ending_ = false;
    std::thread thread_;
};

}  // namespace pmfs::virtio
