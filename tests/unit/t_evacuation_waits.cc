// Evacuation that has to wait in its middle, or fails there: whatever others do to the files whose
// data it moves, nothing is lost, and what it kept can be had again.
#include <doctest/doctest.h>

#include <atomic>
#include <map>
#include <memory>

#include "pm/fault.h"
#include "unit/space_world.h"

using namespace pmfs;
using namespace pmfs::test;

namespace {

bool every_second(unsigned i) {
    return i % 2 == 0;
}

Caller with(Progress &place, const Caller &who = kUser) {
    Caller caller = who;
    caller.progress = &place;
    return caller;
}

// Gives a file all free chunks.  Gives its blocks.
std::uint64_t take_free_chunks(SpaceWorld &world, InodeNo ino) {
    std::uint64_t end = 0;
    for (; end == 0 || world.free_chunks() != 0; end += 512)
        REQUIRE(
            world.retry([&] { return world->fallocate(0, ino, 0, end * kBlock, kChunk, kUser); })
                .ok());
    REQUIRE(world->commit_group().ok());
    return end;
}

}  // namespace

TEST_CASE("evacuation: a large write makes its next chunk whole, wherever it has to wait") {
    unsigned whole = 0;
    for (unsigned waits = 0; waits < 24; waits += 2) {
        CAPTURE(waits);
        SpaceWorld world(24 << 20, true);
        world.broken(8, [](unsigned i) { return i % 4 == 0; });
        const InodeNo big = world.make("big");
        const std::uint64_t end = take_free_chunks(world, big);
        world.wait_behind(waits);
        REQUIRE(world.write(big, end, 512));
        world.wait_no_more();
        const Extent e = world.extent_at(big, end);
        whole += e.start % 512 == e.file_block % 512 && e.blocks == 512;
        world.check();
    }
    CHECK(whole == 12);
}

TEST_CASE("evacuation: a large write does without if another evacuation is running") {
    SpaceWorld world(24 << 20, true);
    world.broken(8, [](unsigned i) { return i % 4 == 0; });
    const InodeNo prepared = world.sized("prepared", kChunk), big = world.make("big");
    const InodeNo more = world.sized("more", kChunk);
    const std::uint64_t end = take_free_chunks(world, big) * kBlock;
    Progress place;
    world.wait_behind(3);
    REQUIRE(errno_of(world->prepare(prepared, 0, 0, kChunk, with(place))) == kParkErrno);
    world.wait_no_more();
    REQUIRE(world->commit_group().ok());
    // Who must have a chunk waits for its turn, and who would only like one does not.
    const auto other = world->prepare(more, 0, 0, kChunk, kUser);
    CHECK(errno_of(other) == kClaimErrno);
    std::string text(512 * kBlock, 'w');
    CHECK(errno_of(world->write(big, end, bytes_of(text), false, kUser)) == 0);
    bool ran = false;
    world->when_ready(other.error(), [&] { ran = true; });
    world->tend(0);
    CHECK_FALSE(ran);
    CHECK(world.retry([&] { return world->prepare(prepared, 0, 0, kChunk, with(place)); }).ok());
    world->tend(0);
    CHECK(ran);
    CHECK((world.read(big, end, text.size()) == text));
    world.check();
}

