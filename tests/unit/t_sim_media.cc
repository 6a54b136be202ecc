// SimMedia allows what hardware allows and nothing else.  The crash sweeps rely on that.
//
// Holds docs/persistence.md "The primitives", "The fences".
#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "base/bytes.h"
#include "support/sim_media.h"

using namespace pmfs;
using namespace pmfs::test;
using Flavour = SimMedia::Flavour;

namespace {

constexpr std::size_t kSize = 64 * kKiB;
constexpr unsigned kSeeds = 1500;

SimMedia blank(Flavour flavour) {
    return SimMedia(flavour, std::vector<std::byte>(kSize));
}

template <class... B>
std::vector<std::byte> bytes(B... values) {
    return {static_cast<std::byte>(values)...};
}
std::vector<std::byte> run(std::size_t size, unsigned value) {
    return std::vector<std::byte>(size, static_cast<std::byte>(value));
}

// Every different content of [offset, offset + size) that some seed leaves before event `cut`.
std::set<std::vector<std::byte>> outcomes(const SimMedia &media, std::size_t cut,
                                          std::uint64_t offset, std::size_t size) {
    std::set<std::vector<std::byte>> found;
    for (unsigned seed = 0; seed < kSeeds; ++seed) {
        const auto all = media.after_power_cut(cut, seed).bytes();
        found.emplace(all.begin() + static_cast<long>(offset),
                      all.begin() + static_cast<long>(offset + size));
    }
    return found;
}
using Set = std::set<std::vector<std::byte>>;

void in_another_thread(auto body) {
    std::thread(body).join();
}

}  // namespace

TEST_CASE("sim media: a store is undecided until it was flushed and fenced by the same thread") {
    SimMedia media = blank(Flavour::dax);
    const Set either = {bytes(0), bytes(7)};
    media.store_direct(100, bytes(7));
    CHECK(outcomes(media, 1, 100, 1) == either);
    media.fence({});  // not flushed: no fence helps
    CHECK(outcomes(media, 2, 100, 1) == either);
    media.flush_direct(100, 1);
    CHECK(outcomes(media, 3, 100, 1) == either);
    in_another_thread([&] { media.fence({}); });
    CHECK(outcomes(media, 4, 100, 1) == either);
    media.fence({});
    CHECK(outcomes(media, 5, 100, 1) == Set{bytes(7)});
    CHECK(media.undecided(4) == 1);
    CHECK(media.undecided(5) == 0);
}

TEST_CASE("sim media: store_meta is a store and a flush, and any cut between may lose it") {
    SimMedia media = blank(Flavour::dax);
    media.fence(media.store_meta(8, run(8, 1)));
    CHECK(media.events() == 3);
    CHECK(outcomes(media, 0, 8, 8) == Set{run(8, 0)});
    CHECK(outcomes(media, 1, 8, 8) == Set{run(8, 0), run(8, 1)});
    CHECK(outcomes(media, 2, 8, 8) == Set{run(8, 0), run(8, 1)});
    CHECK(outcomes(media, 3, 8, 8) == Set{run(8, 1)});
}

TEST_CASE("sim media: within a line stores persist in order, between lines in any") {
    SimMedia media = blank(Flavour::dax);
    media.store_direct(0, bytes(1));
    media.store_direct(8, bytes(2));
    media.store_direct(16, bytes(3));
    Set seen;
    for (const auto &line : outcomes(media, 3, 0, 17)) seen.insert({line[0], line[8], line[16]});
    CHECK(seen == Set{bytes(0, 0, 0), bytes(1, 0, 0), bytes(1, 2, 0), bytes(1, 2, 3)});

    SimMedia lines = blank(Flavour::dax);
    lines.store_direct(0, bytes(1));
    lines.store_direct(64, bytes(2));
    seen.clear();
    for (const auto &line : outcomes(lines, 2, 0, 65)) seen.insert({line[0], line[64]});
    CHECK(seen == Set{bytes(0, 0), bytes(1, 0), bytes(0, 2), bytes(1, 2)});
}

TEST_CASE("sim media: a store under way is torn at its words, never inside one") {
    SimMedia media = blank(Flavour::dax);
    media.store_direct(4, run(20, 9));  // the second half of a word, a word, a word
    Set seen;
    for (const auto &line : outcomes(media, 1, 0, 24)) {
        CHECK(std::all_of(line.begin(), line.begin() + 4,
                          [](std::byte b) { return b == std::byte{0}; }));
        const auto is_one = [&](unsigned from, unsigned to) {
            return std::all_of(line.begin() + from, line.begin() + to,
                               [&](std::byte b) { return b == line[from]; });
        };
        CHECK(is_one(4, 8));
        CHECK(is_one(8, 16));
        CHECK(is_one(16, 24));
        seen.insert({line[4], line[8], line[16]});
    }
    CHECK(seen.size() == 8);
}

