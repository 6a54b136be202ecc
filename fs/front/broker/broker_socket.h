// What the broker needs from the system: its socket, the identity of the other end, and descriptors
// of the device.
#pragma once
#include <sys/types.h>

#include <string>
#include <vector>

#include "base/file_descriptor.h"
#include "base/result.h"
#include "pm/region.h"

namespace pmfs::front {

// The process at the other end of a socket, as it was when it connected, according to the kernel.
struct Peer {
    pid_t pid = 0;  // 0: not visible from here
    uid_t uid = 0;
    gid_t gid = 0;
    std::vector<gid_t> groups;

    bool is_member_of(gid_t group) const;
    // Is `thread` (as FUSE names callers; 0 = unknown) a thread of this process?
    bool is_process_of(pid_t thread) const;
};
Result<Peer> peer_of(int socket);

// A pidfd of the peer; invalid when the kernel gives none (then the socket's hang-up must suffice).
FileDescriptor process_of(int socket, pid_t pid);

struct Answer {
    int error = 0;
    bool writable = false;
    std::uint64_t epoch = 0;
    std::uint64_t claim = 0;
};
// Sends `descriptor` too, unless it is negative.  0, or why nothing was sent: is_gone(), or
// ETOOMANYREFS (too many descriptors of the server's user are on their way) and its like.
int answer(int socket, const Answer &answer, int descriptor);
// Whether this error of answer() means that the peer has closed its end.
bool is_gone(int error);
// Whether the peer, which has not closed its end, has not read all answers.
bool has_unread(int socket);

// `option`, or $PMFS_RUN_DIR, or /run/pmfs.
std::string run_directory(const std::string &option);

// Makes it (0755) if necessary.  EPERM: users other than root may write to it.
Result<> check_run_directory(const std::string &directory);

struct Listener {
    FileDescriptor socket;
    std::string path;
};
// Listens at DIRECTORY/UUID.sock, or at DIRECTORY/UUID-PID.sock when the first is in use: a copy of
// the same image is mounted, too.
Result<Listener> listen_at(const std::string &directory, const std::uint8_t (&uuid)[16]);

// Two descriptions of the medium, neither of them the one that carries the volume's lock.
struct DeviceDescriptors {
    FileDescriptor readable;  // O_RDONLY
    FileDescriptor writable;  // O_RDWR; invalid on a read-only volume
};
// EOPNOTSUPP: this region has no descriptor to give.
Result<DeviceDescriptors> open_device(const pm::Region &region, bool writable);

}  // namespace pmfs::front
