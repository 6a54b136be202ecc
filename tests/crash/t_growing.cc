// A volume that is cut off while it grows has its old size or the new one, all its files, and can
// be grown again.  So has one whose reserve is changed.
#include <doctest/doctest.h>
#include <sys/stat.h>

#include <set>

#include "base/bytes.h"
#include "fsck/check.h"
#include "fsck/repair.h"
#include "mkfs/make.h"
#include "sweep.h"

using namespace pmfs;
using namespace pmfs::test;

namespace {

constexpr Caller kRootUser{0, 0, 1};
constexpr SimMedia::Flavour kBoth[] = {SimMedia::Flavour::dax, SimMedia::Flavour::image};

std::unique_ptr<Volume> open(SimMedia &media) {
    MountOptions options;
    options.no_background = true;
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
    const auto volume = open(media);
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

struct Seen {
    std::size_t cuts = 0, clean = 0;
    std::set<std::uint64_t> values;
};

// Cuts `change` off before each of its events, and hands what is found to `judge`, which gives the
// value that it has then.
Seen sweep(SimMedia::Flavour flavour, const MediaImage &image,
           const std::function<void(Volume &)> &change,
           const std::function<std::uint64_t(Volume &)> &judge) {
    SimMedia media(flavour, image);
    std::size_t first = 0, end = 0;
    World world;
    {
        const auto volume = open(media);
        world = std::move(look_at(*volume)).take();
        first = media.events();
        change(*volume);
        end = media.events();
    }
    Seen seen;
    const std::size_t step = short_form() ? 5 : 1;
    for (std::size_t cut = first; cut <= end; cut += step)
        for (unsigned seed = 0; seed < 5; ++seed) {
            CAPTURE(media.describe(cut, seed));
            SimMedia found(flavour, media.after_power_cut(cut, seed));
            ++seen.cuts;
            {  // As it is, and as it is after a repair.
                SimMedia unrepaired(flavour, media.after_power_cut(cut, seed));
                const auto volume = open(unrepaired);
                seen.values.insert(judge(*volume));
                CHECK(look_at(*volume).ok());
            }
            // (A checker meets what no mount has replayed yet: nothing was written since.)
            seen.clean += check(found);
            {
                const auto volume = open(found);
                seen.values.insert(judge(*volume));
                CHECK(test::judge(look_at(*volume).take(), world, world, false) == "");
                change(*volume);
                User user(*volume);
                user.make("new", S_IFREG | 0644);
                user.write("new", 0, 3000000, 9);
                REQUIRE(volume->close().ok());
            }
            CHECK(check(found));
        }
    return seen;
}

}  // namespace

TEST_CASE(
    "growing: cut off anywhere, the volume has its old size or the new one, and all its files") {
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
            const Seen seen = sweep(
                flavour, volume_on(step.before, step.after),
                [&](Volume &volume) {
                    Growth growth;
                    const auto grown = volume.grow(0, kRootUser, &growth);
                    REQUIRE_MESSAGE(grown.ok(),
                                    std::string(grown.ok() ? "" : grown.error().what()));
                    CHECK(growth.now == step.after);
                },
                [](Volume &volume) { return volume.info().size; });
            CHECK(seen.values == std::set<std::uint64_t>{step.before, step.after});
            CHECK(seen.cuts > 20);
            CHECK(seen.clean > seen.cuts / 3);
        }
}

TEST_CASE("growing: a reserve is changed or not, wherever that is cut off") {
    for (const auto flavour : kBoth) {
        const Seen seen = sweep(
            flavour, volume_on(10 * kMiB, 10 * kMiB),
            [](Volume &volume) { REQUIRE(volume.set_root_reserve(1000, kRootUser).ok()); },
            [](Volume &volume) { return volume.root_reserve().value_or(0); });
        CHECK(seen.values == std::set<std::uint64_t>{100, 1000});
    }
}
