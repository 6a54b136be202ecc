// A volume that is cut off while it grows has its old size or the new one, all its files, and can
// be grown again.  So has one whose reserve is changed, or whose minor version is raised.
#include <doctest/doctest.h>
#include <sys/stat.h>

#include <set>

#include "base/bytes.h"
#include "fsck/check.h"
#include "fsck/repair.h"
#include "media/verify.h"
#include "mkfs/make.h"
#include "sweep.h"

using namespace pmfs;
using namespace pmfs::test;

namespace {

constexpr Caller kRootUser{0, 0, 1};
constexpr SimMedia::Flavour kBoth[] = {SimMedia::Flavour::dax, SimMedia::Flavour::image};

// Of the machine that makes a volume, and after the power was cut: an image has lost its page
// cache.
constexpr journal::BootId kBoot{1}, kNextBoot{2};

std::unique_ptr<Volume> open(SimMedia &media, const journal::BootId &boot) {
    MountOptions options;
    options.no_background = true;
    options.boot_id = boot;
    auto opened = Volume::open(media.lend(), options);
    REQUIRE_MESSAGE(opened.ok(), std::string(opened.ok() ? "" : opened.error().what()));
    return std::move(opened).take();
}

// A volume of `size` bytes with a few files, on a medium of `medium` bytes.
MediaImage volume_on(std::uint64_t size, std::uint64_t medium) {
    constexpr std::uint64_t kMade = 10 * kMiB;
    const auto region = std::move(pm::memory_region(kMade)).take();
    REQUIRE(mkfs::make(*region, {}).ok());
    SimMedia media(SimMedia::Flavour::dax,
                   MediaImage({region->data(), region->data() + kMade}, medium));
    const auto volume = open(media, kBoot);
    User user(*volume);
    user.make("d", S_IFDIR | 0755);
    user.make("d/f", S_IFREG | 0644);
    user.write("d/f", 0, 100000, 7);
    Growth growth;
    REQUIRE(volume->grow(size, kRootUser, &growth).ok());
    REQUIRE(volume->close().ok());
    return media.after_kill();
}

// Only what a superblock that was being changed may look like, and clean when that is repaired.
// True: it was clean.
bool check(SimMedia &media) {
    const auto lent = media.lend();
    fsck::Report replayed;
    REQUIRE(fsck::replay_journal(*lent, kNextBoot, true, &replayed).ok());
    CHECK(replayed.clean());
    auto report = fsck::check(*lent);
    REQUIRE(report.ok());
    bool clean = true;
    for (const auto &p : report.value().problems) {
        CAPTURE(fsck::info_of(p.code).sentence);
        CHECK((p.code == fsck::Code::superblock_damaged ||
               p.code == fsck::Code::superblock_copy_damaged ||
               p.code == fsck::Code::superblock_copy_differs));
        clean = false;
    }
    if (clean) return true;
    const auto repaired = fsck::repair(*lent, report.value());
    REQUIRE_MESSAGE(repaired.ok(), std::string(repaired.ok() ? "" : repaired.error().what()));
    report = fsck::check(*lent);
    REQUIRE(report.ok());
    CHECK(report.value().clean());
    return false;
}

// A change of the superblock, from one value of something to another.
struct Tuning {
    SimMedia::Flavour flavour;
    std::function<void(Volume &)> change;
    std::function<std::uint64_t(Volume &)> value;
    std::uint64_t before, after;
    std::set<std::uint64_t> between = {};
};

struct Seen {
    std::size_t cuts = 0, clean = 0;
    std::set<std::uint64_t> values;
};

// What a cut left: mounted as it is, then repaired, and changed once more.
void look_at_cut(const Tuning &tuning, const MediaImage &left, const World &world, Seen *seen) {
    ++seen->cuts;
    SimMedia unrepaired(tuning.flavour, left), found(tuning.flavour, left);
    const auto as_is = open(unrepaired, kNextBoot);
    const std::uint64_t value = tuning.value(*as_is);
    seen->values.insert(value);
    CHECK(judge(look_at(*as_is).take(), world, world, false) == "");
    seen->clean += check(found);
    {
        const auto volume = open(found, kNextBoot);
        CHECK(tuning.value(*volume) == value);
        tuning.change(*volume);
        CHECK(tuning.value(*volume) == tuning.after);
        User user(*volume);
        user.make("new", S_IFREG | 0644);
        user.write("new", 0, 3000000, 9);
        REQUIRE(volume->close().ok());
    }
    CHECK(check(found));
}

// The same with block 0 lost as well: what a copy says is sound.  (Where there is one copy only,
// that may just be written.)
void look_without_block_0(const Tuning &tuning, const MediaImage &left, const World &world) {
    SimMedia media(tuning.flavour, left);
    media.store_direct(0, std::vector<std::byte>(media::kBlockSize));
    MountOptions options;
    options.no_background = true;
    options.boot_id = kNextBoot;
    auto opened = Volume::open(media.lend(), options);
    if (!opened.ok()) return;
    CHECK(judge(look_at(*opened.value()).take(), world, world, false) == "");
    opened = Error(EBUSY, "closed");
    check(media);
}

// Cuts the change off before each of its events, and behind the last one.
Seen sweep(const MediaImage &image, const Tuning &tuning) {
    SimMedia media(tuning.flavour, image);
    std::size_t first = 0, end = 0;
    World world;
    {
        const auto volume = open(media, kBoot);
        world = std::move(look_at(*volume)).take();
        CHECK(tuning.value(*volume) == tuning.before);
        first = media.events();
        tuning.change(*volume);
        end = media.events();
    }
    Seen seen, last;
    const unsigned seeds = shortened() == 0 ? 16 : 4;
    for (std::size_t cut = first; cut <= end; ++cut)
        for (unsigned seed = 0; seed < seeds; ++seed) {
            CAPTURE(media.describe(cut, seed));
            const MediaImage left = media.after_power_cut(cut, seed);
            look_at_cut(tuning, left, world, cut < end ? &seen : &last);
            look_without_block_0(tuning, left, world);
        }
    std::set<std::uint64_t> values = tuning.between;
    values.insert({tuning.before, tuning.after});
    CHECK(seen.values == values);
    CHECK(last.values == std::set<std::uint64_t>{tuning.after});  // it was durable
    CHECK(last.clean == last.cuts);
    return seen;
}

}  // namespace

