// Chunks made whole by moving other files' data out of them: nothing is lost, what must not move
// does not, and what is free can be had.
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <random>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "unit/space_world.h"

using namespace pmfs;
using namespace pmfs::test;

TEST_CASE("evacuation: a chunk is made of broken ones, on memory and on an image") {
    for (const bool image : {false, true}) {
        CAPTURE(image);
        SpaceWorld world(32 << 20, image);
        world.broken(8, [](unsigned i) { return i % 2 == 0; });
        CHECK(world.free_chunks() == 0);
        const InodeNo big = world.sized("big", 2 * kChunk);
        CHECK(world.prepare(big).ok());
        for (int i = 0; i < 2; ++i)
            CHECK(world.extent_at(big, static_cast<unsigned>(i) * 512).start % 512 ==
                  (world.extent_at(big, static_cast<unsigned>(i) * 512).file_block) % 512);
        world.check();
    }
}

// Any user can put such things into each chunk.
TEST_CASE("evacuation: long symlinks and large attributes move too, and read as they did") {
    for (const bool image : {false, true}) {
        CAPTURE(image);
        SpaceWorld world(32 << 20, image);
        std::map<std::string, std::string> targets, values;
        std::vector<InodeNo> small;
        for (unsigned i = 0; i < 500; ++i) {
            const std::string number = std::to_string(i);
            small.push_back(world.make("s" + number));
            world.write(small.back(), 0, 4);
            const std::string target(4000 + i % 95, static_cast<char>('a' + i % 26));
            REQUIRE(world.retry([&] { return world->symlink(kRoot, "l" + number, target, kUser); })
                        .ok());
            targets["l" + number] = target;
            const InodeNo ino = world.make("x" + number);
            const std::string value(3000 + i * 37 % 20'000, static_cast<char>('A' + i % 26));
            REQUIRE(world
                        .retry([&] {
                            return world->setxattr(ino, "user.large", bytes_of(value), 0, kUser);
                        })
                        .ok());
            values["x" + number] = value;
        }
        for (unsigned i = 0; i < 500; i += 2) {
            const std::string number = std::to_string(i);
            world.remove("s" + number, small[i]);
        }
        const InodeNo filler = world.make("filler");
        while (world.write(filler, world->getattr(filler).take().size / 4096, 64)) {
        }
        world.remove("filler", filler);
        REQUIRE(world->commit_group().ok());
        REQUIRE(world->commit_group().ok());
        // All that is free, but what moving needs.
        const std::uint64_t whole = world->info().blocks_available / 512 - 1;
        CHECK(world.free_chunks() < whole);
        const InodeNo big = world.sized("big", whole * kChunk);
        CHECK(world.prepare(big).ok());
        for (const auto &[name, target] : targets) {
            const InodeNo ino = world->lookup(kRoot, name).take().ino;
            const auto read = world->readlink(ino);
            CHECK(read.ok());
            if (read.ok()) CHECK((read.value() == target));
        }
        for (const auto &[name, value] : values) {
            const InodeNo ino = world->lookup(kRoot, name).take().ino;
            const auto read = world->getxattr(ino, "user.large");
            CHECK(read.ok());
            if (read.ok())
                CHECK((std::string(reinterpret_cast<const char *>(read.value().data()),
                                   read.value().size()) == value));
        }
        world.check();
    }
}

// prepare() succeeds until bytes are short, whatever has become of the volume before.
TEST_CASE("evacuation: free space can become whole chunks, however old the volume is") {
    for (unsigned seed = 1; seed <= 12; ++seed) {
        const bool image = seed % 3 == 0;
        CAPTURE(seed);
        SpaceWorld world((16u << 20) << seed % 3, image);
        std::mt19937 random(seed);
        const auto dice = [&](unsigned n) { return random() % n; };
        std::map<std::string, InodeNo> files;
        unsigned number = 0;
        for (int round = 0; round < 1200; ++round) {
            const unsigned what = dice(10);
            if (what < 5 || files.empty()) {
                const std::string name = "f" + std::to_string(number++);
                const InodeNo ino = world.try_make(name);
                if (ino == InodeNo()) continue;
                files[name] = ino;
                world.write(ino, dice(4), 1 + dice(dice(8) == 0 ? 300 : 30));
            } else {
                auto one = files.begin();
                std::advance(one, dice(static_cast<unsigned>(files.size())));
                if (what < 7) {
                    world.remove(one->first, one->second);
                    files.erase(one);
                } else if (what < 9) {
                    world.punch(one->second, dice(20), 1 + dice(10));
                } else {
                    world.write(one->second, dice(600), 1 + dice(20));
                }
            }
        }
        // Half of the files go, so that there is something to be had.
        for (auto one = files.begin(); one != files.end();) {
            if (dice(2) == 0) {
                ++one;
                continue;
            }
            world.remove(one->first, one->second);
            one = files.erase(one);
        }
        REQUIRE(world->commit_group().ok());
        REQUIRE(world->commit_group().ok());
        unsigned prepared = 0;
        for (;; ++prepared) {
            const std::uint64_t chunks = 1 + dice(2);
            const InodeNo ino = world.try_make("p" + std::to_string(prepared));
            if (ino == InodeNo()) break;
            REQUIRE(
                world.retry([&] { return world->setattr(ino, size_of(chunks * kChunk), kUser); })
                    .ok());
            const std::uint64_t available = world->info().blocks_available;
            const auto done = world.prepare(ino);
            if (done.ok()) continue;
            CHECK(errno_of(done) == ENOSPC);
            // A few blocks of metadata come with it; what is in a chunk with metadata stays.
            std::uint64_t stays = 0;
            for (const ChunkInfo &c : world.chunks())
                if (c.kind == 1 || c.kind == 3) stays += 512u - c.used_blocks;
            CAPTURE(available);
            CAPTURE(stays);
            CHECK(available < chunks * 512 + stays + 16);
            break;
        }
        world.check();
    }
}

TEST_CASE(
    "evacuation: sealed, granted, pinned and quarantined blocks stay, and so do large values") {
    for (const bool image : {false, true}) {
        CAPTURE(image);
        SpaceWorld world(48 << 20, image);
        const InodeNo valued = world.make("valued");
        const std::vector<std::byte> value(60000, std::byte{'v'});
        REQUIRE(
            world.retry([&] { return world->setxattr(valued, "user.v", value, 0, kUser); }).ok());
        const std::vector<InodeNo> kept = world.broken(8, [](unsigned i) { return i % 2 == 0; });
        // One file in every chunk but three.
        std::map<ChunkNo, InodeNo> of_chunk;
        for (const InodeNo ino : kept)
            of_chunk[media::chunk_of(world.extent_at(ino, 0).start)] = ino;
        REQUIRE(of_chunk.size() > 10);
        std::map<InodeNo, BlockNo> places;
        unsigned n = 0;
        for (const auto &[chunk, ino] : of_chunk) {
            if (n + 3 >= of_chunk.size()) break;
            places[ino] = world.extent_at(ino, 0).start;
            world.keep_in_place(ino, n++ % 5);
        }
        // Those three can be had, and no more.
        unsigned had = 0;
        for (; had < 10; ++had) {
            const auto done = world.prepare(world.sized("big" + std::to_string(had), kChunk));
            if (done.ok()) continue;
            CHECK(errno_of(done) == ENOSPC);
            break;
        }
        CHECK(had >= 2);
        CHECK(had <= 3);
        (void)world.compact();
        for (const auto &[ino, start] : places) CHECK(world.extent_at(ino, 0).start == start);
        CHECK((world->getxattr(valued, "user.v").take() == value));
        world.look();
    }
}

TEST_CASE("evacuation: unwritten blocks, open files without a name, and the file itself move too") {
    SpaceWorld world(32 << 20);
    const std::vector<InodeNo> kept = world.broken(8, [](unsigned i) { return i % 2 == 0; });
    OpenRequest open;
    open.write = true;
    open.caller = kUser;
    for (unsigned i = 0; i < kept.size(); ++i) {
        if (i % 3 == 0) {
            world.punch(kept[i], 2, 4);
            REQUIRE(world->fallocate(0, kept[i], FALLOC_FL_KEEP_SIZE, 2 * kBlock, 4 * kBlock, kUser)
                        .ok());
        }
        if (i % 3 == 1) {
            REQUIRE(world->open_file(kept[i], open).ok());
            REQUIRE(world->unlink(kRoot, "s" + std::to_string(2 * i)).ok());
            world->forget(kept[i], 1);
        }
    }
    const InodeNo big = world.sized("big", 4 * kChunk);
    world.write(big, 100, 50);  // in pieces
    world.write(big, 30, 20);
    CHECK(world.prepare(big).ok());
    CHECK(world.read(kept[0], 2 * kBlock, kBlock) == std::string(kBlock, 0));
    world.look();
    for (unsigned i = 1; i < kept.size(); i += 3) CHECK(world->getattr(kept[i]).ok());
}

TEST_CASE("evacuation: a file that another operation has claimed is not moved") {
    SpaceWorld world(24 << 20, true);
    const std::vector<InodeNo> kept = world.broken(8, [](unsigned i) { return i % 2 == 0; });
    std::map<ChunkNo, InodeNo> of_chunk;
    const std::vector<ChunkInfo> chunks = world.chunks();
    for (const InodeNo ino : kept) {
        const ChunkNo chunk = media::chunk_of(world.extent_at(ino, 0).start);
        if (chunks[chunk.value()].kind == 2) of_chunk[chunk] = ino;
    }
    REQUIRE(of_chunk.size() > 4);
    // Writes that wait in their middle claim one file in each chunk but one.
    const std::string text(8 * kBlock, 'w');
    std::vector<std::pair<InodeNo, std::unique_ptr<Progress>>> writes;
    std::map<InodeNo, BlockNo> places;
    for (const auto &[chunk, ino] : of_chunk) {
        world.punch(ino, 2, 1);
        world.punch(ino, 5, 1);
    }
    for (const auto &[chunk, ino] : of_chunk) {
        if (writes.size() + 1 == of_chunk.size()) break;
        writes.emplace_back(ino, std::make_unique<Progress>());
        Caller caller = kUser;
        caller.progress = writes.back().second.get();
        world.wait_behind(2);
        const auto done = world->write(ino, 0, std::as_bytes(std::span(text)), false, caller);
        REQUIRE(errno_of(done) == kParkErrno);
        REQUIRE(errno_of(world->setattr(ino, size_of(0), kUser)) == kClaimErrno);
        places[ino] = world.extent_at(ino, 0).start;
    }
    const InodeNo big = world.sized("big", kChunk), more = world.sized("more", kChunk);
    CHECK(world.prepare(big).ok());
    CHECK(errno_of(world.prepare(more)) == ENOSPC);
    for (const auto &[ino, start] : places) CHECK(world.extent_at(ino, 0).start == start);
    for (auto &[ino, place] : writes) {
        Caller caller = kUser;
        caller.progress = place.get();
        CHECK(world
                  .retry([&, ino = ino] {
                      return world->write(ino, 0, std::as_bytes(std::span(text)), false, caller);
                  })
                  .ok());
        CHECK((world.read(ino, 0, text.size()) == text));
        world.forget_content(ino);
    }
    CHECK(world.prepare(more).ok());
    world.check();
}

TEST_CASE("evacuation: chunks and reservations are released when the request is dropped") {
    unsigned dropped = 0;
    for (unsigned waits = 1; waits < 60; waits += waits < 30 ? 1 : 7) {
        CAPTURE(waits);
        SpaceWorld world(16 << 20, true);
        world.broken(40, [](unsigned i) { return i % 2 == 0; });
        const InodeNo big = world.sized("big", kChunk), rest = world.make("rest");
        REQUIRE(world->commit_group().ok());
        {
            Progress place;
            Caller caller = kUser;
            caller.progress = &place;
            world.wait_behind(waits);
            const auto done = world->prepare(big, 0, 0, kChunk, caller);
            if (!done.ok()) {
                REQUIRE(must_park(done.error()));
                ++dropped;
            }
        }
        world.wait_no_more();
        REQUIRE(world->commit_group().ok());
        REQUIRE(world->commit_group().ok());
        // All that is free can be had.
        const std::uint64_t said = world->info().blocks_available;
        std::uint64_t had = 0;
        for (std::uint64_t step = 1024; step != 0; step /= 2)
            while (world
                       .retry([&] {
                           return world->fallocate(0, rest, 0, had * kBlock, step * kBlock, kUser);
                       })
                       .ok())
                had += step;
        CHECK(had + 16 >= said);
        world.check();
    }
    CHECK(dropped > 20);
}

TEST_CASE("evacuation: no write in place is lost while many at once move files") {
    for (int round = 0; round < 40; ++round) {
        SpaceWorld world(12 << 20);
        const std::vector<InodeNo> kept = world.broken(250, [](unsigned i) { return i % 2 == 0; });
        REQUIRE(kept.size() > 2);
        std::vector<InodeNo> big;
        for (int i = 0; i < 2; ++i) big.push_back(world.sized("big" + std::to_string(i), kChunk));
        std::atomic<bool> done{false};
        std::atomic<unsigned> written_to{0};
        constexpr std::uint64_t kPiece = 20;  // blocks
        std::vector<std::string> wanted;
        for (const InodeNo ino : kept) wanted.push_back(world.read(ino, 0, 250 * kBlock));
        std::thread writer([&] {
            for (unsigned n = 0; !done; ++n) {
                const std::size_t i = n * 7 % kept.size();
                const std::string text(kPiece * kBlock, static_cast<char>('A' + n % 26));
                const std::uint64_t at = n * kPiece % 240 * kBlock;
                const auto written =
                    world->write(kept[i], at, std::as_bytes(std::span(text)), false, kUser);
                if (written.ok()) wanted[i].replace(at, text.size(), text);
                ++written_to;
            }
        });
        while (written_to < 10) std::this_thread::yield();
        std::vector<std::thread> threads;
        std::atomic<int> prepared{0};
        for (unsigned t = 0; t < 3; ++t)
            threads.emplace_back([&, t] {
                Progress place;
                Caller caller = t < 2 ? kUser : kAdmin;
                caller.progress = &place;
                for (int tries = 0; tries < 100000; ++tries) {
                    Result<> result;
                    if (t < 2) {
                        result = world->prepare(big[t], 0, 0, kChunk, caller);
                    } else if (const auto made = world->compact(GroupNo(0), caller); !made.ok()) {
                        result = made.error();
                    }
                    if (result.ok()) prepared += t < 2 ? 1 : 0;
                    if (result.ok() || !must_park(result.error())) return;
                    std::this_thread::yield();
                }
            });
        for (std::thread &thread : threads) thread.join();
        done = true;
        writer.join();
        CHECK(prepared == 2);
        for (std::size_t i = 0; i < kept.size(); ++i)
            CHECK((world.read(kept[i], 0, 250 * kBlock) == wanted[i]));
    }
}

TEST_CASE("evacuation: compacting makes chunks whole, and a second run has nothing to do") {
    for (const bool image : {false, true}) {
        CAPTURE(image);
        SpaceWorld world(64 << 20, image);
        world.broken(8, [](unsigned i) { return i % 4 == 0; });
        const std::uint64_t before = world.free_chunks();
        const Compacted done = world.compact();
        REQUIRE(world->commit_group().ok());
        CHECK(done.chunks >= 15);
        CHECK(world.free_chunks() >= before + 15);
        CHECK(done.moved <= done.chunks * kChunk / 4 * 3);
        const Compacted again = world.compact();
        CHECK(again.chunks <= 1);
        CHECK(errno_of(world->compact(GroupNo(0), kUser)) == EPERM);
        CHECK(errno_of(world->compact(GroupNo(1000), kAdmin)) == EINVAL);
        world.check();
    }
}

TEST_CASE("evacuation: with many extents and files, other threads get the lock in between") {
    // Two files of 50,000 extents each, in turns, so that every chunk is full of both.
    auto region = std::move(pm::memory_region(512 << 20)).take();
    REQUIRE(mkfs::make(*region, {}).ok());
    auto opened = Volume::open(std::move(region), {});
    REQUIRE(opened.ok());
    Volume &volume = *opened.value();
    const auto file = [&](const std::string &name) {
        return volume.make(kRoot, name, S_IFREG | 0644, 0, kUser).take().ino;
    };
    const InodeNo a = file("a"), b = file("b"), big = file("big"), rest = file("rest");
    const std::string block(kBlock, 'x');
    bool full = false;
    for (std::uint64_t i = 0; i < 100000 && !full; ++i)
        for (const InodeNo ino : {a, b})
            full |=
                !volume.write(ino, i * 2 * kBlock, std::as_bytes(std::span(block)), false, kUser)
                     .ok();
    // The rest, so that no chunk is free; then every third block of one file goes.
    for (std::uint64_t step = 4096, at = 0; step != 0; step /= 2)
        while (volume.fallocate(0, rest, 0, at * kBlock, step * kBlock, kUser).ok()) at += step;
    for (std::uint64_t i = 0; i < 30000; i += 2)
        REQUIRE(volume
                    .fallocate(0, a, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, i * 2 * kBlock,
                               kBlock, kUser)
                    .ok());
    REQUIRE(volume.setattr(big, size_of(4 * kChunk), kUser).ok());
    std::atomic<bool> done{false};
    std::vector<std::uint64_t> looks;  // how long they took
    std::thread other([&] {
        while (!done) {
            const std::uint64_t before = monotonic_ns();
            REQUIRE(volume.setattr(b, SetAttr{.mode = 0600}, kUser).ok());
            looks.push_back(monotonic_ns() - before);
            std::this_thread::sleep_for(std::chrono::microseconds(200));
        }
    });
    Result<> prepared;
    Progress place;
    Caller caller = kUser;
    caller.progress = &place;
    do prepared = volume.prepare(big, 0, 0, kChunk, caller);
    while (!prepared.ok() && must_park(prepared.error()));
    done = true;
    other.join();
    CHECK(prepared.ok());
    REQUIRE(looks.size() > 20);
    std::ranges::sort(looks);
    CHECK(looks[looks.size() - 3] < 250'000'000);  // a step takes 2 ms; the machine may be busy
    CHECK(volume.close().ok());
}

TEST_CASE("evacuation: metadata is read in between its steps, and no lock is held meanwhile") {
    for (const bool whole_file : {false, true}) {
        CAPTURE(whole_file);
        SpaceWorld world(64 << 20, true);
        world.broken(8, [](unsigned i) { return i % 4 == 0; });
        const InodeNo ino = world.sized("prepared", 8 * kChunk);
        world.nothing_in_memory();
        if (whole_file)
            CHECK(world.prepare(ino).ok());
        else
            CHECK(world.compact().chunks >= 15);
        CHECK(world.read_in() > 100);
        world.check();
    }
}

TEST_CASE(
    "evacuation: a large attribute finds its place though all that is free is single blocks") {
    for (const bool image : {false, true}) {
        CAPTURE(image);
        SpaceWorld world(24 << 20, image);
        world.broken(1, [](unsigned i) { return i % 2 == 0; });
        REQUIRE(world->commit_group().ok());
        const std::string value(media::kXattrValueMax, 'v');
        const InodeNo ino = world.make("attributed");
        unsigned set = 0;
        for (; set < 40; ++set) {
            Progress place;
            Caller caller = kUser;
            caller.progress = &place;
            const auto done = world.retry([&] {
                return world->setxattr(ino, "user.a" + std::to_string(set), bytes_of(value), 0,
                                       caller);
            });
            if (!done.ok()) break;
        }
        REQUIRE(set == 40);
        CHECK(world->getxattr(ino, "user.a7").take().size() == value.size());
        world.check();
    }
}
