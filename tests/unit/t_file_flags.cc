// The flags of chattr(1): what they forbid by every way into a volume, and what of them is kept.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/stat.h>

#include <functional>

#include "media/verify.h"
#include "unit/small_volume.h"

using namespace pmfs;
using namespace pmfs::test;

namespace {

constexpr FileFlags kImmutable{.immutable = true}, kAppendOnly{.append_only = true};

template <class T>
int error_of(const Result<T> &result) {
    return result.ok() ? 0 : result.error().errno_value();
}

InodeNo make(Volume &volume, InodeNo dir, const char *name, std::uint32_t mode = S_IFREG | 0644) {
    const auto made = volume.make(dir, name, mode, 0, {});
    REQUIRE(made.ok());
    return made.value().ino;
}

std::uint32_t minor_version(Volume &volume) {
    media::Superblock sb;
    std::memcpy(static_cast<void *>(&sb), volume.region().data(), sizeof sb);
    return sb.version_minor.get();
}

struct Try {
    const char *what;
    bool by_growing;  // an append-only file takes it
    std::function<int(Volume &, InodeNo)> run;
};

SetAttr with(const std::function<void(SetAttr &)> &fill) {
    SetAttr set;
    fill(set);
    return set;
}
Try setting(const char *what, const std::function<void(SetAttr &)> &fill, bool by_growing = false) {
    return {what, by_growing,
            [set = with(fill)](Volume &v, InodeNo f) { return error_of(v.setattr(f, set, {})); }};
}

const std::vector<std::byte> kBytes(5000);

const Try kTries[] = {
    {"overwrite", false,
     [](Volume &v, InodeNo f) { return error_of(v.write(f, 0, kBytes, false, {})); }},
    {"append", true,
     [](Volume &v, InodeNo f) {
         return error_of(v.write(f, v.getattr(f).take().size, kBytes, false, {}));
     }},
    setting("truncate", [](SetAttr &s) { s.size = 10; }),
    setting("grow", [](SetAttr &s) { s.size = 100000; }),
    setting("chmod", [](SetAttr &s) { s.mode = 0600; }),
    setting("chown", [](SetAttr &s) { s.uid = 7; }),
    setting("chgrp", [](SetAttr &s) { s.gid = 7; }),
    setting("times",
            [](SetAttr &s) {
                s.mtime = Timespec{1, 0}, s.times_given = true;
            }),
    setting(
        "touch",
        [](SetAttr &s) {
            s.mtime = Timespec{1, 0};
        },
        true),
    {"allocate", true,
     [](Volume &v, InodeNo f) {
         return error_of(v.fallocate(0, f, FALLOC_FL_KEEP_SIZE, 0, 20000, {}));
     }},
    {"punch", false,
     [](Volume &v, InodeNo f) {
         return error_of(
             v.fallocate(0, f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096, {}));
     }},
    {"zero", false,
     [](Volume &v, InodeNo f) {
         return error_of(v.fallocate(0, f, FALLOC_FL_ZERO_RANGE, 0, 4096, {}));
     }},
    {"xattr", false,
     [](Volume &v, InodeNo f) { return error_of(v.setxattr(f, "user.x", kBytes, 0, {})); }},
    {"no xattr", false,
     [](Volume &v, InodeNo f) { return error_of(v.removexattr(f, "user.old", {})); }},
    {"acl", false,
     [](Volume &v, InodeNo f) {
         return error_of(v.removexattr(f, "system.posix_acl_access", {}));
     }},
    {"seal", false,
     [](Volume &v, InodeNo f) {
         std::uint64_t bad = 0;
         return error_of(v.seal(f, SealLevel::as_is, {}, true, &bad));
     }},
    {"unseal", false, [](Volume &v, InodeNo f) { return error_of(v.unseal(f, {}, true)); }},
    {"prepare", false, [](Volume &v, InodeNo f) { return error_of(v.prepare(f, 0, 0, 0, {})); }},
    {"prepare --contiguous", false,
     [](Volume &v, InodeNo f) { return error_of(v.prepare_contiguous(f, 0, 0, {})); }},
    {"link", false, [](Volume &v, InodeNo f) { return error_of(v.link(f, kRoot, "another")); }},
    {"unlink", false, [](Volume &v, InodeNo) { return error_of(v.unlink(kRoot, "f")); }},
    {"rename", false,
     [](Volume &v, InodeNo) { return error_of(v.rename(kRoot, "f", kRoot, "g", 0)); }},
    {"rename onto", false,
     [](Volume &v, InodeNo) { return error_of(v.rename(kRoot, "other", kRoot, "f", 0)); }},
    {"exchange", false,
     [](Volume &v, InodeNo) {
         return error_of(v.rename(kRoot, "other", kRoot, "f", RENAME_EXCHANGE));
     }},
    {"open", false, [](Volume &v, InodeNo f) { return error_of(v.open_file(f, {.write = true})); }},
    {"open to append", true,
     [](Volume &v, InodeNo f) {
         return error_of(v.open_file(f, {.write = true, .append = true}));
     }},
    {"open to truncate", false,
     [](Volume &v, InodeNo f) { return error_of(v.open_file(f, {.truncate = true})); }},
};

}  // namespace

