// What an inode's attributes are to a kernel, and what changes beside them: times, set-id bits,
// capabilities.
#pragma once
#include "volume/engine.h"

namespace pmfs {

Attr attr_of(Engine &engine, InodeNo ino, const media::Inode &inode);
// Volume::unseen_from(), of an inode that was read.
Result<std::optional<std::uint64_t>> unseen_from(Engine &engine, InodeNo ino,
                                                 const media::Inode &inode);
// For whoever changes attributes beside a request's answer.
void attributes_changed(const Engine &engine, InodeNo ino);

// The inode, in a transaction, changes now: its ctime, and with `mtime` that as well.
// With `precise` no two changes have the same time (LiveTable::shared); else those of one tick do.
void touch(media::Inode *inode, bool mtime, bool precise = false);
bool has_setid(std::uint32_t mode);
// any_setgid: also that of a file that its group may not execute.
void kill_setid(media::Inode *inode, bool any_setgid = false);
// Whoever changes a file's content or owner takes away the capabilities that it was given.
Result<> drop_capability(Engine &engine, InodeNo ino) REQUIRES(engine.lock);
inline constexpr std::string_view kCapability = "security.capability";

}  // namespace pmfs
