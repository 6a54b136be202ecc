// Writes and syncs that fail: what was answered with success is there all the same.
//
// Every operation is run again and again; each time another one of its writes, or of its syncs,
// fails.  Then the server dies, or the power goes, and the volume is looked at.
//
// Holds docs/persistence.md "Failures and their consequences".
#include <doctest/doctest.h>
#include <linux/falloc.h>
#include <sys/stat.h>

#include "fsck/check.h"
#include "mkfs/make.h"
#include "sweep.h"

using namespace pmfs;
using namespace pmfs::test;

namespace {

using Flavour = SimMedia::Flavour;
using Boot = std::array<std::uint8_t, 16>;
constexpr Boot kBootA{0xa}, kBootB{0xb};
constexpr Caller kUser{1000, 1000, 1};
const InodeNo kRoot(media::kRootIno);

std::unique_ptr<Volume> open(SimMedia &media, const Boot &boot) {
    MountOptions options;
    options.no_background = true;
    options.boot_id = boot;
    auto opened = Volume::open(media.lend(), options);
    REQUIRE_MESSAGE(opened.ok(), std::string(opened.ok() ? "" : opened.error().what()));
    return std::move(opened).take();
}

template <class T>
Result<> plain(const Result<T> &result) {
    return result.ok() ? Result<>() : result.error();
}

InodeNo find(Volume &v, std::string_view name) {
    const auto found = v.lookup(kRoot, name);
    REQUIRE(found.ok());
    v.forget(found.value().ino, 1);
    return found.value().ino;
}

// The bytes of a write outlive the call.
std::span<const std::byte> bytes(std::size_t size, unsigned char fill) {
    static std::map<std::pair<std::size_t, unsigned char>, std::vector<std::byte>> made;
    auto &text = made[{size, fill}];
    text.assign(size, std::byte{fill});
    return text;
}

struct Step {
    const char *name;
    std::function<Result<>(Volume &)> run;
};

Result<> fsync(Volume &v) {
    Result<> result;
    v.fsync(kRoot, [&](Result<> done) { result = done; });
    return result;
}

Result<> set_size(Volume &v, std::string_view name, std::uint64_t size) {
    SetAttr set;
    set.size = size;
    return plain(v.setattr(find(v, name), set, kUser));
}

const std::vector<Step> &acts() {
    static const std::vector<Step> all = {
        {"make", [](Volume &v) { return plain(v.make(kRoot, "new", S_IFREG | 0644, 0, kUser)); }},
        {"mkdir", [](Volume &v) { return plain(v.make(kRoot, "new", S_IFDIR | 0755, 0, kUser)); }},
        {"symlink",
         [](Volume &v) { return plain(v.symlink(kRoot, "new", std::string(3000, 's'), kUser)); }},
        {"link", [](Volume &v) { return plain(v.link(find(v, "f"), kRoot, "new")); }},
        {"unlink", [](Volume &v) { return plain(v.unlink(kRoot, "f")); }},
        {"rmdir", [](Volume &v) { return plain(v.rmdir(kRoot, "d")); }},
        {"rename", [](Volume &v) { return plain(v.rename(kRoot, "f", kRoot, "g", 0)); }},
        {"chmod",
         [](Volume &v) {
             SetAttr set;
             set.mode = 0600;
             return plain(v.setattr(find(v, "f"), set, kUser));
         }},
        {"write behind the end",
         [](Volume &v) {
             return plain(v.write(find(v, "f"), 50000, bytes(20000, 7), false, kUser));
         }},
        {"a large write",
         [](Volume &v) {
             return plain(v.write(find(v, "f"), 8192, bytes(100000, 8), false, kUser));
         }},
        {"overwrite",
         [](Volume &v) { return plain(v.write(find(v, "f"), 0, bytes(5000, 9), false, kUser)); }},
        {"truncate", [](Volume &v) { return set_size(v, "f", 100); }},
        {"grow", [](Volume &v) { return set_size(v, "f", 60000); }},
        {"fallocate",
         [](Volume &v) { return v.fallocate(0, find(v, "f"), 0, 20000, 40000, kUser); }},
        {"punch a hole",
         [](Volume &v) {
             return v.fallocate(0, find(v, "f"), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 100,
                                9000, kUser);
         }},
        {"setxattr",
         [](Volume &v) {
             return plain(v.setxattr(find(v, "f"), "user.a", bytes(50, 'a'), 0, kUser));
         }},
        {"a large xattr",
         [](Volume &v) {
             return plain(v.setxattr(find(v, "f"), "user.b", bytes(9000, 'b'), 0, kUser));
         }},
        {"removexattr",
         [](Volume &v) { return plain(v.removexattr(find(v, "g"), "user.x", kUser)); }},
    };
    return all;
}

// Those that promise to be durable when they return.
const std::vector<Step> &durable_acts() {
    static const std::vector<Step> all = {
        {"fsync",
         [](Volume &v) -> Result<> {
             TRY(v.write(find(v, "f"), 50000, bytes(20000, 7), false, kUser));
             return fsync(v);
         }},
        {"fsync of an overwrite",
         [](Volume &v) -> Result<> {
             TRY(v.write(find(v, "f"), 0, bytes(5000, 9), false, kUser));
             return fsync(v);
         }},
        {"close",
         [](Volume &v) -> Result<> {
             TRY(v.make(kRoot, "new", S_IFREG | 0644, 0, kUser));
             return v.close();
         }},
        {"commit_group",
         [](Volume &v) -> Result<> {
             TRY(v.make(kRoot, "new", S_IFREG | 0644, 0, kUser));
             return v.commit_group();
         }},
        {"seal",
         [](Volume &v) -> Result<> {
             std::uint64_t bad = 0;
             return v.seal(find(v, "f"), SealLevel::as_is, kUser, true, &bad);
         }},
        {"unseal", [](Volume &v) { return v.unseal(find(v, "sealed"), kUser, true); }},
        {"prepare", [](Volume &v) { return plain(v.prepare(find(v, "f"), 0, 0, 0, kUser)); }},
    };
    return all;
}

MediaImage base_of(Flavour flavour) {
    SimMedia media(flavour, MediaImage(std::vector<std::byte>(4 << 20)));
    mkfs::MakeOptions options;
    options.journal_size = 256 << 10;
    options.mapping_unit = 4096;
    REQUIRE(mkfs::make(*media.lend(), options).ok());
    auto volume = open(media, kBootA);
    User user(*volume);
    for (const char *name : {"f", "g", "sealed"}) {
        user.make(name, S_IFREG | 0644);
        user.write(name, 0, 10000, 1);
    }
    user.set_xattr("g", "user.x", 2000, 'x');
    user.seal("sealed", SealLevel::as_is);
    user.make("d", S_IFDIR | 0755);
    REQUIRE(volume->close().ok());
    volume.reset();
    return media.after_kill();
}

World world_of(Flavour flavour, const MediaImage &image, const Boot &boot) {
    SimMedia media(flavour, image);
    World world;
    {
        auto volume = open(media, boot);
        auto seen = look_at(*volume);
        REQUIRE(seen.ok());
        world = std::move(seen).take();
        REQUIRE(volume->close().ok());
    }
    const auto report = fsck::check(*media.lend());
    REQUIRE(report.ok());
    CHECK(report.value().clean());
    return world;
}

// What `act` makes of the volume when nothing fails.
World after(Flavour flavour, const MediaImage &base, const Step &act) {
    SimMedia media(flavour, base);
    auto volume = open(media, kBootA);
    REQUIRE(act.run(*volume).ok());
    REQUIRE(fsync(*volume).ok());
    volume.reset();
    return world_of(flavour, media.after_kill(), kBootA);
}

// As a front end answers.
bool answered_with_success(const Result<> &done) {
    return !pm::take_fault() && done.ok();
}

}  // namespace

