// The directory on which a volume is mounted: mount(2), umount2(2), and whether it can be used.
#pragma once
#include <functional>
#include <optional>
#include <string>

#include "base/file_descriptor.h"
#include "front/mount/mount_namespace.h"
#include "front/mount/options.h"

namespace pmfs::front {

class MountPoint {
public:
    // Only checks.  Gives a sentence that says what is wrong with the directory and what to do.
    static std::optional<std::string> objection(const std::string &directory);

    // /dev/fuse, for make().  ENOENT, ENODEV: no FUSE in this kernel.
    static Result<FileDescriptor> open_device();
    // Mounts it there.  From here on accesses to the directory wait for the server's INIT.  Errors:
    // errno_value() is what mount(2) says; refusal() makes a sentence of it.
    static Result<MountPoint> make(const ServeOptions &options, const Surroundings &where,
                                   const FileDescriptor &device);
    static Error refusal(int error);

    // Changes the flags of a live mount (ro, rw, nosuid and the like); our own options stay.
    static Result<> remount(const ServeOptions &options);

    // The number of the connection in /sys/fs/fuse/connections; 0: unknown.
    unsigned connection() const;

    // Asks the kernel to begin writing dirty pages back.  It waits for the server's replies: not to
    // be called by a server thread.
    void write_back() const;

    // Everywhere that it is mounted, as far as /proc shows.  EBUSY: it is in use.
    Result<> unmount(bool detach);
    // The connection is aborted; it may stay mounted.
    void force();

private:
    Result<> everywhere(const std::function<int(const char *point)> &act) const;

    dev_t number_ = 0;  // of the filesystem; 0: unknown
};

}  // namespace pmfs::front
