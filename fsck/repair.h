// The repairs that fsck.pmfs -p, -a and -y make: what is wrong and follows from the rest of the
// volume.
#pragma once
#include "base/result.h"
#include "fsck/check.h"
#include "journal/replay.h"
#include "pm/region.h"

namespace pmfs::fsck {

// Writes block 0 and the copies of the superblock again (PM0101 to PM0103), from the one that
// check() used, and makes the changes that it planned, each block as a transaction of the journal:
// a crash leaves it as it was or repaired.  Then checks again, and repairs what has come to light,
// until nothing is left that can be repaired.  `report` is check()'s, of a volume that has not
// changed since and whose journal is replayed; afterwards it also has what was found later, and
// says which problems the last check did not find any more.  Everything is durable when it returns.
//
// Only superblocks are written if the journal is damaged, the medium returned errors, the check
// gave up, or a newer program has written the volume.  `boot_id`: as for replay_journal().  Errors:
// media::find_superblock's; EIO; EROFS: the medium does not keep what is written to it.
Result<> repair(pm::Region &region, Report &report,
                const journal::BootId &boot_id = journal::current_boot_id());

}  // namespace pmfs::fsck
