// What lies behind a file and belongs to no byte of it: an interrupted truncation or move is
// finished, a tree that is not needed any more is cleared.  Step by step, for operations and for
// whoever holds the lock already.
#pragma once
#include "volume/engine.h"

namespace pmfs {

// One step.  True: nothing is left behind the file.
Result<bool> trim_step(Engine &engine, InodeNo ino) REQUIRES(engine.lock);
// All of it, before anything changes the map.
Result<> settle_trim(Engine &engine, InodeNo ino) REQUIRES(engine.lock);

// One step of making blocks [at, end) of the file, which is claimed, read as zeroes: they are holes
// then (`punch`) or unwritten, and what pins bind to its place is zeroed there.  Gives the block
// that it goes on at, `end` when all is done.
Result<FileBlock> clear_step(Engine &engine, InodeNo ino, FileBlock at, FileBlock end, bool punch)
    REQUIRES(engine.lock);

// Frees nodes of a tree that is empty of entries, or is not needed any more.  True: it is gone.
Result<bool> clear_tree_step(Engine &engine, InodeNo ino, media::TreeKind kind)
    REQUIRES(engine.lock);
Result<> clear_tree(Engine &engine, InodeNo ino, media::TreeKind kind) REQUIRES(engine.lock);

}  // namespace pmfs
