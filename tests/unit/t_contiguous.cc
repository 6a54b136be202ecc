// A file that becomes one extent: where it can be, whatever is in the way, and with no byte lost.
#include <doctest/doctest.h>

#include <atomic>
#include <thread>

#include "unit/space_world.h"

using namespace pmfs;
using namespace pmfs::test;

namespace {

Result<> contiguous(SpaceWorld &world, InodeNo ino, std::uint64_t offset = 0,
                    std::uint64_t length = 0, const Caller &who = kUser) {
    Progress place;
    Caller caller = who;
    caller.progress = &place;
    return world.retry([&] { return world->prepare_contiguous(ino, offset, length, caller); });
}

// Extents of the file, of which there is one, of whole chunks.
void check_one(SpaceWorld &world, InodeNo ino, std::uint64_t chunks) {
    CHECK(world->file_info(ino).take().extents == 1);
    const Extent e = world.extent_at(ino, 0);
    CHECK(e.start % media::kChunkBlocks == 0);
    CHECK(e.blocks == chunks * media::kChunkBlocks);
    CHECK(!e.unwritten);
    // (Beside them, a node of the map that it had.)
    CHECK(world->getattr(ino).take().blocks <= chunks * media::kChunkBlocks + 1);
}

// A file in pieces, beside another one that is in pieces, too.
InodeNo in_pieces(SpaceWorld &world, const std::string &name, std::uint64_t blocks) {
    const InodeNo ino = world.make(name), other = world.make("beside-" + name);
    for (std::uint64_t at = 0; at < blocks; at += 30) {
        world.write(ino, at, std::min<std::uint64_t>(20, blocks - at));
        world.write(other, at, 7);
    }
    return ino;
}

// The first file of each chunk that has one.
std::map<ChunkNo, InodeNo> by_chunk(SpaceWorld &world, const std::vector<InodeNo> &files) {
    std::map<ChunkNo, InodeNo> all;
    for (const InodeNo ino : files) all[media::chunk_of(world.extent_at(ino, 0).start)] = ino;
    return all;
}

}  // namespace

TEST_CASE("contiguous: a file in pieces becomes one aligned extent, on memory and on an image") {
    for (const bool image : {false, true}) {
        CAPTURE(image);
        SpaceWorld world(64 << 20, image);
        const InodeNo ino = in_pieces(world, "file", 3000);
        CHECK(world->file_info(ino).take().extents > 50);
        CHECK(contiguous(world, ino).ok());
        check_one(world, ino, 6);
        const BlockNo start = world.extent_at(ino, 0).start;
        CHECK(contiguous(world, ino).ok());  // and then there is nothing to be done
        CHECK(world.extent_at(ino, 0).start == start);
        std::uint64_t bad = 0;
        CHECK(
            world.retry([&] { return world->seal(ino, SealLevel::full, kUser, true, &bad); }).ok());
        CHECK(contiguous(world, ino).ok());
        world.kill();
        check_one(world, ino, 6);
        world.check();
    }
}

TEST_CASE("contiguous: a range of a file, a sparse file, a small one and an empty one") {
    SpaceWorld world(64 << 20);
    const InodeNo part = in_pieces(world, "part", 3000);
    CHECK(contiguous(world, part, kChunk + 5, 2 * kChunk).ok());
    const Extent e = world.extent_at(part, 512);
    CHECK(e.file_block == FileBlock(512));
    CHECK(e.blocks == 3 * 512);
    const InodeNo sparse = world.sized("sparse", 3 * kChunk - 100);
    CHECK(contiguous(world, sparse).ok());
    check_one(world, sparse, 3);
    CHECK(world.read(sparse, 0, kBlock) == std::string(kBlock, 0));
    const InodeNo small = world.make("small"), none = world.make("none");
    world.write(small, 0, 3);
    CHECK(contiguous(world, small).ok());
    check_one(world, small, 1);
    CHECK(contiguous(world, none).ok());
    CHECK(world->file_info(none).take().extents == 0);
    CHECK(errno_of(contiguous(world, small, 4 * kBlock)) == EINVAL);
    CHECK(errno_of(contiguous(world, kRoot)) == EISDIR);
    world.check();
}

