// The one process of a server that keeps privileges, and the few things that it does with them.
//
// A server reads what others have written, on the medium and in requests, so it should have no
// privileges that an attacker could use. But a process must mount, find the mount again and unmount
// it (CAP_SYS_ADMIN), and open the medium once more for each holder that maps it, whoever owns the
// medium (CAP_DAC_OVERRIDE). So before the server gives up its capabilities, it forks a process
// that does this for it. A request is one byte: the server cannot choose the filesystem or the
// medium.
//
// The helper also cleans up after a server that is killed. If one of its threads waits in the
// kernel for a page that only the server could have written back, the server's process would never
// end. Then the helper aborts the connection.
#pragma once
#include <memory>
#include <span>

#include "base/mutex.h"
#include "front/mount/mount_point.h"
#include "pm/region.h"
#include "virtio/listener.h"

namespace pmfs::front {

class Helper {
public:
    // Forks; before any thread is started.  `where` is the place to mount.
    static Result<std::unique_ptr<Helper>> start(const ServeOptions &options,
                                                 const pm::Region &region, Surroundings where,
                                                 std::span<const virtio::Listener> sockets);
    // When it returns the helper has removed sockets that were left, and has ended.
    ~Helper();
    Helper(const Helper &) = delete;
    Helper &operator=(const Helper &) = delete;

    // Once.  Errors: those of MountPoint::make().
    Result<> mount(const FileDescriptor &fuse);
    // As MountPoint's.
    void write_back();
    Result<> unmount(bool detach);
    // Requests that wait for an answer get ECONNABORTED, and later ones ENOTCONN.
    void cut_connection();
    // Another description of the medium.  Any thread may call this; one may wait for another.
    Result<FileDescriptor> open_medium(bool writable);

private:
    Helper(FileDescriptor socket, pid_t child) : socket_(std::move(socket)), child_(child) {}
    Result<FileDescriptor> ask(char request, int fd = -1) EXCLUDES(mutex_);

    const FileDescriptor socket_;
    const pid_t child_;
    Mutex mutex_;  // for one request and its answer
};

}  // namespace pmfs::front
