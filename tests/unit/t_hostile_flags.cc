// Inodes whose flags a hostile image made up, of every type: whatever is done with them ends,
// nothing crashes, and another file that is sealed stays where it is.
#include <doctest/doctest.h>
#include <sys/stat.h>

#include <array>
#include <random>

#include "unit/files.h"
#include "unit/tampered.h"

using namespace pmfs;
using namespace pmfs::media;
using namespace pmfs::test;

namespace {

constexpr std::array<std::uint32_t, 5> kTypes{S_IFREG, S_IFDIR, S_IFLNK, S_IFCHR, S_IFIFO};

InodeNo make_one(Volume &v, std::uint32_t type, const std::string &name) {
    const auto made = type == S_IFLNK
                          ? v.symlink(kRoot, name, std::string(1000, 't'), kUser)
                          : v.make(kRoot, name, type | 0644, type == S_IFCHR ? 0x101 : 0, kAdmin);
    REQUIRE(made.ok());
    const InodeNo ino = made.value().ino;
    if (type == S_IFREG)
        REQUIRE(v.write(ino, 0, bytes_of(std::string(50'000, 'x')), false, kUser).ok());
    if (type == S_IFDIR) REQUIRE(v.make(ino, "below", S_IFREG | 0600, 0, kUser).ok());
    return ino;
}

// What came of it does not matter.
template <class T>
void any(const Result<T> &result) {
    (void)result.ok();
}

void use_all(Volume &v, const std::string &name) {
    const auto found = v.lookup(kRoot, name);
    if (!found.ok()) return;
    const InodeNo ino = found.value().ino;
    OpenRequest request;
    request.read = request.write = true;
    request.caller = kAdmin;
    std::uint64_t bad = 0;
    const auto opened = v.open_file(ino, request);
    any(v.getattr(ino));
    any(v.file_info(ino, nullptr));
    any(v.read(ino, 0, 4096, [](auto) {}));
    any(v.write(ino, 8192, bytes_of("words"), false, kAdmin));
    any(v.setxattr(ino, "user.x", bytes_of(std::string(2000, 'v')), 0, kAdmin));
    any(v.removexattr(ino, "user.x", kAdmin));
    any(v.prepare(ino, 0, 0, 0, kAdmin));
    any(v.seal(ino, SealLevel::as_is, kAdmin, true, &bad));
    any(v.unseal(ino, kAdmin, true));
    any(v.seal(ino, SealLevel::full, kAdmin, true, &bad));
    any(v.file_flags(ino));
    if (opened.ok()) {
        GrantRequest grant;
        grant.kind = GrantKind::pin;
        any(v.take_grant(opened.value().handle, grant, kAdmin, &bad));
        any(v.fallocate(opened.value().handle, ino, 3, 4096, 8192, kAdmin, nullptr));
        v.release(opened.value().handle);
    }
    any(v.set_file_flags(ino, {}));
    any(v.unseal(ino, kAdmin, true));
    for (const std::uint64_t size : {100'000, 0}) any(v.setattr(ino, size_of(size), kAdmin));
    any(v.readlink(ino));
    any(v.link(ino, kRoot, "again"));
    any(v.rename(kRoot, name, kRoot, "moved", 0, nullptr, kAdmin));
    for (const char *text : {"again", "moved"}) any(v.unlink(kRoot, text));
    any(v.rmdir(kRoot, "moved"));
    v.forget(ino, 1);
}

}  // namespace

TEST_CASE("hostile: flags that no such inode can have crash nothing and move no sealed file") {
    const auto *more = std::getenv("PMFS_HOSTILE_ROUNDS");
    const unsigned rounds = more != nullptr ? static_cast<unsigned>(std::atoi(more)) : 60;
    std::mt19937 random(more != nullptr ? std::random_device()() : 1);
    for (unsigned round = 0; round < rounds; ++round) {
        const std::uint32_t type = kTypes[round % kTypes.size()];
        const std::uint32_t flags = static_cast<std::uint32_t>(random()) & 0x3ff;
        const std::uint32_t links = random() % 4, trim = random() % 4, listed = random() % 8;
        CAPTURE(type);
        CAPTURE(flags);
        CAPTURE(links);
        CAPTURE(trim);
        CAPTURE(listed);
        Tampered volume(8 << 20);
        const InodeNo sealed = make_file(*volume, "sealed");
        REQUIRE(volume->write(sealed, 0, bytes_of(std::string(300'000, 's')), false, kUser).ok());
        std::uint64_t bad = 0;
        REQUIRE(volume->seal(sealed, SealLevel::full, kAdmin, true, &bad).ok());
        const InodeNo ino = make_one(*volume, type, "odd");
        const auto digest = volume->file_info(sealed, nullptr).take();
        volume.close();
        Inode &inode = volume.inode(ino);
        inode.flags.set(flags);
        if (links == 0) inode.nlink.set(0);
        if (trim != 0) inode.trim_from.set(trim == 1 ? 1 : trim == 2 ? 0 : ~std::uint64_t{0});
        if (listed == 0) inode.next.set(sealed.value());
        if (listed == 1) inode.prev.set(ino.value());
        seal_block(inode);
        (void)volume.problems();
        if (!volume.reopen().ok()) continue;
        use_all(*volume, "odd");
        const auto after = volume->file_info(sealed, nullptr);
        REQUIRE(after.ok());
        CHECK(std::memcmp(after.value().digest, digest.digest, sizeof digest.digest) == 0);
        CHECK(read_at(*volume, sealed, 0, 400'000) == std::string(300'000, 's'));
        (void)volume->close().ok();
    }
}
