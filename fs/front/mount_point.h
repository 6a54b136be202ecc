// The place in the tree where a volume appears: mount(2), umount2(2), and whether it can be used.
#pragma once
#include <optional>
#include <string>

#include "base/file_descriptor.h"
#include "front/mount_options.h"

namespace pmfs::front {

class MountPoint {
public:
    // Looks only.  Gives a sentence that says what is wrong with the directory and what to do.
    static std::optional<std::string> objection(const std::string &directory);

    // Opens /dev/fuse and mounts it.  From here on accesses to the directory wait for our INIT.
    // Errors: ENOENT, ENODEV: no FUSE in this kernel; EPERM: not root; else what mount(2) says.
    static Result<MountPoint> make(const ServeOptions &options);

    // Changes the flags of a live mount (ro, rw, nosuid and the like); our own options stay.
    static Result<> remount(const ServeOptions &options);

    // The descriptor that requests come by.
    FileDescriptor take_device() { return std::move(device_); }

    // Asks the kernel to begin writing dirty pages back.  Waits for our own replies: not for a
    // server thread.
    void write_back() const;

    // EBUSY: somebody uses it.  EINVAL, ENOENT: it is not there any more.
    Result<> unmount(bool detach);

private:
    FileDescriptor device_;
    std::string directory_, mount_namespace_;
};

}  // namespace pmfs::front
