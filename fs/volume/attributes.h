// An inode's attributes as a kernel sees them, and the changes that come with others: times, set-id
// bits, capabilities.
#pragma once
#include "volume/engine.h"

namespace pmfs {

Attr attr_of(Engine &engine, InodeNo ino, const media::Inode &inode);
// Volume::unseen_from(), for an inode that was read already.
Result<std::optional<std::uint64_t>> unseen_from(Engine &engine, InodeNo ino,
                                                 const media::Inode &inode);
// For code that changes attributes that the request's answer does not contain.
void attributes_changed(const Engine &engine, InodeNo ino);

// Within a transaction: sets the inode's ctime, and with `mtime` also its mtime, to now. With
// `precise` no two changes have the same time (LiveTable::shared); without it changes within one
// tick do.
void touch(media::Inode *inode, bool mtime, bool precise = false);
bool has_setid(std::uint32_t mode);
// any_setgid: also if the group may not execute the file.
void kill_setid(media::Inode *inode, bool any_setgid = false);
// Removes a file's capabilities, as every change of its content or owner does.
Result<> drop_capability(Engine &engine, InodeNo ino) REQUIRES(engine.lock);
inline constexpr std::string_view kCapability = "security.capability";

}  // namespace pmfs