TEST_CASE("sim media: of a non-temporal write any words may be there until its thread fences") {
    SimMedia media = blank(Flavour::dax);
    media.defer(media.write(32, run(64, 5)));  // in two lines
    Set seen;
    for (const auto &line : outcomes(media, 1, 32, 64))
        seen.insert({line[0], line[8], line[16], line[24], line[32]});
    CHECK(seen.size() == 32);
    in_another_thread([&] { media.fence({}); });
    CHECK(outcomes(media, 2, 32, 64).size() > 32);
    media.flush_direct(32, 64);  // a flush is no fence
    CHECK(outcomes(media, 3, 32, 64).size() > 32);
    media.fence({});
    CHECK(outcomes(media, 4, 32, 64) == Set{run(64, 5)});
}

TEST_CASE("sim media: in a line that two threads write, a fence keeps its own thread's words") {
    SimMedia media = blank(Flavour::dax);
    in_another_thread([&] { media.defer(media.write(0, bytes(1))); });
    media.fence(media.write(8, bytes(2)));
    CHECK(outcomes(media, media.events(), 0, 1) == Set{bytes(0), bytes(1)});
    CHECK(outcomes(media, media.events(), 8, 1) == Set{bytes(2)});
}

TEST_CASE("sim media: a zero is a non-temporal write of zeroes") {
    SimMedia media(Flavour::dax, run(kSize, 1));
    media.defer(media.zero(0, 4096));
    CHECK(media.data()[4095] == std::byte{0});
    CHECK(outcomes(media, 1, 64, 16).size() == 4);
    media.fence({});
    CHECK(outcomes(media, 2, 64, 16) == Set{run(16, 0)});
}

TEST_CASE("sim media: a fence for all threads covers what each of them flushed or wrote") {
    SimMedia media = blank(Flavour::dax);
    in_another_thread([&] { media.defer(media.store_meta(0, bytes(1))); });
    in_another_thread([&] { media.defer(media.write(64, bytes(2))); });
    media.store_direct(128, bytes(3));  // not flushed
    CHECK(outcomes(media, media.events(), 0, 1).size() == 2);
    media.fence_everywhere();
    CHECK(outcomes(media, media.events(), 0, 1) == Set{bytes(1)});
    CHECK(outcomes(media, media.events(), 64, 1) == Set{bytes(2)});
    CHECK(outcomes(media, media.events(), 128, 1).size() == 2);
}

TEST_CASE("sim media: a flush covers what any thread stored to the line before, not after") {
    SimMedia media = blank(Flavour::dax);
    in_another_thread([&] { media.store_direct(0, bytes(1)); });
    media.flush_direct(32, 1);
    in_another_thread([&] { media.store_direct(8, bytes(2)); });
    media.fence({});
    CHECK(outcomes(media, media.events(), 0, 1) == Set{bytes(1)});
    CHECK(outcomes(media, media.events(), 8, 1) == Set{bytes(0), bytes(2)});
}

TEST_CASE("sim media: a durable value never gives way to an older one") {
    SimMedia media = blank(Flavour::dax);
    in_another_thread([&] { media.defer(media.write(0, run(16, 1))); });  // never fenced
    media.fence(media.store_meta(8, run(8, 2)));
    Set seen;
    for (const auto &words : outcomes(media, media.events(), 0, 16)) {
        CHECK(words[8] == std::byte{2});
        seen.insert({words[0]});
    }
    CHECK(seen == Set{bytes(0), bytes(1)});  // the other word is as undecided as it was
}

TEST_CASE("sim media: seed 0 leaves what is durable and seed 1 all that was stored") {
    std::mt19937 random(1);
    for (const Flavour flavour : {Flavour::dax, Flavour::image}) {
        SimMedia media = blank(flavour);
        std::vector<std::byte> now(kSize), durable(kSize);
        std::vector<std::vector<std::byte>> all = {now}, sure = {durable};
        for (unsigned i = 0; i < 300; ++i) {
            const std::size_t size = 1 + random() % 2000, at = random() % (kSize - size);
            const auto value = run(size, 1 + i % 255);
            if (random() % 4 == 0) {
                flavour == Flavour::dax ? media.fence({}) : static_cast<void>(media.sync().ok());
                durable = now;
            } else if (flavour == Flavour::dax && random() % 2 == 0) {
                media.defer(media.store_meta(at, value));
                std::ranges::copy(value, now.begin() + static_cast<long>(at));
            } else {
                media.defer(media.write(at, value));
                std::ranges::copy(value, now.begin() + static_cast<long>(at));
            }
            all.resize(media.events() + 1, now);
            all.back() = now;
            sure.resize(media.events() + 1, sure.back());
            sure.back() = durable;
        }
        CHECK(std::memcmp(media.data(), now.data(), kSize) == 0);
        for (std::size_t cut = 0; cut <= media.events(); ++cut) {
            CAPTURE(media.describe(cut, 0));
            CHECK(media.after_power_cut(cut, 0).bytes() == sure[cut]);
            CHECK(media.after_power_cut(cut, 1).bytes() == all[cut]);
            CHECK(media.after_kill(cut).bytes() == all[cut]);
        }
    }
}