TEST_CASE("contiguous: what is behind the end of the file is zero") {
    SpaceWorld world(32 << 20);
    const auto behind = [&](InodeNo ino, std::uint64_t size) {
        const std::byte *at =
            world->region().data() + media::byte_of(world.extent_at(ino, 0).start);
        return std::all_of(at + size, at + kChunk, [](std::byte b) { return b == std::byte{0}; });
    };
    for (const std::uint64_t blocks : {std::uint64_t{512}, std::uint64_t{5}}) {
        const InodeNo ino = world.make("f" + std::to_string(blocks));
        world.write(ino, 0, blocks);
        const std::string text(kBlock, 'x');
        REQUIRE(world
                    .retry([&] {
                        return world->write(ino, (blocks - 1) * kBlock, bytes_of(text), false,
                                            kUser);
                    })
                    .ok());
        world.forget_content(ino);
        const std::uint64_t size = blocks * kBlock - 100;
        REQUIRE(world.retry([&] { return world->setattr(ino, size_of(size), kUser); }).ok());
        CHECK(contiguous(world, ino).ok());
        CHECK(behind(ino, size));
    }
    world.check();
}

TEST_CASE(
    "contiguous: many chunks in a row are made of broken ones, more than a bitmap block has") {
    for (const bool image : {false, true}) {
        CAPTURE(image);
        SpaceWorld world(192 << 20, image);
        world.broken(100, [](unsigned i) { return i % 5 == 0; });
        CHECK(world.free_chunks() < 20);
        const InodeNo big = world.sized("big", 70 * kChunk);
        world.write(big, 1000, 50);
        world.write(big, 30000, 50);
        CHECK(contiguous(world, big).ok());
        check_one(world, big, 70);
        world.check();
    }
}

TEST_CASE("contiguous: what is in the way may go to free chunks, where there is no other room") {
    SpaceWorld world(40 << 20);
    std::map<BlockNo, std::string> places;
    for (unsigned i = 0;; ++i) {
        const std::string name = "s" + std::to_string(i);
        const InodeNo ino = world.sized(name, kChunk);
        if (!world.prepare(ino).ok()) {
            world.remove(name, ino);
            break;
        }
        places[world.extent_at(ino, 0).start] = name;
    }
    REQUIRE(places.size() > 14);
    // Four chunks that are nearly full; behind them, each free one is alone.
    unsigned n = 0;
    for (const auto &[start, name] : places) {
        const InodeNo ino = world->lookup(kRoot, name).take().ino;
        std::uint64_t bad = 0;
        if (n < 4) {
            world.write(ino, 0, 400);
            world.punch(ino, 400, 112);
        } else if (n % 2 == 0) {
            REQUIRE(
                world.retry([&] { return world->seal(ino, SealLevel::full, kUser, true, &bad); })
                    .ok());
        } else {
            world.remove(name, ino);
            world->forget(ino, 1);  // for the lookup
        }
        ++n;
    }
    REQUIRE(world->commit_group().ok());
    const InodeNo four = world.sized("four", 4 * kChunk);
    CHECK(contiguous(world, four).ok());
    check_one(world, four, 4);
    world.check();
}

TEST_CASE("contiguous: what is sealed, granted, pinned or quarantined stays where it is") {
    for (unsigned way = 0; way < 5; ++way) {
        CAPTURE(way);
        SpaceWorld world(64 << 20);
        const auto of_chunk =
            by_chunk(world, world.broken(100, [](unsigned i) { return i % 5 == 0; }));
        REQUIRE(of_chunk.size() > 20);
        // So there are never more than four chunks in a row.
        std::map<InodeNo, BlockNo> places;
        unsigned n = 0;
        for (const auto &[chunk, ino] : of_chunk) {
            if (n++ % 5 != 0) continue;
            places[ino] = world.extent_at(ino, 0).start;
            world.keep_in_place(ino, way);
        }
        const InodeNo four = world.sized("four", 4 * kChunk),
                      nine = world.sized("nine", 9 * kChunk);
        world.write(four, 100, 50);
        world.write(nine, 100, 50);
        CHECK(errno_of(contiguous(world, nine)) == ENOSPC);
        CHECK(contiguous(world, four).ok());
        check_one(world, four, 4);
        for (const auto &[ino, start] : places) CHECK(world.extent_at(ino, 0).start == start);
        world.look();
    }
}

TEST_CASE("contiguous: a file whose own map is frozen is left alone") {
    for (unsigned way = 0; way < 4; ++way) {
        CAPTURE(way);
        SpaceWorld world(32 << 20);
        const InodeNo ino = in_pieces(world, "file", 100);
        if (way != 0) REQUIRE(world.prepare(ino, kUser, kBlock).ok());
        const std::uint64_t extents = world->file_info(ino).take().extents;
        world.keep_in_place(ino, way);
        CHECK(errno_of(contiguous(world, ino)) == EINVAL);
        CHECK(world->file_info(ino).take().extents == extents);
        world.look();
    }
}