TEST_CASE(
    "growing: interrupted anywhere, the volume has its old or its new size, and all its files") {
    const struct {
        std::uint64_t before, after;
    } kSteps[] = {
        {10 * kMiB, 16 * kMiB},                  // one group that gets longer
        {10 * kMiB, 2 * kGiB + 6 * kMiB},        // and two more
        {kGiB + 4 * kMiB, 2 * kGiB + 2 * kMiB},  // of two groups, of which the last gets longer
    };
    for (const auto flavour : kBoth)
        for (const auto &step : kSteps) {
            CAPTURE(static_cast<int>(flavour));
            CAPTURE(step.after);
            const auto grow = [](Volume &volume) {
                Growth growth;
                const auto grown = volume.grow(0, kRootUser, &growth);
                REQUIRE_MESSAGE(grown.ok(), std::string(grown.ok() ? "" : grown.error().what()));
            };
            const Seen seen =
                sweep(volume_on(step.before, step.after),
                      {flavour, grow, [](Volume &volume) { return volume.info().size; },
                       step.before, step.after});
            CHECK(seen.cuts > 12);
            CHECK(seen.clean > seen.cuts / 3);
        }
}

TEST_CASE("growing: a change of the reserve is complete or not made, wherever it is interrupted") {
    for (const auto flavour : kBoth)
        sweep(volume_on(10 * kMiB, 10 * kMiB),
              {flavour,
               [](Volume &volume) { REQUIRE(volume.set_root_reserve(1000, kRootUser).ok()); },
               [](Volume &volume) { return volume.root_reserve().value_or(0); }, 100, 1000});
}

namespace {

// The minor version as whoever mounts the volume reads it, in thousands, and whether d/f has a flag
// that version 0 does not know.
std::uint64_t version_and_flag(Volume &volume) {
    const pm::Region &region = volume.region();
    const auto found = media::find_superblock({region.data(), region.size()});
    REQUIRE(found.ok());
    const auto flags = volume.file_flags(User(volume).find("d/f"));
    REQUIRE(flags.ok());
    return found.value().sb.version_minor.get() * std::uint64_t{1000} + flags.value().no_dump;
}

void set_first_flag(Volume &volume) {
    REQUIRE(volume.set_file_flags(User(volume).find("d/f"), {.no_dump = true}).ok());
    REQUIRE(volume.commit_group().ok());
}

}  // namespace

TEST_CASE(
    "growing: what minor version 0 does not know is on the medium only if that says version 1, "
    "wherever the first such change is interrupted") {
    constexpr std::uint64_t kTwoCopies = kGiB + 4 * kMiB;
    for (const auto flavour : kBoth)
        for (const std::uint64_t size : {std::uint64_t{10 * kMiB}, kTwoCopies}) {
            CAPTURE(static_cast<int>(flavour));
            CAPTURE(size);
            const Seen seen = sweep(volume_on(size, size),
                                    {flavour, set_first_flag, version_and_flag, 0, 1001, {1000}});
            CHECK(seen.cuts > 12);
            CHECK(seen.clean > seen.cuts / 3);
        }
}

TEST_CASE("growing: a write or a sync that fails is reported, and the volume has either size") {
    constexpr std::uint64_t kBefore = 10 * kMiB, kAfter = kGiB + 6 * kMiB;
    for (const auto flavour : kBoth)
        for (const Plant plant : {Plant::fail_writes, Plant::fail_syncs}) {
            if (plant == Plant::fail_syncs && flavour == SimMedia::Flavour::dax) continue;
            const MediaImage image = volume_on(kBefore, kAfter);
            Growth growth;
            std::size_t nth = 0;
            for (;; ++nth) {
                CAPTURE(static_cast<int>(flavour));
                CAPTURE(nth);
                SimMedia media(flavour, image);
                {
                    const auto volume = open(media, kBoot);
                    media.plant(plant, nth);
                    const auto grown = volume->grow(0, kRootUser, &growth);
                    if (flavour == SimMedia::Flavour::dax ? grown.ok() : !media.failed()) break;
                    CHECK_FALSE(grown.ok());
                    CHECK(volume->info().size == kBefore);
                }
                SimMedia found(flavour, media.after_kill());
                check(found);
                const auto volume = open(found, kNextBoot);
                CHECK((volume->info().size == kBefore || volume->info().size == kAfter));
                CHECK(volume->grow(0, kRootUser, &growth).ok());
                CHECK(volume->info().size == kAfter);
            }
            CHECK(nth >= (plant == Plant::fail_writes ? 20 : 3));
        }
}