TEST_CASE("chattr: every call that an immutable or an append-only file refuses") {
    for (const FileFlags &flags : {kImmutable, kAppendOnly}) {
        for (const Try &one : kTries) {
            SmallVolume volume(4 << 20);
            const InodeNo file = make(*volume, kRoot, "f");
            make(*volume, kRoot, "other");
            REQUIRE(volume->write(file, 0, kBytes, false, {}).ok());
            REQUIRE(volume->setxattr(file, "user.old", kBytes, 0, {}).ok());
            REQUIRE(volume->set_file_flags(file, flags).ok());
            CAPTURE(one.what);
            CAPTURE(flags.immutable);
            const bool allowed = one.by_growing && flags.append_only;
            CHECK(one.run(*volume, file) == (allowed ? 0 : EPERM));
            REQUIRE(volume->set_file_flags(file, {}).ok());
            volume.check();
        }
    }
}

TEST_CASE("chattr: a grant that stores and an immutable flag exclude each other") {
    SmallVolume volume(4 << 20);
    const InodeNo file = make(*volume, kRoot, "f");
    REQUIRE(volume->write(file, 0, kBytes, false, {}).ok());
    REQUIRE(volume->prepare(file, 0, 0, 0, {}).ok());
    const auto open = volume->open_file(file, {.write = true, .direct = true});
    REQUIRE(open.ok());
    std::uint64_t bad = 0;
    const GrantRequest storing{.length = 4096, .may_store = true}, reading{.length = 4096};
    const auto grant = volume->take_grant(open.value().handle, storing, {}, &bad);
    REQUIRE(grant.ok());
    for (const FileFlags &flags : {kImmutable, kAppendOnly})
        CHECK(error_of(volume->set_file_flags(file, flags)) == EBUSY);
    CHECK(volume->set_file_flags(file, {.no_dump = true}).ok());
    REQUIRE(volume->drop_grant(open.value().handle, grant.value()).ok());
    for (const FileFlags &flags : {kImmutable, kAppendOnly}) {
        REQUIRE(volume->set_file_flags(file, flags).ok());
        CHECK(error_of(volume->take_grant(open.value().handle, storing, {}, &bad)) == EPERM);
        CHECK(error_of(volume->take_grant(open.value().handle, reading, {}, &bad)) == 0);
        REQUIRE(volume->set_file_flags(file, {}).ok());
    }
}

TEST_CASE("chattr: flags are kept, and the volume says from then on that it has them") {
    for (const auto flavour : {SimMedia::Flavour::dax, SimMedia::Flavour::image}) {
        SmallVolume volume(4 << 20, flavour);
        const InodeNo dir = make(*volume, kRoot, "d", S_IFDIR | 0755);
        CHECK(volume->set_file_flags(dir, {}).ok());
        CHECK(minor_version(*volume) == 0);
        REQUIRE(volume->set_file_flags(dir, {.append_only = true, .no_dump = true}).ok());
        CHECK(minor_version(*volume) == 1);
        const InodeNo file = make(*volume, dir, "f");
        volume.kill();
        const auto of_dir = volume->file_flags(dir), of_file = volume->file_flags(file);
        REQUIRE((of_dir.ok() && of_file.ok()));
        CHECK((of_dir.value().append_only && of_dir.value().no_dump));
        CHECK((!of_file.value().append_only && of_file.value().no_dump));
        CHECK(error_of(volume->unlink(dir, "f")) == EPERM);
        const auto fifo = volume->make(dir, "fifo", S_IFIFO | 0600, 0, {});
        REQUIRE(fifo.ok());
        CHECK(error_of(volume->file_flags(fifo.value().ino)) == EOPNOTSUPP);
        CHECK(error_of(volume->set_file_flags(fifo.value().ino, kImmutable)) == EOPNOTSUPP);
        volume.check();
    }
}
