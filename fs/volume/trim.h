// Removes what is behind a file's end and belongs to no byte of it: finishes an interrupted
// truncation or move, and frees a tree that is not needed any more.  Step by step, for operations
// and for code that holds the lock already.
#pragma once
#include "volume/engine.h"

namespace pmfs {

// One step.  True: nothing is left behind the file.
Result<bool> trim_step(Engine &engine, InodeNo ino) REQUIRES(engine.lock);
// All of it, before anything changes the map.
Result<> settle_trim(Engine &engine, InodeNo ino) REQUIRES(engine.lock);

// One step of making blocks [at, end) of the file, which is claimed, read as zeroes: they become
// holes (`punch`) or unwritten; blocks that pins bind to their place are zeroed.  Gives the block
// at which to continue, `end` when all is done.
Result<FileBlock> clear_step(Engine &engine, InodeNo ino, FileBlock at, FileBlock end, bool punch)
    REQUIRES(engine.lock);

// Frees nodes of a tree that is empty of entries, or is not needed any more.  True: it is gone.
Result<bool> clear_tree_step(Engine &engine, InodeNo ino, media::TreeKind kind)
    REQUIRES(engine.lock);
Result<> clear_tree(Engine &engine, InodeNo ino, media::TreeKind kind) REQUIRES(engine.lock);

}  // namespace pmfs
