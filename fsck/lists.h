// The two lists of inodes: free ones and orphans.
#pragma once
#include "fsck/context.h"
#include "fsck/inodes.h"

namespace pmfs::fsck {

// Follows both lists from `state` and looks for who is missing.  After Inodes::walk().
void check_lists(Context &context, Inodes &inodes, const media::State &state);

}  // namespace pmfs::fsck
