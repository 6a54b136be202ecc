// The two lists of inodes that each group has: orphans and grant records.
#pragma once
#include "fsck/context.h"
#include "fsck/inodes.h"

namespace pmfs::fsck {

// Follows the lists from the groups' summaries and looks for inodes that are missing.  After
// Inodes::walk().
void check_lists(Context &context, Space &space, Inodes &inodes);

}  // namespace pmfs::fsck