TEST_CASE("contiguous: where there is no room nothing changes, and nothing is kept") {
    for (const bool image : {false, true}) {
        CAPTURE(image);
        SpaceWorld world(48 << 20, image);
        const InodeNo ino = in_pieces(world, "file", 3 * 512);
        std::vector<InodeNo> fill = world.broken(64, [](unsigned i) { return i % 8 != 0; });
        const std::uint64_t before = world->info().blocks_available;
        CHECK(errno_of(contiguous(world, ino)) == ENOSPC);
        REQUIRE(world->commit_group().ok());
        REQUIRE(world->commit_group().ok());
        CHECK(world->info().blocks_available + 8 >= before);  // (a node of a map)
        for (unsigned i = 0, n = 0; n < fill.size(); ++i) {
            if (i % 8 == 0) continue;
            if (n % 2 == 0) world.remove("s" + std::to_string(i), fill[n]);
            ++n;
        }
        REQUIRE(world->commit_group().ok());
        CHECK(contiguous(world, ino).ok());
        check_one(world, ino, 3);
        world.check();
    }
}

TEST_CASE("contiguous: wherever it has to wait, it goes on; dropped there, nothing is lost") {
    unsigned waited = 0, refused = 0, in_place = 0;
    for (unsigned waits = 1; waits < 70; waits += waits < 10 ? 1 : 6) {
        CAPTURE(waits);
        for (const bool drops : {false, true}) {
            SpaceWorld world(16 << 20, true);
            const InodeNo ino = in_pieces(world, "file", 700);
            world.broken(40, [](unsigned i) { return i % 3 == 0; });
            {
                Progress place;
                Caller caller = kUser;
                caller.progress = &place;
                world.wait_behind(waits);
                const Timespec moment = now_coarse();
                world.write(ino, 0, 1);  // so that a write of the same moment goes in place
                auto done = world->prepare_contiguous(ino, 0, 0, caller);
                const std::string text(kBlock, 'w');
                const auto written = world->write(ino, kBlock, bytes_of(text), false, kUser);
                if (!done.ok()) {
                    REQUIRE(must_park(done.error()));
                    ++waited;
                    in_place += now_coarse() == moment ? 1 : 0;
                    refused += errno_of(written) == kClaimErrno ? 1 : 0;
                    if (!drops)
                        done = world.retry(
                            [&] { return world->prepare_contiguous(ino, 0, 0, caller); });
                }
                if (!drops) CHECK(done.ok());
                if (written.ok()) CHECK((world.read(ino, kBlock, kBlock) == text));
            }
            world.write(ino, 1, 1);
            world.wait_no_more();
            world.look();
            CHECK(contiguous(world, ino).ok());
            check_one(world, ino, 2);
            world.check();
        }
    }
    CHECK(waited > 20);
    if (in_place > waited / 2) CHECK(refused > 0);  // not on a machine too busy for that
}

TEST_CASE("contiguous: no write in place is lost while several files become one extent each") {
    for (int round = 0; round < 24; ++round) {
        SpaceWorld world(32 << 20);
        std::vector<InodeNo> files;
        for (const char *name : {"a", "b", "c"}) files.push_back(in_pieces(world, name, 700));
        std::vector<std::string> wanted;
        for (const InodeNo ino : files) wanted.push_back(world.read(ino, 0, 700 * kBlock));
        std::atomic<bool> done{false};
        std::atomic<unsigned> written_to{0};
        std::thread writer([&] {
            for (unsigned n = 0; !done; ++n) {
                const std::size_t i = n % files.size();
                const std::string text(kBlock, static_cast<char>('A' + n % 26));
                const std::uint64_t at = (n * 30 % 660 + n % 20) * kBlock;
                const auto written = world->write(files[i], at, bytes_of(text), false, kUser);
                if (written.ok()) wanted[i].replace(at, text.size(), text);
                ++written_to;
            }
        });
        while (written_to < 10) std::this_thread::yield();
        std::vector<std::thread> threads;
        std::atomic<int> prepared{0};
        for (const InodeNo ino : files)
            threads.emplace_back([&, ino] {
                Progress place;
                Caller caller = kUser;
                caller.progress = &place;
                for (int tries = 0; tries < 100000; ++tries) {
                    const auto result = world->prepare_contiguous(ino, 0, 0, caller);
                    if (result.ok()) ++prepared;
                    if (result.ok() || !must_park(result.error())) return;
                    std::this_thread::yield();
                }
            });
        for (std::thread &thread : threads) thread.join();
        done = true;
        writer.join();
        CHECK(prepared == 3);
        for (std::size_t i = 0; i < files.size(); ++i) {
            check_one(world, files[i], 2);
            CHECK((world.read(files[i], 0, wanted[i].size()) == wanted[i]));
        }
    }
}
