// Access control lists, which are extended attributes: see file_map.h.
//
// Their rules: acl(5), acl_valid(3); the bytes are Linux's (posix_acl_xattr.h), docs/format.md says
// what else holds.
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>

#include "fsck/file_map.h"

namespace pmfs::fsck {

using namespace media;

namespace {

constexpr std::uint32_t kListVersion = 2;
constexpr std::size_t kEntriesMax = 112;

struct ListEntry {
    le16 tag, allowed;
    le32 id;
};
static_assert(sizeof(ListEntry) == 8);

// The tags, in the order of a list.
enum Tag : std::uint16_t {
    owner = 1,
    user = 2,
    owning_group = 4,
    group = 8,
    mask = 16,
    other = 32
};
constexpr std::array kTags{owner, user, owning_group, group, mask, other};

// What is wrong with a list, or null; and its permissions as bits of a mode.
const char *read_list(ConstBytes bytes, std::uint32_t *mode) {
    if (bytes.size() <= sizeof(le32) || (bytes.size() - sizeof(le32)) % sizeof(ListEntry) != 0)
        return "its size is wrong";
    if (load<le32>(bytes).get() != kListVersion) return "its version is unknown";
    bytes = bytes.subspan(sizeof(le32));
    if (bytes.size() / sizeof(ListEntry) > kEntriesMax) return "it has too many entries";
    std::array<std::size_t, kTags.size()> count{};
    std::array<std::uint32_t, kTags.size()> allowed{};
    std::size_t last = 0;
    for (std::size_t at = 0; at < bytes.size(); at += sizeof(ListEntry)) {
        const auto entry = load<ListEntry>(bytes, at);
        const auto tag = std::ranges::find(kTags, entry.tag.get());
        if (tag == kTags.end()) return "it has an unknown entry";
        const auto index = static_cast<std::size_t>(tag - kTags.begin());
        if (index < last) return "its entries are out of order";
        if ((entry.allowed.get() & ~07u) != 0) return "it has unknown permissions";
        if ((*tag == user || *tag == group) && entry.id.get() == ~0u) return "it names nobody";
        last = index;
        ++count[index];
        allowed[index] = entry.allowed.get();
    }
    const auto &[owners, users, owning_groups, groups, masks, others] = count;
    if (owners != 1 || owning_groups != 1 || others != 1 || masks > 1)
        return "owner, group, mask or others are missing, or are there twice";
    if (users + groups != 0 && masks == 0) return "it has no mask";
    *mode = allowed[0] << 6 | allowed[masks != 0 ? 4 : 2] << 3 | allowed[5];
    return nullptr;
}

}  // namespace

void check_acl(Context &context, std::uint64_t number, const Inode &inode, std::string_view name,
               const ConstBytes *value) {
    const bool access = name == "system.posix_acl_access";
    if (!access && name != "system.posix_acl_default") return;
    const std::uint32_t mode = inode.mode.get();
    if (S_ISLNK(mode) || (!access && !S_ISDIR(mode))) {
        context.found_inode(Code::field_out_of_place, number,
                            access ? "an access control list" : "a list for new files");
        return;
    }
    std::uint32_t means = 0;
    const char *fault = value == nullptr ? "it is too long" : read_list(*value, &means);
    if (fault != nullptr)
        context.found_inode(Code::acl_broken, number, fmt::format("{}: {}", name, fault));
    else if (access && means != (mode & 0777))
        context.found_inode(
            Code::acl_not_mode, number,
            fmt::format("the list means {:04o}, the mode is {:04o}", means, mode & 07777));
}

}  // namespace pmfs::fsck
