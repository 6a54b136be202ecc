// What the engine makes, fsck finds clean: random operations on small volumes, and a full one.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "fsck/check.h"
#include "fsck/print.h"
#include "media/format.h"
#include "mkfs/make.h"
#include "support/sim_media.h"
#include "volume/volume.h"

using namespace pmfs;
using test::MediaImage;
using test::SimMedia;

namespace {

using Random = std::mt19937_64;

std::uint64_t number_from(const char *name, std::uint64_t otherwise) {
    const char *text = std::getenv(name);
    return text != nullptr ? std::strtoull(text, nullptr, 0) : otherwise;
}

// Another region on the same memory, since a volume owns its region.
std::unique_ptr<pm::Region> again(const pm::Region &region) {
    pm::OpenOptions options;
    options.exclusive = false;
    auto same = pm::open_region("/proc/self/fd/" + std::to_string(region.mapping_fd()), options);
    REQUIRE(same.ok());
    return std::move(same).take();
}

void expect_clean(pm::Region &region) {
    const auto report = fsck::check(region);
    REQUIRE(report.ok());
    const std::string text = fsck::text_of(report.value(), "volume");
    INFO(text);
    REQUIRE(report.value().clean());  // the first moment is the one to look at
}

// Does anything that comes to mind to a volume; errors are answers like any other.
class Monkey {
public:
    Monkey(Volume &volume, std::uint64_t seed) : volume_(volume), random_(seed) {
        directories_.push_back(InodeNo(1));
    }
    void act();

private:
    std::string any_name() {
        std::string name = "n" + std::to_string(random_() % 60);
        if (random_() % 4 == 0) name += std::string(random_() % 240, 'x');
        return name;
    }
    InodeNo any_directory() { return directories_[random_() % directories_.size()]; }
    InodeNo any_file() { return files_.empty() ? InodeNo(1) : files_[random_() % files_.size()]; }
    std::uint64_t any_offset() {
        switch (random_() % 4) {
            case 0:
                return random_() % 8192;
            case 1:
                return random_() % (4 << 20);
            case 2:
                return random_() % 1024 * 4096;
            default:
                return random_() % (std::uint64_t{1} << 40);
        }
    }
    void make();
    void change_data();
    void change_names();
    void change_xattrs();
    void change_seal();

    Volume &volume_;
    Random random_;
    const Caller caller_{0, 0, 1};
    std::vector<InodeNo> directories_, files_;
};

void Monkey::make() {
    static constexpr std::uint32_t kModes[] = {S_IFREG | 0644, S_IFREG | 0600, S_IFDIR | 0755,
                                               S_IFIFO | 0600, S_IFCHR | 0600, S_IFSOCK | 0700};
    if (random_() % 6 == 0) {
        const std::string target(1 + random_() % (random_() % 2 == 0 ? 300 : media::kSymlinkMax),
                                 't');
        (void)volume_.symlink(any_directory(), any_name(), target, caller_).ok();
        return;
    }
    const std::uint32_t mode = kModes[random_() % std::size(kModes)];
    const auto made =
        volume_.make(any_directory(), any_name(), mode, S_ISCHR(mode) ? 0x103 : 0, caller_);
    if (!made.ok()) return;
    if (S_ISDIR(mode)) directories_.push_back(made.value().ino);
    if (S_ISREG(mode)) files_.push_back(made.value().ino);
}

void Monkey::change_data() {
    const InodeNo file = any_file();
    const std::uint64_t offset = any_offset();
    switch (random_() % 4) {
        case 0: {
            SetAttr set;
            set.size = random_() % 3 == 0 ? 0 : offset;
            (void)volume_.setattr(file, set, caller_).ok();
            break;
        }
        case 1: {
            static constexpr unsigned kModes[] = {
                0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
                FALLOC_FL_ZERO_RANGE, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE};
            const auto open = volume_.open_file(file, {.write = true, .caller = caller_});
            if (!open.ok()) return;
            (void)volume_
                .fallocate(open.value().handle, file, kModes[random_() % std::size(kModes)], offset,
                           1 + random_() % (1 << 20), caller_)
                .ok();
            volume_.release(open.value().handle);
            break;
        }
        default: {
            const std::vector<std::byte> bytes(1 + random_() % (random_() % 8 == 0 ? 300000 : 9000),
                                               std::byte(random_()));
            (void)volume_.write(file, offset, bytes, false, caller_).ok();
        }
    }
}

void Monkey::change_names() {
    switch (random_() % 5) {
        case 0:
            (void)volume_.unlink(any_directory(), any_name()).ok();
            break;
        case 1:
            (void)volume_.rmdir(any_directory(), any_name()).ok();
            break;
        case 2:
            (void)volume_.link(any_file(), any_directory(), any_name()).ok();
            break;
        default: {
            static constexpr unsigned kFlags[] = {0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE};
            (void)volume_
                .rename(any_directory(), any_name(), any_directory(), any_name(),
                        kFlags[random_() % std::size(kFlags)])
                .ok();
        }
    }
}

void Monkey::change_xattrs() {
    const InodeNo inode = random_() % 4 == 0 ? any_directory() : any_file();
    const std::string name = "user.x" + std::to_string(random_() % 12);
    if (random_() % 3 == 0) {
        (void)volume_.removexattr(inode, name, caller_).ok();
        return;
    }
    const std::vector<std::byte> value(random_() % (random_() % 3 == 0 ? 60000 : 800),
                                       std::byte{7});
    (void)volume_.setxattr(inode, name, value, 0, caller_).ok();
}

void Monkey::change_seal() {
    const InodeNo file = any_file();
    std::uint64_t bad = 0;
    switch (random_() % 4) {
        case 0:
            (void)volume_.prepare(file, 0, 0, 0, caller_).ok();
            break;
        case 1:
            (void)volume_.seal(file, SealLevel::full, caller_, true, &bad).ok();
            break;
        case 2:
            (void)volume_.seal(file, SealLevel::as_is, caller_, true, &bad).ok();
            break;
        default:
            (void)volume_.unseal(file, caller_, true).ok();
    }
}

void Monkey::act() {
    switch (random_() % 10) {
        case 0:
        case 1:
            return make();
        case 2:
        case 3:
            return change_names();
        case 4:
            return change_xattrs();
        case 5:
            return change_seal();
        default:
            return change_data();
    }
}

}  // namespace