TEST_CASE("sim media: cuts may be asked for in any order, and a seed always gives the same") {
    SimMedia media = blank(Flavour::dax);
    for (unsigned i = 0; i < 20; ++i) {
        media.defer(media.write(i * 100, run(300, i + 1)));
        if (i % 5 == 4) media.fence({});
    }
    for (unsigned seed = 0; seed < 10; ++seed) {
        const auto late = media.after_power_cut(20, seed).bytes();
        const auto early = media.after_power_cut(3, seed).bytes();
        CHECK(media.after_power_cut(20, seed).bytes() == late);
        CHECK(media.after_power_cut(3, seed).bytes() == early);
    }
}

TEST_CASE("sim media: after the cut the running view goes on and the medium does not") {
    SimMedia media = blank(Flavour::dax);
    media.fence(media.write(0, bytes(1)));
    media.cut_power_after(2);
    media.fence(media.write(0, bytes(2)));
    CHECK(media.data()[0] == std::byte{2});
    CHECK(media.after_power_cut(5).bytes()[0] == std::byte{1});
    CHECK(media.after_kill().bytes()[0] == std::byte{1});
}

TEST_CASE("sim media: what a cut left can be run on and cut again") {
    SimMedia first = blank(Flavour::dax);
    first.fence(first.write(0, run(5000, 1)));
    first.defer(first.write(8192, run(8, 2)));
    SimMedia second(Flavour::dax, first.after_power_cut(1));
    second.fence(second.write(4096, run(100, 3)));
    SimMedia third(Flavour::dax, second.after_power_cut(0));
    CHECK(third.data()[0] == std::byte{1});
    CHECK(third.data()[4096] == std::byte{3});
    CHECK(third.data()[4999] == std::byte{1});
    CHECK(third.data()[8192] == std::byte{2});
    CHECK(first.data()[4096] == std::byte{1});
    CHECK(first.after_power_cut(0, 0).bytes() == run(kSize, 0));
}

