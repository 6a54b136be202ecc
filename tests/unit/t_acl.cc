// Access control lists: their bytes, their rules, and the mode that goes with them.
#include <doctest/doctest.h>
#include <sys/stat.h>

#include "core/acl.h"
#include "unit/small_volume.h"

using namespace pmfs;
using namespace pmfs::test;
using core::Acl;
using core::AclEntry;
using core::kAccessAcl;
using core::kDefaultAcl;
using Tag = core::AclTag;

namespace {

Acl minimal(unsigned o, unsigned g, unsigned x) {
    const auto digit = [](unsigned value) { return static_cast<std::uint16_t>(value); };
    return {{Tag::owner, digit(o), ~0u},
            {Tag::owning_group, digit(g), ~0u},
            {Tag::other, digit(x), ~0u}};
}
// u::rw u:1000:rw g::r m::rw o::-
const Acl kShared{{Tag::owner, 6, ~0u},
                  {Tag::user, 6, 1000},
                  {Tag::owning_group, 4, ~0u},
                  {Tag::mask, 6, ~0u},
                  {Tag::other, 0, ~0u}};

int parse_error(const Acl &acl) {
    const auto parsed = core::parse_acl(core::bytes_of_acl(acl));
    return parsed.ok() ? 0 : parsed.error().errno_value();
}

std::uint32_t mode(Volume &volume, InodeNo ino) {
    return volume.getattr(ino).take().mode;
}
int set(Volume &volume, InodeNo ino, std::string_view name, const Acl &acl,
        bool drop_setgid = false) {
    const auto done = volume.setxattr(ino, name, core::bytes_of_acl(acl), 0, {}, drop_setgid);
    return done.ok() ? 0 : done.error().errno_value();
}
Acl get(Volume &volume, InodeNo ino, std::string_view name) {
    const auto value = volume.getxattr(ino, name);
    if (!value.ok()) {
        CHECK(value.error().errno_value() == ENODATA);
        return {};
    }
    return core::parse_acl(value.value()).take();
}
bool same(const Acl &a, const Acl &b) {
    return core::bytes_of_acl(a) == core::bytes_of_acl(b);
}
InodeNo make(Volume &volume, InodeNo dir, const char *name, std::uint32_t mode,
             std::uint32_t umask = 0) {
    Caller caller;
    caller.umask = umask;
    const auto made = volume.make(dir, name, mode, 0, caller);
    REQUIRE(made.ok());
    return made.value().ino;
}

}  // namespace

TEST_CASE("acl: every value that is not a list is EINVAL") {
    CHECK(parse_error(minimal(7, 5, 5)) == 0);
    CHECK(parse_error(kShared) == 0);
    CHECK(parse_error({}) == 0);
    const auto without = [](std::size_t entry) {
        Acl acl = kShared;
        acl.erase(acl.begin() + static_cast<std::ptrdiff_t>(entry));
        return acl;
    };
    for (const std::size_t needed : {0, 2, 3, 4}) {
        CAPTURE(needed);
        CHECK(parse_error(without(needed)) == EINVAL);
    }
    CHECK(parse_error(without(1)) == 0);
    for (std::size_t first = 0; first + 1 < kShared.size(); ++first) {
        Acl swapped = kShared;
        std::swap(swapped[first], swapped[first + 1]);
        CAPTURE(first);
        CHECK(parse_error(swapped) == EINVAL);
        Acl twice = kShared;
        twice.insert(twice.begin() + static_cast<std::ptrdiff_t>(first), kShared[first]);
        CHECK(parse_error(twice) == (kShared[first].tag == Tag::user ? 0 : EINVAL));
    }
    Acl odd = kShared;
    odd[1].allowed = 8;
    CHECK(parse_error(odd) == EINVAL);
    odd = kShared;
    odd[1].id = ~0u;
    CHECK(parse_error(odd) == EINVAL);
    odd = kShared;
    odd[1].tag = core::AclTag{3};
    CHECK(parse_error(odd) == EINVAL);
    Acl long_one = kShared;
    long_one.insert(long_one.begin() + 1, core::kAclEntriesMax - kShared.size(), kShared[1]);
    CHECK(parse_error(long_one) == 0);
    long_one.insert(long_one.begin() + 1, kShared[1]);
    CHECK(parse_error(long_one) == E2BIG);
    std::vector<std::byte> bytes = core::bytes_of_acl(kShared);
    for (std::size_t size = 0; size < bytes.size(); ++size)
        if (size != 4) CHECK(!core::parse_acl(ConstBytes(bytes).first(size)).ok());
    bytes[0] = std::byte{1};
    CHECK(core::parse_acl(bytes).error().errno_value() == EINVAL);
}

