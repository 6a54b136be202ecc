// Random sequences of operations, cut anywhere: cases that no written test covers.
#include <doctest/doctest.h>
#include <linux/falloc.h>
#include <sys/stat.h>

#include <cstdlib>
#include <random>

#include "sweep.h"

using namespace pmfs;
using namespace pmfs::test;

namespace {

// An operation on one of a few names, which may or may not be possible; what it says does not
// matter, only that the volume is in one of the two states round it.
void random_act(User &u, std::uint32_t seed) {
    std::mt19937 random(seed);
    const auto below = [&](unsigned n) { return static_cast<unsigned>(random() % n); };
    Volume &v = u.volume();
    const Caller caller{1000, 1000, 1};
    const InodeNo root(media::kRootIno);
    const std::string name = "n" + std::to_string(below(6)), other = "n" + std::to_string(below(6));
    const auto found = v.lookup(root, name);
    const InodeNo ino = found.ok() ? found.value().ino : InodeNo(0);
    if (found.ok()) v.forget(ino, 1);
    const std::uint64_t offset = below(80000);
    const auto fill = static_cast<unsigned char>(below(250) + 1);
    switch (found.ok() ? below(12) : 12) {
        case 0:
            (void)u.retry([&] { return v.unlink(root, name); }).ok();
            break;
        case 1:
            (void)u.retry([&] { return v.rename(root, name, root, other, 0); }).ok();
            break;
        case 2:
            (void)u.retry([&] { return v.rename(root, name, root, other, 2); }).ok();
            break;
        case 3:
        case 4:
        case 5:
            (void)u.try_write(name, offset, below(30000), fill).ok();
            break;
        case 6: {
            SetAttr set;
            set.size = below(100000);
            (void)u.retry([&] { return v.setattr(ino, set, caller); }).ok();
            break;
        }
        case 7: {
            const unsigned modes[] = {0, FALLOC_FL_KEEP_SIZE,
                                      FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                      FALLOC_FL_ZERO_RANGE};
            const unsigned mode = modes[below(4)];
            const std::uint64_t size = below(40000) + 1;
            (void)u.retry([&] { return v.fallocate(0, ino, mode, offset, size, caller); }).ok();
            break;
        }
        case 8: {
            const std::string value(below(3) == 0 ? 9000 : below(200), 'v');
            const std::string key = "user.k" + std::to_string(below(3));
            (void)
                u.retry([&] {
                     return v.setxattr(ino, key, std::as_bytes(std::span(value)), 0, caller);
                 }).ok();
            break;
        }
        case 9: {
            std::uint64_t bad = 0;
            (void)u.retry([&] { return v.seal(ino, SealLevel::as_is, caller, true, &bad); }).ok();
            break;
        }
        case 10:
            (void)u.retry([&] { return v.unseal(ino, caller, true); }).ok();
            break;
        case 11:
            if (offset % 2 == 0)
                (void)u.retry([&] { return v.prepare(ino, 0, 0, 0, caller); }).ok();
            else
                (void)u.retry([&] { return v.prepare_contiguous(ino, 0, 0, caller); }).ok();
            break;
        default:
            u.make(name, S_IFREG | 0640);
    }
}

}  // namespace

TEST_CASE("crash: random operations, cut anywhere") {
    const auto rounds = static_cast<unsigned>(times(25, 4));
    const char *given = std::getenv("PMFS_CRASH_SEED");
    const std::uint32_t first = given ? static_cast<std::uint32_t>(std::atoi(given)) : 1;
    for (std::uint32_t round = first; round < first + rounds; ++round) {
        CAPTURE(round);  // PMFS_CRASH_SEED=round runs it again
        for (const auto flavour : {SimMedia::Flavour::dax, SimMedia::Flavour::image}) {
            Sweep sweep{"random " + std::to_string(round), nullptr, {}};
            for (std::uint32_t i = 0; i < 40; ++i)
                sweep.acts.push_back([=](User &u) { random_act(u, round * 1000 + i); });
            sweep.prefix = true;
            sweep.seeds = 4;
            sweep.step = 5 + round % 7;
            const Swept swept = run(sweep, flavour);
            for (const std::string &violation : swept.violations) MESSAGE(violation);
            CHECK(swept.violations.empty());
        }
    }
}
