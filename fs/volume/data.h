// A file's data: where its bytes are, where new blocks are placed, and zeroing.
#pragma once
#include <sys/uio.h>

#include <vector>

#include "core/extent.h"
#include "volume/engine.h"

namespace pmfs {

// A regular file's inode.  EISDIR, EINVAL.
Result<const media::Inode *> read_file(const core::Reader &reader, InodeNo ino);

// Where an extent ends in the file.  The end of a hole behind the last extent does not fit into a
// byte offset.
std::uint64_t end_byte(const Extent &extent);
// The place on the device of a byte of the file inside the extent.
std::uint64_t device_byte(const Extent &extent, std::uint64_t file_byte);

// Where new blocks from `file_block` on are best placed.
core::Goal goal_for(const core::Reader &reader, const media::Inode &inode, InodeNo ino,
                    FileBlock file_block, std::uint64_t blocks, const Caller &caller);

// Zeroes the written blocks in bytes [from, to), which the file is about to grow over: these must
// read as zeroes.
Result<pm::Unfenced> zero_written(journal::Journal &journal, const core::Reader &reader,
                                  const media::Inode &inode, InodeNo ino, std::uint64_t from,
                                  std::uint64_t to);
// The same a step at a time, durable when it returns: gives the byte at which to continue, `to`
// when all is done.
Result<std::uint64_t> zero_step(Engine &engine, InodeNo ino, std::uint64_t from, std::uint64_t to)
    REQUIRES(engine.lock);

}  // namespace pmfs