TEST_CASE("acl: setting a list sets the mode, and chmod changes the list's mask") {
    SmallVolume volume(4 << 20);
    const InodeNo file = make(*volume, kRoot, "f", S_IFREG | 0644);
    CHECK(set(*volume, file, kAccessAcl, kShared) == 0);
    CHECK(mode(*volume, file) == (S_IFREG | 0660));
    CHECK(same(get(*volume, file, kAccessAcl), kShared));
    SetAttr chmod;
    chmod.mode = 0741;
    REQUIRE(volume->setattr(file, chmod, {}).ok());
    Acl wanted = kShared;
    wanted[0].allowed = 7;
    wanted[3].allowed = 4;
    wanted[4].allowed = 1;
    CHECK(same(get(*volume, file, kAccessAcl), wanted));
    // A list that says no more than a mode is none.
    CHECK(set(*volume, file, kAccessAcl, minimal(6, 4, 0)) == 0);
    CHECK(get(*volume, file, kAccessAcl).empty());
    CHECK(mode(*volume, file) == (S_IFREG | 0640));
    CHECK(set(*volume, file, kAccessAcl, kShared) == 0);
    CHECK(volume->removexattr(file, kAccessAcl, {}).ok());
    CHECK(volume->removexattr(file, kAccessAcl, {}).ok());  // as the kernel's own filesystems
    CHECK(mode(*volume, file) == (S_IFREG | 0660));
    CHECK(get(*volume, file, kAccessAcl).empty());
}

TEST_CASE("acl: setting a list clears set-group-ID if the caller may not keep it") {
    SmallVolume volume(4 << 20);
    const InodeNo file = make(*volume, kRoot, "f", S_IFREG | 02755);
    CHECK(set(*volume, file, kAccessAcl, kShared) == 0);
    CHECK(mode(*volume, file) == (S_IFREG | 02660));
    CHECK(set(*volume, file, kAccessAcl, kShared, true) == 0);
    CHECK(mode(*volume, file) == (S_IFREG | 0660));
    const InodeNo dir = make(*volume, kRoot, "d", S_IFDIR | 02755);
    CHECK(set(*volume, dir, kDefaultAcl, kShared, true) == 0);
    CHECK(mode(*volume, dir) == (S_IFDIR | 02755));
}

TEST_CASE(
    "acl: new files in a directory with a default list inherit it, and the umask is ignored") {
    SmallVolume volume(4 << 20);
    const InodeNo dir = make(*volume, kRoot, "d", S_IFDIR | 0755);
    CHECK(set(*volume, dir, kDefaultAcl, kShared) == 0);
    const std::uint64_t before = volume->info().inodes_used;
    const InodeNo file = make(*volume, dir, "f", S_IFREG | 0666, 077);
    CHECK(mode(*volume, file) == (S_IFREG | 0660));
    CHECK(same(get(*volume, file, kAccessAcl), kShared));
    CHECK(get(*volume, file, kDefaultAcl).empty());
    const InodeNo below = make(*volume, dir, "below", S_IFDIR | 0750, 077);
    CHECK(mode(*volume, below) == (S_IFDIR | 0640));
    CHECK(same(get(*volume, below, kDefaultAcl), kShared));
    CHECK(get(*volume, below, kAccessAcl)[3].allowed == 4);
    CHECK(volume->getattr(dir).take().nlink == 3);
    CHECK(mode(*volume, make(*volume, kRoot, "other", S_IFREG | 0666, 027)) == (S_IFREG | 0640));
    OpenReply opened;
    OpenRequest request;
    request.caller.umask = 077;
    const auto nameless = volume->create_nameless(dir, S_IFREG | 0666, true, request, &opened);
    REQUIRE(nameless.ok());
    CHECK(nameless.value().mode == (S_IFREG | 0660));
    CHECK(same(get(*volume, nameless.value().ino, kAccessAcl), kShared));
    CHECK(volume->symlink(dir, "s", "target", request.caller).take().mode == (S_IFLNK | 0777));
    CHECK(volume->info().inodes_used == before + 5);
    // A default list of nothing but a mode.
    CHECK(set(*volume, dir, kDefaultAcl, minimal(7, 0, 0)) == 0);
    const InodeNo plain = make(*volume, dir, "plain", S_IFREG | 0666, 0);
    CHECK(mode(*volume, plain) == (S_IFREG | 0600));
    CHECK(get(*volume, plain, kAccessAcl).empty());
    volume.kill();
    volume.check();
}

TEST_CASE("acl: only files that can have a list get one") {
    SmallVolume volume(4 << 20);
    const InodeNo file = make(*volume, kRoot, "f", S_IFREG | 0644);
    CHECK(set(*volume, file, kDefaultAcl, kShared) == EACCES);
    CHECK(volume->removexattr(file, kDefaultAcl, {}).ok());
    const auto link = volume->symlink(kRoot, "s", "f", {});
    REQUIRE(link.ok());
    CHECK(set(*volume, link.value().ino, kAccessAcl, kShared) == EOPNOTSUPP);
    const auto done = volume->setxattr(file, "system.other", {}, 0, {});
    CHECK((!done.ok() && done.error().errno_value() == EOPNOTSUPP));
    CHECK(mode(*volume, file) == (S_IFREG | 0644));
}
