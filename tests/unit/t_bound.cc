// Pins that bind blocks to their place, as a guest's DAX window takes them: the file is truncated
// and punched around them, and what they hold is zeroed where it is.
#include <doctest/doctest.h>
#include <linux/falloc.h>

#include <algorithm>
#include <map>

#include "holders_world.h"

using namespace pmfs;
using namespace pmfs::test;

namespace {

constexpr std::uint32_t kVmm = 10, kOther = 30;  // processes

class BoundWorld : public World {
public:
    GrantId bind(const File &file, std::uint64_t first, std::uint64_t blocks) {
        auto taken =
            take(file, GrantKind::pin, kVmm, true, first * kBlock, blocks * kBlock, 0, true);
        REQUIRE(taken.ok());
        return taken.value();
    }
    // Where each block of the file is.
    std::map<FileBlock, BlockNo> places(InodeNo ino) {
        std::map<FileBlock, BlockNo> places;
        Extent page[64];
        const std::size_t n = (*this)->extents(ino, FileBlock(0), page).take();
        REQUIRE(n < 64);
        for (std::size_t i = 0; i < n; ++i)
            if (!page[i].hole())
                for (std::uint64_t b = 0; b < page[i].blocks; ++b)
                    places[page[i].file_block + b] = page[i].start + b;
        return places;
    }
    std::byte *at(BlockNo block) {
        return const_cast<std::byte *>((*this)->region().data()) + block.value() * kBlock;
    }
    bool zero(BlockNo block, std::uint64_t from = 0) {
        return std::all_of(at(block) + from, at(block) + kBlock,
                           [](std::byte b) { return b == std::byte{0}; });
    }
    // As the guest does it, through its mapping.
    void store(BlockNo block) { std::fill_n(at(block), kBlock, std::byte{0x77}); }
    std::string read(InodeNo ino, std::uint64_t offset, std::uint64_t size) {
        return read_at(*this->operator->(), ino, offset, size);
    }
    Result<> fallocate(const File &file, unsigned mode, std::uint64_t from, std::uint64_t size) {
        return (*this)->fallocate(file.handle, file.ino, mode, from, size, user(kOther));
    }
};

const std::string kZeroes(8 * kBlock, '\0');

}  // namespace

TEST_CASE("bound: a truncation leaves bound blocks where they are, zeroed, and frees the others") {
    BoundWorld world;
    const auto file = world.make("f", 8);
    const auto before = world.places(file.ino);
    const GrantId grant = world.bind(file, 2, 2);
    world.bind(file, 6, 1);
    REQUIRE(world.truncate(file, 0, kOther).ok());
    const std::map<FileBlock, BlockNo> left{{FileBlock(2), before.at(FileBlock(2))},
                                            {FileBlock(3), before.at(FileBlock(3))},
                                            {FileBlock(6), before.at(FileBlock(6))}};
    CHECK(world.places(file.ino) == left);
    for (const auto &[block, place] : left) CHECK(world.zero(place));
    world.check();
    // What the guest stores behind the end belongs to no file.
    world.store(left.at(FileBlock(3)));
    REQUIRE(world.truncate(file, 8 * kBlock, kOther).ok());
    CHECK(world.read(file.ino, 0, 8 * kBlock) == kZeroes);
    CHECK(world.places(file.ino) == left);
    // It is mapped on, and what it stores is the file's.
    world.store(left.at(FileBlock(3)));
    CHECK(world.read(file.ino, 3 * kBlock, kBlock) == std::string(kBlock, '\x77'));
    CHECK(world->drop_grant(file.handle, grant).ok());
    world.check();
}

TEST_CASE("bound: the block that the new end is in is zero behind it") {
    BoundWorld world;
    const auto file = world.make("f", 4);
    const BlockNo place = world.places(file.ino).at(FileBlock(1));
    world.bind(file, 0, 2);
    REQUIRE(world.truncate(file, kBlock + 100, kOther).ok());
    CHECK(world.at(place)[99] == std::byte{'x'});
    CHECK(world.zero(place, 100));
    CHECK(world.places(file.ino).size() == 2);
    world.check();
}

TEST_CASE("bound: a punch and a zeroing leave bound blocks where they are, and free the others") {
    for (const unsigned mode : {unsigned{FALLOC_FL_PUNCH_HOLE}, unsigned{FALLOC_FL_ZERO_RANGE}}) {
        BoundWorld world;
        const auto file = world.make("f", 8);
        const auto before = world.places(file.ino);
        world.bind(file, 3, 2);
        REQUIRE(world.fallocate(file, mode | FALLOC_FL_KEEP_SIZE, kBlock + 7, 6 * kBlock).ok());
        const auto after = world.places(file.ino);
        CHECK(after.at(FileBlock(3)) == before.at(FileBlock(3)));
        CHECK(after.at(FileBlock(4)) == before.at(FileBlock(4)));
        CHECK(after.contains(FileBlock(5)) == (mode == FALLOC_FL_ZERO_RANGE));
        CHECK(world.zero(before.at(FileBlock(3))));
        const std::string text = world.read(file.ino, 0, 8 * kBlock);
        CHECK(text == std::string(kBlock + 7, 'x') + std::string(6 * kBlock, '\0') +
                          std::string(kBlock - 7, 'x'));
        world.check();
    }
}

