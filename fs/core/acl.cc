// Access control lists: see acl.h.
#include "core/acl.h"

#include <sys/stat.h>

#include <cstring>

#include "media/le.h"

namespace pmfs::core {

using media::le16;
using media::le32;

namespace {

constexpr std::uint32_t kVersion = 2;
constexpr std::size_t kHeader = sizeof(le32), kEntry = 2 * sizeof(le16) + sizeof(le32);
constexpr std::uint32_t kAll = 07;

// Owner, users, owning group, groups, mask, others, in that order; a mask where there is a user or
// a group.
Result<> check(const Acl &acl) {
    const auto bad = [] {
        return Error(EINVAL, "the access control list is invalid: see acl_valid(3)");
    };
    bool needs_mask = false;
    AclTag before = AclTag::other;  // of the previous entry
    for (const AclEntry &entry : acl) {
        if ((entry.allowed & ~kAll) != 0) return bad();
        const bool named = entry.tag == AclTag::user || entry.tag == AclTag::group;
        if (named && entry.id == ~0u) return bad();
        needs_mask |= named;
        const bool first = &entry == &acl.front();
        if (first != (entry.tag == AclTag::owner)) return bad();
        if (!first && (entry.tag < before || (entry.tag == before && !named))) return bad();
        if (entry.tag == AclTag::group && before < AclTag::owning_group) return bad();
        if (entry.tag >= AclTag::mask && before < AclTag::owning_group) return bad();
        if (entry.tag == AclTag::other && needs_mask && before != AclTag::mask) return bad();
        before = entry.tag;
    }
    if (before != AclTag::other) return bad();
    return {};
}

bool known(AclTag tag) {
    switch (tag) {
        case AclTag::owner:
        case AclTag::user:
        case AclTag::owning_group:
        case AclTag::group:
        case AclTag::mask:
        case AclTag::other:
            return true;
    }
    return false;
}

// The entry that corresponds to the mode's group bits.
AclEntry *group_bits(Acl &acl) {
    AclEntry *found = nullptr;
    for (AclEntry &entry : acl)
        if (entry.tag == AclTag::owning_group || entry.tag == AclTag::mask) found = &entry;
    return found;
}

}  // namespace

Result<Acl> parse_acl(ConstBytes value) {
    if (value.size() < kHeader || (value.size() - kHeader) % kEntry != 0)
        return Error(EINVAL, "an access control list has a wrong size");
    if (load<le32>(value).get() != kVersion)
        return Error(EINVAL, "an access control list has an unknown version");
    if ((value.size() - kHeader) / kEntry > kAclEntriesMax)
        return Error(E2BIG, "an access control list has at most 112 entries");
    Acl acl;
    for (std::size_t at = kHeader; at < value.size(); at += kEntry) {
        const AclEntry entry{AclTag{load<le16>(value, at).get()},
                             load<le16>(value, at + sizeof(le16)).get(),
                             load<le32>(value, at + 2 * sizeof(le16)).get()};
        if (!known(entry.tag))
            return Error(EINVAL, "an access control list has an entry of an unknown type");
        acl.push_back(entry);
    }
    TRY(check(acl));
    return acl;
}

std::vector<std::byte> bytes_of_acl(const Acl &acl) {
    std::vector<std::byte> bytes;
    const auto append = [&bytes](const auto &field) {
        const ConstBytes more = std::as_bytes(std::span(&field, 1));
        bytes.insert(bytes.end(), more.begin(), more.end());
    };
    append(le32(kVersion));
    for (const AclEntry &entry : acl) {
        append(le16(static_cast<std::uint16_t>(entry.tag)));
        append(le16(entry.allowed));
        append(le32(entry.id));
    }
    return bytes;
}

std::uint32_t mode_of(const Acl &acl) {
    std::uint32_t mode = 0, group = 0;
    for (const AclEntry &entry : acl) {
        if (entry.tag == AclTag::owner) mode |= std::uint32_t{entry.allowed} << 6;
        if (entry.tag == AclTag::other) mode |= entry.allowed;
        if (entry.tag == AclTag::owning_group || entry.tag == AclTag::mask) group = entry.allowed;
    }
    return mode | group << 3;
}

bool is_mode_only(const Acl &acl) {
    for (const AclEntry &entry : acl)
        if (entry.tag != AclTag::owner && entry.tag != AclTag::owning_group &&
            entry.tag != AclTag::other)
            return false;
    return true;
}

void follow_mode(Acl &acl, std::uint32_t mode) {
    for (AclEntry &entry : acl) {
        if (entry.tag == AclTag::owner) entry.allowed = mode >> 6 & kAll;
        if (entry.tag == AclTag::other) entry.allowed = mode & kAll;
    }
    if (AclEntry *group = group_bits(acl)) group->allowed = mode >> 3 & kAll;
}

std::uint32_t inherit(Acl &acl, std::uint32_t mode) {
    for (AclEntry &entry : acl) {
        if (entry.tag == AclTag::owner) entry.allowed &= mode >> 6 & kAll;
        if (entry.tag == AclTag::other) entry.allowed &= mode & kAll;
    }
    if (AclEntry *group = group_bits(acl)) group->allowed &= mode >> 3 & kAll;
    return (mode & ~std::uint32_t{0777}) | mode_of(acl);
}

}  // namespace pmfs::core
