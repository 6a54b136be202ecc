// POSIX access control lists, as the values of their two attributes: who may do what besides a
// file's mode bits, and what new files of a directory begin with.
//
// The kernel decides by them; the volume keeps them and the mode in step, as fs/posix_acl.c of
// Linux does: where a list has a mask, the mode's group bits are the mask.  The rules are those of
// the withdrawn POSIX.1e draft 17, as acl(5) has them; the bytes are Linux's (posix_acl_xattr.h).
#pragma once
#include <cstdint>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace pmfs::core {

inline constexpr std::string_view kAccessAcl = "system.posix_acl_access";
inline constexpr std::string_view kDefaultAcl = "system.posix_acl_default";
inline bool is_acl(std::string_view name) {
    return name == kAccessAcl || name == kDefaultAcl;
}

enum class AclTag : std::uint16_t {
    owner = 0x01,
    user = 0x02,
    owning_group = 0x04,
    group = 0x08,
    mask = 0x10,
    other = 0x20,
};
struct AclEntry {
    AclTag tag;
    std::uint16_t allowed;  // rwx, as one digit of a mode
    std::uint32_t id;       // of a user or group; others carry what they came with
};
using Acl = std::vector<AclEntry>;

// So many fit beside an inode in one transaction, with its mode.
inline constexpr std::size_t kAclEntriesMax = 112;

// An empty list for a value that says that there is none.  EINVAL: it is no list, or one that
// cannot be (acl_valid(3)); E2BIG.
Result<Acl> parse_acl(ConstBytes value);
std::vector<std::byte> bytes_of_acl(const Acl &acl);

// The permission bits that a list means, and whether it says nothing else.
std::uint32_t mode_of(const Acl &acl);
bool is_mode_only(const Acl &acl);
// chmod(2): the list says what the mode does.
void follow_mode(Acl &acl, std::uint32_t mode);
// A new file asks for `mode`, and its directory has this list by default: makes it the file's own,
// and gives the mode that the file gets.
std::uint32_t inherit(Acl &acl, std::uint32_t mode);

}  // namespace pmfs::core
