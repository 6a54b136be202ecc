// The options of `mount.pmfs SOURCE DIR -o ...`.
//
// Generic options (ro, nosuid, _netdev, x-systemd.* and the like) are parsed by libmount, so that
// they mean here what they mean to mount(8).
#pragma once
#include <sys/types.h>

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "front/mount/system_calls.h"
#include "front/requests/dispatcher.h"
#include "front/transports/vhost_fs.h"
#include "volume/volume.h"

namespace pmfs::front {

// How the kernel sends the requests of a local mount.
enum class TransportChoice { automatic, dev_fuse, io_uring };

struct ServeOptions {
    std::string source;             // region: device, file or /proc/self/fd/N
    std::string directory;          // where it is mounted; empty: nowhere, for guests only
    std::string mount_namespace;    // path of one, or empty: ours
    unsigned long mount_flags = 0;  // MS_*
    MountOptions volume;
    DispatchOptions dispatch;
    Policy local = Policy::host();
    std::optional<gid_t> group;  // its members may map the device
    std::vector<GuestOptions> guests;
    TransportChoice transport = TransportChoice::automatic;
    Seccomp seccomp = Seccomp::refuse;
    bool foreground = false;
    bool verbose = false;
    std::span<char> command_line;  // where ps(1) finds it, of this process and its children
};

// Adds the options in `text` (the argument of -o) to `options`.  Gives a sentence if one is wrong;
// with `sloppy`, unknown options are ignored.
std::optional<std::string> parse_mount_options(std::string_view text, bool sloppy,
                                               ServeOptions *options);

// A sentence if `wanted`, which began as a copy of `now`, contains a change that needs a new mount.
std::optional<std::string> refuse_remount(const ServeOptions &now, const ServeOptions &wanted);

}  // namespace pmfs::front
