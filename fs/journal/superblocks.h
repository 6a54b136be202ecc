// What no transaction may touch, changed under a mounted volume: the superblock, and groups that
// are new.  Each call is durable against a power cut when it returns.  One at a time.
#pragma once
#include "base/ids.h"
#include "base/result.h"
#include "media/format.h"
#include "pm/region.h"

namespace pmfs::journal {

// Writes the groups from `first` on of the volume that `sb` describes, but for their copies of the
// superblock: nobody finds them yet.  EIO: the medium did not take them.
Result<> write_groups(pm::Region &region, const media::Superblock &sb, GroupNo first);

// The copies first and block 0 last: cut short anywhere, either the old superblock counts or this
// one.  EIO.
Result<> write_superblock(pm::Region &region, const media::Superblock &sb);

}  // namespace pmfs::journal
