// The volume's lock: one process at a time mounts, makes or checks a volume.
//
// It is a flock(2) on an open file description that is never passed to another process, so passing
// the mapping descriptor to a client cannot pass, share or drop the lock. It ends with the process.
// It is flock and not an OFD lock because fsck -n and a read-only mount hold it with a descriptor
// that is open only for reading, and /proc/locks shows who has it.
#pragma once
#include <string>

#include "pm/mapping.h"

namespace pmfs::pm {

// Locks the file behind `fd`, or says EBUSY with a sentence that names the holder if it can.
Result<> lock_volume(int fd);

// The same, but waits up to 10 seconds for a holder that nobody has mounted any more: umount(8)
// returns before the server has closed the volume.
Result<> lock_volume_patiently(int fd, const std::string &path);

// The process that holds the lock of the file behind `fd`; 0 when nobody, or not to be known (in
// another pid namespace, or a filesystem whose device number /proc/locks gives differently).
pid_t lock_holder(int fd);

}  // namespace pmfs::pm
