// Recovers a volume without mounting it: what fsck.pmfs does before it checks.
#pragma once
#include "base/result.h"
#include "journal/replay.h"
#include "media/format.h"
#include "pm/region.h"

namespace pmfs::journal {

// Stores home what the journal holds and leaves the ring empty and marked clean.  May be
// interrupted anywhere and run again.  Does nothing on a clean ring.  On a private copy of a region
// the medium is not written.  Errors: replay()'s, and what sync() says.
Result<Chain> recover(pm::Region &region, const media::Superblock &superblock,
                      const BootId &boot_id);

}  // namespace pmfs::journal
