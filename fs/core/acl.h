// POSIX access control lists, as the values of their two attributes: rights beyond a file's mode
// bits, and the initial list of a directory's new files.
//
// The kernel enforces them; the volume keeps them consistent with the mode, as fs/posix_acl.c of
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
    std::uint32_t id;       // of a user or group; in other entries kept as it came
};
using Acl = std::vector<AclEntry>;

// As many as fit into one transaction with their inode and its mode.
inline constexpr std::size_t kAclEntriesMax = 112;

// Gives an empty list for a value that means "none".  EINVAL: it is no list, or an invalid one
// (acl_valid(3)); E2BIG.
Result<Acl> parse_acl(ConstBytes value);
std::vector<std::byte> bytes_of_acl(const Acl &acl);

// The permission bits that correspond to a list, and whether the list says no more than they.
std::uint32_t mode_of(const Acl &acl);
bool is_mode_only(const Acl &acl);
// chmod(2): makes the list agree with the mode.
void follow_mode(Acl &acl, std::uint32_t mode);
// For a new file with the requested `mode` in a directory that has this default list: makes it the
// file's own, and gives the mode that the file gets.
std::uint32_t inherit(Acl &acl, std::uint32_t mode);

}  // namespace pmfs::core
