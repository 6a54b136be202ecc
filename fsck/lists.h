// The three lists of inodes: free ones, orphans and grant records.
#pragma once
#include "fsck/context.h"
#include "fsck/inodes.h"

namespace pmfs::fsck {

// Follows the lists from `state` and looks for who is missing.  After Inodes::walk().
void check_lists(Context &context, Inodes &inodes, const media::State &state);

}  // namespace pmfs::fsck