TEST_CASE("failures: whichever write fails, operations that succeeded have their effect") {
    for (const Flavour flavour : {Flavour::dax, Flavour::image}) {
        const MediaImage base = base_of(flavour);
        const World before = world_of(flavour, base, kBootA);
        for (const Step &act : acts()) {
            const World now = after(flavour, base, act);
            std::size_t failed = 0;
            for (std::size_t nth = 0;; ++nth) {
                INFO(std::string(act.name), ": write ", nth, flavour == Flavour::dax ? " dax" : "");
                SimMedia media(flavour, base);
                auto volume = open(media, kBootA);
                media.plant(Plant::fail_writes, nth);
                const bool success = answered_with_success(act.run(*volume));
                if (!media.plant_is_spent()) {
                    CHECK(success);
                    break;
                }
                // An image has lost bytes then: nothing is promised any more, and it says so.
                if (flavour == Flavour::image) {
                    CHECK_FALSE(fsync(*volume).ok());
                    CHECK(volume->info().read_only);
                    CHECK_FALSE(volume->close().ok());
                }
                failed += !success;
                volume.reset();
                const World found = world_of(flavour, media.after_kill(), kBootA);
                const std::string bad =
                    success ? judge(found, now, now, false) : judge(found, before, now, true);
                CHECK_MESSAGE(bad.empty(), bad);
            }
            CHECK(failed != 0);
        }
    }
}

TEST_CASE("failures: whichever sync fails, operations that promise durability keep it or fail") {
    const MediaImage base = base_of(Flavour::image);
    const World before = world_of(Flavour::image, base, kBootA);
    for (const Step &act : durable_acts()) {
        const World now = after(Flavour::image, base, act);
        std::size_t failed = 0;
        for (std::size_t nth = 0;; ++nth) {
            INFO(std::string(act.name), ": sync ", nth);
            SimMedia media(Flavour::image, base);
            auto volume = open(media, kBootA);
            media.plant(Plant::fail_syncs, nth);
            const bool success = answered_with_success(act.run(*volume));
            if (!media.plant_is_spent()) break;
            failed += !success;
            CHECK(volume->info().read_only);
            volume.reset();
            const World found = world_of(Flavour::image, media.after_power_cut(0), kBootB);
            const std::string bad =
                success ? judge(found, now, now, false) : judge(found, before, now, true);
            CHECK_MESSAGE(bad.empty(), bad);
        }
        CHECK(failed != 0);
    }
}

TEST_CASE(
    "failures: a record that could not be stored is the last one, so a mount replays the rest") {
    for (const Flavour flavour : {Flavour::dax, Flavour::image}) {
        SimMedia media(flavour, base_of(flavour));
        auto volume = open(media, kBootA);
        REQUIRE(volume->make(kRoot, "one", S_IFREG | 0644, 0, kUser).ok());
        media.plant(Plant::fail_writes, 0);
        CHECK_FALSE(volume->make(kRoot, "two", S_IFREG | 0644, 0, kUser).ok());
        (void)pm::take_fault();
        CHECK_FALSE(volume->make(kRoot, "three", S_IFREG | 0644, 0, kUser).ok());
        CHECK(volume->info().read_only);
        volume.reset();
        const World found = world_of(flavour, media.after_kill(), kBootA);
        CHECK(found.contains("/one"));
        CHECK_FALSE(found.contains("/two"));
        CHECK_FALSE(found.contains("/three"));
    }
}
