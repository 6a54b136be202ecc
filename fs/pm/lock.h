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

// Locks the file behind `fd`.  EBUSY: with a sentence that names the holder if it is known.
Result<> lock_volume(int fd);

// The same, but waits up to 10 seconds for a holder whose volume is not mounted any more: umount(8)
// returns before the server has closed the volume.
Result<> lock_volume_patiently(int fd, const std::string &path);

// The process that holds the lock of the file behind `fd`; 0 when there is none, or when it is not
// known (it is in another pid namespace, or /proc/locks shows another device number for the
// filesystem).
pid_t lock_holder(int fd);

}  // namespace pmfs::pm