namespace {

struct Meddle {
    const char *name;
    // With file `i` of those whose data may be moved.
    std::function<void(SpaceWorld &, unsigned i, InodeNo)> act;
    bool stays = false;  // what was done to keeps its place
};

// The files that are claimed just now may not be changed: that is the point.
const Meddle kMeddles[] = {
    {"punch",
     [](SpaceWorld &world, unsigned, InodeNo ino) {
         const auto done = world->fallocate(0, ino, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                            2 * kBlock, 3 * kBlock, kUser);
         if (!done.ok()) REQUIRE(must_park(done.error()));
         if (done.ok()) world.forget_content(ino);
     }},
    {"remove",
     [](SpaceWorld &world, unsigned i, InodeNo ino) {
         if (i % 3 == 0) world.remove("s" + std::to_string(2 * i), ino);
     }},
    {"seal",
     [](SpaceWorld &world, unsigned, InodeNo ino) {
         std::uint64_t bad = 0;
         const auto done = world->seal(ino, SealLevel::as_is, kUser, true, &bad);
         if (!done.ok()) REQUIRE(errno_of(done) == kClaimErrno);
     },
     true},
    {"fill",
     [](SpaceWorld &world, unsigned i, InodeNo) {
         if (i != 0) return;
         const InodeNo rest = world.make("rest");
         std::uint64_t at = 0;
         for (std::uint64_t step = 1024; step != 0; step /= 2)
             while (world
                        .retry([&] {
                            return world->fallocate(0, rest, 0, at * kBlock, step * kBlock, kAdmin);
                        })
                        .ok())
                 at += step;
     }},
};

}  // namespace

TEST_CASE("evacuation: changes by others to the files while it waits are respected") {
    std::map<std::string, unsigned> waited;
    for (const Meddle &meddle : kMeddles) {
        for (unsigned waits = 1; waits < 26; waits += 3) {
            CAPTURE(meddle.name);
            CAPTURE(waits);
            SpaceWorld world(16 << 20, true);
            const std::vector<InodeNo> kept = world.broken(20, every_second);
            const InodeNo big = world.sized("big", kChunk);
            REQUIRE(world->commit_group().ok());
            Progress place;
            world.wait_behind(waits);
            auto done = world->prepare(big, 0, 0, kChunk, with(place));
            world.wait_no_more();
            if (done.ok()) break;
            REQUIRE(must_park(done.error()));
            ++waited[meddle.name];
            for (unsigned i = 0; i < kept.size(); ++i) meddle.act(world, i, kept[i]);
            std::map<InodeNo, BlockNo> places;
            if (meddle.stays)
                for (const InodeNo ino : kept) {
                    const auto info = world->file_info(ino);
                    if (info.ok() && info.value().seal != SealLevel::none)
                        places[ino] = world.extent_at(ino, 0).start;
                }
            CHECK((!meddle.stays || places.size() > kept.size() / 2));
            done = world.retry([&] { return world->prepare(big, 0, 0, kChunk, with(place)); });
            if (!done.ok()) CHECK(errno_of(done) == ENOSPC);
            for (const auto &[ino, start] : places) CHECK(world.extent_at(ino, 0).start == start);
            world.check();
        }
    }
    for (const Meddle &meddle : kMeddles) CHECK(waited[meddle.name] > 2);
}

TEST_CASE("evacuation: a chunk in which a write has reserved blocks is not taken from it") {
    for (const unsigned reserved : {24u, 60u, 80u, 100u, 110u, 120u}) {
        CAPTURE(reserved);
        SpaceWorld world(32 << 20, true);
        world.broken(40, every_second);
        const InodeNo big = world.sized("big", kChunk);
        REQUIRE(world->commit_group().ok());
        // Each has its place in memory, and the medium says nothing of it yet.
        const std::string text(20 * kBlock, 'r');
        std::vector<std::pair<InodeNo, std::unique_ptr<Progress>>> writes;
        for (unsigned i = 0; i < reserved; ++i) {
            const InodeNo ino = world.make("r" + std::to_string(i));
            auto place = std::make_unique<Progress>();
            world.wait_behind(0);
            const auto done = world->write(ino, 0, bytes_of(text), false, with(*place));
            world.wait_no_more();
            REQUIRE(errno_of(done) == kParkErrno);
            writes.emplace_back(ino, std::move(place));
        }
        const auto done = world.prepare(big);
        if (!done.ok()) CHECK(errno_of(done) == ENOSPC);
        for (auto &[ino, place] : writes) {
            CHECK(world
                      .retry([&, ino = ino, place = place.get()] {
                          return world->write(ino, 0, bytes_of(text), false, with(*place));
                      })
                      .ok());
            CHECK((world.read(ino, 0, text.size()) == text));
        }
        world.check();
    }
}

