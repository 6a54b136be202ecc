// What fsck.pmfs -p and -y write: the problems that have a repair.
#pragma once
#include "base/result.h"
#include "fsck/check.h"
#include "pm/region.h"

namespace pmfs::fsck {

// Block 0 and the copies of the superblock are written anew (PM0101 to PM0103) from the one that
// check() believed.  Marks the problems that are gone, and counts them; everything is durable when
// it returns.  The volume must be as check() saw it.  Errors: media::find_superblock's; EIO.
Result<> repair(pm::Region &region, Report &report);

}  // namespace pmfs::fsck
