// Files without a name, and the whiteouts that are made of such.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/stat.h>

#include "unit/small_volume.h"

using namespace pmfs;
using namespace pmfs::test;

namespace {

struct Nameless {
    InodeNo ino;
    HandleId handle = 0;
};

Nameless make(Volume &volume, bool linkable = true) {
    OpenRequest request;
    request.write = true;
    OpenReply opened;
    const auto made = volume.create_nameless(kRoot, S_IFREG | 0600, linkable, request, &opened);
    REQUIRE(made.ok());
    CHECK(made.value().nlink == 0);
    return {made.value().ino, opened.handle};
}

std::uint64_t inodes(Volume &volume) {
    return volume.info().inodes_used;
}

int error_of(const Result<Attr> &result) {
    return result.ok() ? 0 : result.error().errno_value();
}

}  // namespace

TEST_CASE("nameless: a file without a name is freed with its last user, or with the server") {
    SmallVolume volume(4 << 20);
    const std::uint64_t before = inodes(*volume);
    const Nameless a = make(*volume), b = make(*volume);
    REQUIRE(volume->write(a.ino, 0, std::vector<std::byte>(50000), false, {}).ok());
    CHECK(inodes(*volume) == before + 2);
    volume->release(a.handle);
    CHECK(inodes(*volume) == before + 2);
    volume->forget(a.ino, 1);
    CHECK(inodes(*volume) == before + 1);
    CHECK(volume->write(b.ino, 0, std::vector<std::byte>(50000), false, {}).ok());
    volume.kill();
    CHECK(inodes(*volume) == before);
}

TEST_CASE(
    "nameless: a file without a name may get one if that was allowed, one that lost its name "
    "never") {
    SmallVolume volume(4 << 20);
    const Nameless open = make(*volume), closed = make(*volume, false);
    CHECK(error_of(volume->link(closed.ino, kRoot, "closed")) == ENOENT);
    CHECK(error_of(volume->link(open.ino, kRoot, "open")) == 0);
    CHECK(error_of(volume->link(open.ino, kRoot, "open")) == EEXIST);
    volume->release(open.handle);
    volume->forget(open.ino, 2);
    const auto found = volume->lookup(kRoot, "open");
    REQUIRE(found.ok());
    CHECK(found.value().nlink == 1);
    REQUIRE(volume->unlink(kRoot, "open").ok());
    CHECK(error_of(volume->link(open.ino, kRoot, "again")) == ENOENT);
}

TEST_CASE("nameless: only regular files may lack a name, and none is made in a removed directory") {
    SmallVolume volume(4 << 20);
    const auto dir = volume->make(kRoot, "d", S_IFDIR | 0700, 0, {});
    REQUIRE(dir.ok());
    REQUIRE(volume->rmdir(kRoot, "d").ok());
    OpenReply opened;
    CHECK(error_of(volume->create_nameless(dir.value().ino, S_IFREG | 0600, true, {}, &opened)) ==
          ENOENT);
    for (const std::uint32_t mode : {S_IFDIR | 0700, S_IFCHR | 0600, 0600})
        CHECK(error_of(volume->create_nameless(kRoot, mode, true, {}, &opened)) == EINVAL);
}

// Two directories, what is moved, what is replaced, the whiteout and another orphan, each in a
// block of inodes of its own: more than one transaction takes, if it were one.
TEST_CASE("nameless: a rename that leaves a whiteout fits beside everything that it replaces") {
    SmallVolume volume(8 << 20);
    std::vector<InodeNo> made;
    for (unsigned i = 0; i < 40; ++i) {
        const std::string name = "n" + std::to_string(i);
        const auto one = volume->make(kRoot, name, (i % 8 == 0 ? S_IFDIR : S_IFREG) | 0755u, 0, {});
        REQUIRE(one.ok());
        made.push_back(one.value().ino);
    }
    // Far from one another, as inodes are numbered in the order in which they are made.
    REQUIRE(volume->rename(kRoot, "n1", made[8], "from", 0).ok());
    REQUIRE(volume->rename(kRoot, "n12", made[24], "to", 0).ok());
    REQUIRE(volume->unlink(kRoot, "n36").ok());  // referred to, so it stays on the list
    REQUIRE(volume->rename(made[8], "from", made[24], "to", RENAME_WHITEOUT, nullptr, {1000, 100})
                .ok());
    const auto left = volume->lookup(made[8], "from");
    REQUIRE(left.ok());
    CHECK(left.value().mode == S_IFCHR);
    CHECK((left.value().rdev == 0 && left.value().nlink == 1));
    CHECK((left.value().uid == 1000 && left.value().gid == 100));
    CHECK(volume->lookup(made[24], "to").take().ino == made[1]);
    volume.kill();
    CHECK(volume->lookup(made[8], "from").ok());
    volume.check();
}

TEST_CASE("nameless: a rename that fails leaves no whiteout and no inode behind") {
    SmallVolume volume(4 << 20);
    REQUIRE(volume->make(kRoot, "f", S_IFREG | 0600, 0, {}).ok());
    REQUIRE(volume->make(kRoot, "g", S_IFREG | 0600, 0, {}).ok());
    const std::uint64_t before = inodes(*volume);
    const auto fails = [&](const char *from, const char *to, unsigned flags) {
        const auto done = volume->rename(kRoot, from, kRoot, to, flags);
        return done.ok() ? 0 : done.error().errno_value();
    };
    CHECK(fails("f", "g", RENAME_WHITEOUT | RENAME_NOREPLACE) == EEXIST);
    CHECK(fails("none", "g", RENAME_WHITEOUT) == ENOENT);
    CHECK(fails("f", "g", RENAME_WHITEOUT | RENAME_EXCHANGE) == EINVAL);
    CHECK(fails("f", std::string(256, 'n').c_str(), RENAME_WHITEOUT) == ENAMETOOLONG);
    CHECK(inodes(*volume) == before);
    // It has to wait for the journal when the whiteout is there already: that one goes.
    volume.wait_behind(1);
    REQUIRE(
        volume.retry([&] { return volume->rename(kRoot, "f", kRoot, "h", RENAME_WHITEOUT); }).ok());
    CHECK(inodes(*volume) == before + 1);
}