TEST_CASE("fsck: finds clean what the engine makes, at any moment and after it ended") {
    const std::uint64_t seed = number_from("PMFS_FUZZ_SEED", 1);
    const std::uint64_t rounds = number_from("PMFS_ENGINE_ROUNDS", 3000);
    const std::uint64_t every = number_from("PMFS_ENGINE_CHECK_EVERY", 50);
    for (const std::uint64_t size : {std::uint64_t{8} << 20, std::uint64_t{64} << 20}) {
        CAPTURE(seed);
        CAPTURE(size);
        auto region = pm::memory_region(size);
        REQUIRE(region.ok());
        auto owned = std::move(region).take();
        mkfs::MakeOptions options;
        options.mapping_unit = size > (8 << 20) ? 2 << 20 : 0;
        REQUIRE(mkfs::make(*owned, options).ok());
        const auto look = again(*owned);
        auto volume = Volume::open(std::move(owned), {.no_background = true});
        REQUIRE(volume.ok());
        Monkey monkey(*volume.value(), seed);
        for (std::uint64_t i = 0; i < rounds; ++i) {
            CAPTURE(i);
            monkey.act();
            if (i % every == 0) expect_clean(*look);
        }
        REQUIRE(volume.value()->close().ok());
        expect_clean(*look);
        const fsck::Report last = fsck::check(*look).value_or({});
        MESSAGE(fsck::text_of(last, "after it all"));
        CHECK(last.was_clean);
    }
}

TEST_CASE("fsck: a file without a name is an orphan once, whatever is done to its size") {
    auto region = pm::memory_region(64 << 20);
    REQUIRE(region.ok());
    auto owned = std::move(region).take();
    REQUIRE(mkfs::make(*owned, {}).ok());
    const auto look = again(*owned);
    auto opened = Volume::open(std::move(owned), {.no_background = true});
    REQUIRE(opened.ok());
    Volume &volume = *opened.value();
    const Caller caller;
    const auto make = [&](const char *name) {
        const auto made = volume.make(InodeNo(1), name, S_IFREG | 0600, 0, caller);
        REQUIRE(made.ok());
        return made.value().ino;
    };
    // Two orphans, the larger one not the head: a second entry into the list would make a loop.
    const InodeNo large = make("large"), small = make("small");
    const std::vector<std::byte> block(4096, std::byte{1});
    for (std::uint64_t i = 0; i < 1500; ++i)  // many leaves, so that one transaction is not enough
        REQUIRE(volume.write(large, i * 2 * 4096, block, false, caller).ok());
    REQUIRE(volume.unlink(InodeNo(1), "large").ok());
    REQUIRE(volume.unlink(InodeNo(1), "small").ok());
    SetAttr set;
    set.size = 4096;
    REQUIRE(volume.setattr(large, set, caller).ok());
    expect_clean(*look);
    CHECK(fsck::check(*look).value_or({}).orphans == 2);
    volume.forget(large, 1);
    volume.forget(small, 1);
    expect_clean(*look);
    CHECK(fsck::check(*look).value_or({}).inodes == 1);
    REQUIRE(volume.close().ok());
}

TEST_CASE("fsck: after a power cut anywhere, its own replay makes a sound volume") {
    const std::uint64_t seed = number_from("PMFS_FUZZ_SEED", 1);
    const std::uint64_t rounds = number_from("PMFS_CUT_ROUNDS", 60);
    for (const auto flavour : {SimMedia::Flavour::dax, SimMedia::Flavour::image}) {
        auto region = pm::memory_region(4 << 20);
        REQUIRE(region.ok());
        REQUIRE(mkfs::make(*region.value(), {}).ok());
        const std::byte *bytes = region.value()->data();
        SimMedia media(flavour, MediaImage({bytes, bytes + (4 << 20)}));
        journal::BootId boot{}, next_boot{};
        boot[0] = 1;
        next_boot[0] = 2;
        auto volume = Volume::open(media.lend(), {.no_background = true, .boot_id = boot});
        REQUIRE(volume.ok());
        Monkey monkey(*volume.value(), seed);
        for (std::uint64_t i = 0; i < rounds; ++i) {
            monkey.act();
            if (i % 16 == 15) REQUIRE(volume.value()->commit_group().ok());
        }
        Random random(seed);
        for (std::uint64_t i = 0; i < rounds * 10; ++i) {
            const std::size_t cut = random() % (media.events() + 1);
            const auto how = static_cast<unsigned>(random() % 100);
            INFO(media.describe(cut, how));
            SimMedia found(flavour, media.after_power_cut(cut, how));
            fsck::Report report;
            REQUIRE(fsck::replay_journal(found, next_boot, true, &report).ok());
            REQUIRE(report.clean());
            expect_clean(found);
        }
    }
}
