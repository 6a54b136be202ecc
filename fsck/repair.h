// The repairs that fsck.pmfs -p and -y make.
#pragma once
#include "base/result.h"
#include "fsck/check.h"
#include "pm/region.h"

namespace pmfs::fsck {

// Writes block 0 and the copies of the superblock again (PM0101 to PM0103), from the one that
// check() used.  Marks the repaired problems, and counts them; everything is durable when it
// returns.  The volume must not have changed since check().  Errors: media::find_superblock's; EIO.
Result<> repair(pm::Region &region, Report &report);

}  // namespace pmfs::fsck
