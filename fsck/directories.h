// Directories, names and what can be reached from the root.
#pragma once
#include "fsck/context.h"
#include "fsck/inodes.h"
#include "fsck/space.h"

namespace pmfs::fsck {

// Walks every directory's tree, then compares links, parents and counts.  After Inodes::walk().
void check_directories(Context &context, Space &space, Inodes &inodes);

}  // namespace pmfs::fsck