TEST_CASE("evacuation: a page that cannot be written costs no data, and prepare finds another") {
    unsigned prepared = 0, refused = 0;
    for (unsigned nth = 0; nth < 22; ++nth) {
        CAPTURE(nth);
        SpaceWorld world(16 << 20);
        world.broken(40, every_second);
        const InodeNo big = world.sized("big", kChunk);
        world.media().plant(Plant::fail_writes, nth);
        const auto done = world.prepare(big);
        (void)pm::take_fault();
        prepared += done.ok();
        refused += !done.ok();
        CAPTURE(errno_of(done));
        if (!done.ok()) CHECK((errno_of(done) == EIO || errno_of(done) == EROFS));
        // Of a store home that failed the journal tells, which the next mount believes.
        if (world->info().damaged) world.kill();
        world.check();
    }
    CHECK(prepared > 2);
    CHECK(refused > 2);
}

TEST_CASE("evacuation: the owner of a block is found in whatever group its inode is") {
    auto region = std::move(pm::memory_region(2ull << 30)).take();
    pm::Region *kept = region.get();
    mkfs::MakeOptions options;
    options.root_reserve = 0;
    REQUIRE(mkfs::make(*region, options).ok());
    auto volume = Volume::open(std::move(region), {}).take();
    const InodeNo filler = make_file(*volume, "filler"), big = make_file(*volume, "big");
    REQUIRE(volume->setattr(big, size_of(kChunk), kUser).ok());
    std::uint64_t end = 0;
    for (std::uint64_t step = 65536; step != 0; step /= 2)
        while (volume->fallocate(0, filler, 0, end * kBlock, step * kBlock, kUser).ok())
            end += step;
    // Most of six chunks of the second group: what is left there belongs to an inode of the first.
    REQUIRE(filler.value() / 8 < media::kGroupBlocks);
    const std::string text(kBlock, 'f');
    std::vector<FileBlock> written;
    unsigned chunks = 0;
    for (FileBlock at; chunks < 6;) {
        Extent e{};
        REQUIRE(volume->extents(filler, at, std::span(&e, 1)).take() == 1);
        at = std::max(at, e.file_block);
        const BlockNo start = e.place_of(at);
        const GroupNo group = media::group_of(start);
        if (group != GroupNo(1) || start % 512 != 0 || e.end() - at < 512) {
            at = group == GroupNo(0) ? e.end() : at + 512 - start % 512;
            continue;
        }
        REQUIRE(volume->write(filler, media::byte_of(at + 5), bytes_of(text), false, kUser).ok());
        written.push_back(at + 5);
        REQUIRE(volume
                    ->fallocate(0, filler, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                media::byte_of(at + 100), 412 * kBlock, kUser)
                    .ok());
        ++chunks;
        at += 512;
    }
    const auto done = volume->prepare(big, 0, 0, kChunk, kUser);
    CHECK(errno_of(done) == 0);
    Extent e{};
    REQUIRE(volume->extents(big, FileBlock(0), std::span(&e, 1)).take() == 1);
    CHECK((media::group_of(e.start) == GroupNo(1)));
    CHECK(e.start % 512 == 0);
    CHECK(e.blocks == 512);
    // From the second chunk on there is an index, of what belongs to inodes of the same group.
    std::uint64_t emptied = 0;
    for (bool more = true; more;) {
        const auto compacted = volume->compact(GroupNo(1), kAdmin);
        REQUIRE(compacted.ok());
        emptied += compacted.value().chunks;
        more = compacted.value().more && compacted.value().next == GroupNo(1);
    }
    CHECK(emptied >= 3);
    for (const FileBlock block : written)
        CHECK((read_at(*volume, filler, media::byte_of(block), kBlock) == text));
    REQUIRE(volume->close().ok());
    check_clean(*kept);
}
