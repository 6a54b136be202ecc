// Changes of a mounted volume to blocks that no transaction may touch: the superblock, and new
// groups.  Each call is durable against a power cut when it returns.  One at a time.
#pragma once
#include "base/ids.h"
#include "base/result.h"
#include "media/format.h"
#include "pm/region.h"

namespace pmfs::journal {

// Writes the groups from `first` on of the volume that `sb` describes, without their copies of the
// superblock: nothing refers to them yet.  EIO: the medium did not store them.
Result<> write_groups(pm::Region &region, const media::Superblock &sb, GroupNo first);

// Writes the copies first and block 0 last, so that whenever it is interrupted either the old
// superblock counts or this one.  EIO.
Result<> write_superblock(pm::Region &region, const media::Superblock &sb);

}  // namespace pmfs::journal
