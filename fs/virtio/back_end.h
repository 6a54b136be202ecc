// A vhost-user back end: listens on a socket, and serves one front end after the other with one
// device.  A process may have several.
#pragma once
#include <atomic>
#include <memory>
#include <string>
#include <thread>

#include "base/file_descriptor.h"
#include "base/result.h"
#include "virtio/listener.h"
#include "virtio/session.h"

namespace pmfs::virtio {

class BackEnd {
public:
    // Serves the front ends that connect.  `device` must outlive the result.
    static Result<std::unique_ptr<BackEnd>> start(Device &device, Listener listener,
                                                  SessionOptions options);
    // The same, and makes the socket.  Errors: those of Listener::bind().
    static Result<std::unique_ptr<BackEnd>> listen(Device &device, std::string path,
                                                   SessionOptions options) {
        return start(device, TRY(Listener::bind(std::move(path))), std::move(options));
    }
    // Disconnects the front end, and removes the socket.
    ~BackEnd();
    BackEnd(const BackEnd &) = delete;
    BackEnd &operator=(const BackEnd &) = delete;

private:
    BackEnd(Device &device, Listener listener, SessionOptions options);
    void run();
    void serve(FileDescriptor socket);
    bool wait(int socket) const;
    void turn_away() const;

    Device &device_;
    const Listener listener_;
    const SessionOptions options_;
    FileDescriptor stop_;
    std::atomic<bool> ending_ = false;
    std::thread thread_;
};

}  // namespace pmfs::virtio