TEST_CASE("sim media: memory that served one image shows nothing of it to the next") {
    const MediaImage image(run(kSize, 1));
    for (int i = 0; i < 3; ++i) {
        SimMedia media(Flavour::image, image);
        CHECK(std::memcmp(media.data(), run(kSize, 1).data(), kSize) == 0);
        CHECK(std::memcmp(media.meta(), run(kSize, 1).data(), kSize) == 0);
        media.fence(media.zero(4000, 5000));
        media.fence(media.store_meta(20'000, run(100, 2)));
    }
}

// --- image files

TEST_CASE("sim media: metadata of an image reaches the file only by store_home") {
    SimMedia media = blank(Flavour::image);
    CHECK(media.kind() == pm::MediumKind::image);
    media.fence(media.store_meta(0, bytes(1)));
    CHECK(media.events() == 0);  // nothing happened to the medium
    CHECK(media.meta()[0] == std::byte{1});
    CHECK(media.data()[0] == std::byte{0});
    CHECK(media.after_kill().bytes()[0] == std::byte{0});
    media.store_home(0, bytes(1));
    CHECK(media.data()[0] == std::byte{1});
    CHECK(media.after_kill().bytes()[0] == std::byte{1});
    CHECK(outcomes(media, 1, 0, 1).size() == 2);
    CHECK(media.sync().ok());
    CHECK(outcomes(media, 2, 0, 1) == Set{bytes(1)});
}

TEST_CASE("sim media: a private page follows the file until it is stored to, and once dropped") {
    SimMedia media = blank(Flavour::image);
    media.fence(media.write(10, bytes(1)));
    CHECK(media.meta()[10] == std::byte{1});
    media.fence(media.store_meta(0, bytes(2)));
    media.fence(media.write(10, run(5000, 3)));
    CHECK(media.meta()[10] == std::byte{1});    // copied: does not follow
    CHECK(media.meta()[4096] == std::byte{3});  // its neighbour does
    media.drop_private(0);
    CHECK(media.meta()[10] == std::byte{3});
    CHECK(media.meta()[0] == std::byte{0});
}

TEST_CASE("sim media: between syncs each sector holds any of its versions, in any order") {
    SimMedia media = blank(Flavour::image);
    media.fence(media.write(0, run(8, 1)));  // the same sector twice
    media.fence(media.write(504, run(8, 2)));
    media.fence(media.write(512, run(8, 3)));  // the next one, in the same page
    Set seen;
    for (const auto &page : outcomes(media, 3, 0, 520))
        seen.insert({page[0], page[504], page[512]});
    CHECK(seen == Set{bytes(0, 0, 0), bytes(1, 0, 0), bytes(1, 2, 0), bytes(0, 0, 3),
                      bytes(1, 0, 3), bytes(1, 2, 3)});
    media.fence(media.write(0, run(8, 4)));
    CHECK(outcomes(media, 4, 0, 8) == Set{run(8, 0), run(8, 1), run(8, 4)});
    CHECK(media.sync().ok());
    CHECK(outcomes(media, 5, 0, 520).size() == 1);
    CHECK(media.after_power_cut(0).bytes()[0] == std::byte{4});
}

TEST_CASE("sim media: a sync that fails makes nothing durable, and none does after it") {
    SimMedia media = blank(Flavour::image);
    media.plant(Plant::fail_syncs, 1);
    media.fence(media.write(0, bytes(1)));
    CHECK(media.sync().ok());
    media.fence(media.write(1, bytes(2)));
    CHECK(media.sync().error().errno_value() == EIO);
    CHECK(media.sync().error().errno_value() == EIO);
    CHECK(media.after_power_cut(0).bytes()[0] == std::byte{1});
    CHECK(media.after_power_cut(0).bytes()[1] == std::byte{0});
}

// --- planted bugs

TEST_CASE("sim media: a planted bug loses what the missing flush, fence or sync would have kept") {
    struct Case {
        Flavour flavour;
        Plant plant;
        void (*settle)(SimMedia &);
        bool next_rescues;  // a later fence makes durable what the missing one did not
    };
    const auto fence = [](SimMedia &m) { m.fence({}); };
    const auto everywhere = [](SimMedia &m) { m.fence_everywhere(); };
    const auto sync = [](SimMedia &m) { CHECK(m.sync().ok()); };
    const Case cases[] = {{Flavour::dax, Plant::drop_flushes, fence, false},
                          {Flavour::dax, Plant::drop_fences, fence, true},
                          {Flavour::dax, Plant::drop_fences_everywhere, everywhere, true},
                          {Flavour::image, Plant::drop_syncs, sync, true}};
    for (const Case &c : cases) {
        CAPTURE(static_cast<int>(c.plant));
        for (const std::size_t nth : {std::size_t{0}, std::size_t{1}, SimMedia::kEvery}) {
            SimMedia media = blank(c.flavour);
            media.plant(c.plant, nth);
            for (std::size_t i = 0; i < 3; ++i) {
                CAPTURE(i);
                if (c.flavour == Flavour::dax) {
                    media.defer(media.store_meta(i * 1024, bytes(1)));
                } else {
                    media.store_home(i * 1024, bytes(1));
                }
                c.settle(media);
                const auto left = media.after_power_cut(0).bytes();
                const bool goes_wrong = nth == SimMedia::kEvery || nth == i;
                CHECK((left[i * 1024] == std::byte{1}) == !goes_wrong);
                if (nth < i) CHECK((left[nth * 1024] == std::byte{1}) == c.next_rescues);
            }
        }
    }
}

TEST_CASE("sim media: a record that is not fenced off from its data is caught") {
    for (const bool fenced : {true, false}) {
        SimMedia media = blank(Flavour::dax);
        const auto region = media.lend();
        if (!fenced) media.plant(Plant::drop_fences, 0);
        region->fence(region->write(8192, run(4096, 7)));  // the data
        region->fence(region->write(0, run(64, 1)));       // the record that refers to it
        bool caught = false;
        for (std::size_t cut = 0; cut <= media.events(); ++cut) {
            for (unsigned seed = 0; seed < 16; ++seed) {
                const auto left = media.after_power_cut(cut, seed).bytes();
                const auto is = [&](std::size_t at, std::size_t size, unsigned value) {
                    return std::all_of(left.begin() + static_cast<long>(at),
                                       left.begin() + static_cast<long>(at + size),
                                       [&](std::byte b) { return b == std::byte(value); });
                };
                caught |= is(0, 64, 1) && !is(8192, 4096, 7);
            }
        }
        CHECK(caught == !fenced);
    }
}

TEST_CASE("sim media: a lent region shows the same bytes and sizes") {
    SimMedia media = blank(Flavour::image);
    const auto region = media.lend();
    CHECK(region->is_image());
    CHECK(region->size() == kSize);
    CHECK(region->meta() == media.meta());
    CHECK(region->data() == media.data());
    region->fence(region->zero(0, 10));
    region->store_home(0, bytes(1));
    CHECK(region->sync().ok());
    CHECK(media.events() == 3);
    CHECK(media.describe(1, 5) ==
          "power cut before event 1 of 3, seed 5: store at 0 of 1 by thread 0");
}