TEST_CASE("bound: what is pinned as well is not truncated, and nothing shifts or moves") {
    BoundWorld world;
    const auto file = world.make("f", 8);
    world.bind(file, 2, 4);
    CHECK(errno_of(world.fallocate(file, FALLOC_FL_COLLAPSE_RANGE, 0, kBlock)) == ETXTBSY);
    CHECK(errno_of(world.fallocate(file, FALLOC_FL_INSERT_RANGE, 0, kBlock)) == ETXTBSY);
    CHECK(errno_of(world->prepare(file.ino, 0, 0, 1 << 20, World::user(kOther))) == EINVAL);
    const auto before = world.places(file.ino);
    REQUIRE(world.take(file, GrantKind::pin, kOther, false, 3 * kBlock, kBlock).ok());
    CHECK(errno_of(world.truncate(file, 0, kOther)) == ETXTBSY);
    CHECK(errno_of(world.fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                                   8 * kBlock)) == ETXTBSY);
    CHECK(world.places(file.ino) == before);
    CHECK(world.read(file.ino, 0, 8 * kBlock) == std::string(8 * kBlock, 'x'));
}

TEST_CASE("bound: writes and allocations around bound blocks go on") {
    BoundWorld world;
    const auto file = world.make("f", 8);
    world.bind(file, 2, 2);
    REQUIRE(world.truncate(file, kBlock, kOther).ok());
    world.store(world.places(file.ino).at(FileBlock(2)));
    const std::string text(kBlock, 'y');
    REQUIRE(world
                ->write(file.ino, 7 * kBlock, std::as_bytes(std::span(text)), false,
                        World::user(kOther))
                .ok());
    CHECK(world.read(file.ino, 0, 8 * kBlock) ==
          std::string(kBlock, 'x') + std::string(6 * kBlock, '\0') + text);
    CHECK(world.fallocate(file, 0, 0, 12 * kBlock).ok());
    CHECK(world.read(file.ino, 8 * kBlock, 4 * kBlock) == kZeroes.substr(0, 4 * kBlock));
    world.check();
}

TEST_CASE("bound: blocks behind the end go with the last pin that bound one") {
    BoundWorld world;
    const auto file = world.make("f", 8);
    const auto again = world.open(file.ino, kVmm);
    const GrantId a = world.bind(file, 2, 2), b = world.bind(again, 3, 2);
    REQUIRE(world.truncate(file, 0, kOther).ok());
    CHECK(world.places(file.ino).size() == 3);
    REQUIRE(world->drop_grant(file.handle, a).ok());
    CHECK(world.places(file.ino).size() == 3);
    world.dead.insert(kVmm);
    REQUIRE(world->drop_grant(again.handle, b).ok());
    world.later(0);
    CHECK(world.places(file.ino).empty());
    world.check();
}

TEST_CASE(
    "bound: after a crash the blocks of a truncated file are nobody's while they are mapped") {
    BoundWorld world;
    const auto file = world.make("f", 8);
    world.bind(file, 2, 2);
    const auto before = world.places(file.ino);
    REQUIRE(world.truncate(file, 0, kOther).ok());
    world.crash();
    SetAttr set;
    set.size = 0;
    REQUIRE(world->setattr(file.ino, set, World::user(kOther)).ok());
    const auto used = world.fill("g");
    CHECK_FALSE(used.contains(before.at(FileBlock(2))));
    CHECK_FALSE(used.contains(before.at(FileBlock(3))));
    world.check();
}

TEST_CASE(
    "bound: much that is bound behind the end is zeroed in steps when the file grows over it") {
    BoundWorld world;
    constexpr std::uint64_t kMany = 1200;
    const auto file = world.make("f", kMany);
    world.bind(file, 0, kMany);
    const auto places = world.places(file.ino);
    for (const bool by_write : {false, true}) {
        REQUIRE(world.truncate(file, 1, kOther).ok());
        for (const auto &[block, place] : places) world.store(place);
        if (by_write) {
            const std::string text = "end";
            REQUIRE(world
                        ->write(file.ino, (kMany + 2) * kBlock, std::as_bytes(std::span(text)),
                                false, World::user(kOther))
                        .ok());
        } else {
            REQUIRE(world.truncate(file, (kMany + 2) * kBlock, kOther).ok());
        }
        const std::string text = world.read(file.ino, 1, kMany * kBlock - 1);
        CHECK(std::all_of(text.begin(), text.end(), [](char c) { return c == '\0'; }));
    }
    CHECK(world.places(file.ino).at(FileBlock(7)) == places.at(FileBlock(7)));
    world.check();
}
