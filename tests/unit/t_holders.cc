// Leases, pins and lost grants, on the engine itself: who waits, who is charged, and whose blocks
// stay held (docs/seal.md).
#include <doctest/doctest.h>
#include <linux/falloc.h>

#include "core/pin_table.h"
#include "holders_world.h"

using namespace pmfs;
using namespace pmfs::test;

TEST_CASE(
    "leases: a breaker waits until the last lease is given back, and each holder is told once") {
    World world;
    const auto file = world.make("f", 8), other = world.open(file.ino, 20);
    const GrantId a = world.take(file, GrantKind::breakable, 10).take();
    const GrantId b = world.take(other, GrantKind::breakable, 20).take();
    CHECK(errno_of(world.take(file, GrantKind::temporary, 10)) == EBUSY);
    Result<> done = world.truncate(file, 0, 30);
    REQUIRE(errno_of(done) == kBreakErrno);
    int ran = 0;
    world->when_ready(done.error(), [&] { ++ran, done = world.truncate(file, 0, 30); });
    CHECK(errno_of(world.truncate(file, 0, 30, true)) == EAGAIN);
    CHECK(world.asked.size() == 2);
    world.later(0);
    CHECK(ran == 0);
    REQUIRE(world->drop_grant(file.handle, a).ok());
    world.later(0);
    CHECK(ran == 0);
    REQUIRE(world->drop_grant(other.handle, b).ok());
    world.later(0);
    CHECK(ran == 1);
    CHECK(done.ok());
    CHECK(world->getattr(file.ino).take().size == 0);
    CHECK(world.revoked.empty());
    world.check();
}

TEST_CASE("leases: a holder does not wait for itself, by handle or by process") {
    World world;
    const auto file = world.make("f", 8), other = world.open(file.ino, 20);
    REQUIRE(world.take(file, GrantKind::breakable, 10).ok());
    CHECK(errno_of(world.truncate(file, 0, 13)) == EDEADLK);  // another thread of process 10
    Caller handed = World::user(40);
    handed.handle = file.handle;
    SetAttr set;
    set.size = 0;
    CHECK(errno_of(world->setattr(file.ino, set, handed)) == EDEADLK);
    handed.handle = other.handle;
    CHECK(errno_of(world->setattr(file.ino, set, handed)) == kBreakErrno);
}

TEST_CASE("leases: one that is not given back in time is lost, and the breaker continues") {
    World world;
    const auto file = world.make("f", 8);
    const GrantId lease = world.take(file, GrantKind::breakable, 10).take();
    Result<> done = world.truncate(file, 0, 30);
    REQUIRE(errno_of(done) == kBreakErrno);
    world->when_ready(done.error(), [&] { done = world.truncate(file, 0, 30); });
    const auto late = world.open(file.ino, 20);
    CHECK(errno_of(world.take(late, GrantKind::breakable, 20)) == kBreakErrno);
    world.later(9);
    CHECK_FALSE(done.ok());
    world.later(11);
    CHECK(done.ok());
    CHECK(world.revoked == std::vector<GrantId>{lease});
    CHECK(errno_of(world->drop_grant(file.handle, lease)) == ENOENT);
}

TEST_CASE("leases: a pin keeps a lease from being broken, and the breaker does not wait") {
    World world;
    const auto file = world.make("f", 8);
    REQUIRE(world.take(file, GrantKind::breakable, 10).ok());
    REQUIRE(world.take(file, GrantKind::pin, 10, false, 0, kBlock).ok());
    CHECK(errno_of(world.truncate(file, 4 * kBlock, 30)) == ETXTBSY);
    CHECK(world.asked.empty());
}

TEST_CASE("leases: one that is requested while its file is closed and forgotten is refused") {
    World world;
    const auto file = world.make("closed", 4);
    // As when a guest resets its device, and an ioctl of it is under way.
    world.while_named = [&] {
        world->release(file.handle);
        world->forget(file.ino, 1);
    };
    const auto lease = world.take(file, GrantKind::breakable, 10);
    REQUIRE_FALSE(lease.ok());
    CHECK(lease.error().errno_value() == EBADF);
    REQUIRE(world->close().ok());
    world.check();
}

TEST_CASE("pins: only their range is held, and each is given back once") {
    World world;
    const auto file = world.make("f", 8);
    const GrantId a = world.take(file, GrantKind::pin, 10, false, 2 * kBlock, 2 * kBlock).take();
    const GrantId b = world.take(file, GrantKind::pin, 10, false, 3 * kBlock, kBlock).take();
    const auto punch = [&](std::uint64_t block) {
        return errno_of(world->fallocate(file.handle, file.ino,
                                         FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, block * kBlock,
                                         kBlock, World::user(30)));
    };
    CHECK(punch(1) == 0);
    CHECK(punch(2) == ETXTBSY);
    CHECK(errno_of(world.truncate(file, 5 * kBlock, 30)) == 0);
    CHECK(errno_of(world.truncate(file, 9 * kBlock, 30)) == 0);
    CHECK(errno_of(world.truncate(file, 3 * kBlock, 30)) == ETXTBSY);
    REQUIRE(world->drop_grant(file.handle, a).ok());
    CHECK(errno_of(world->drop_grant(file.handle, a)) == ENOENT);
    CHECK(punch(2) == 0);
    CHECK(punch(3) == ETXTBSY);
    REQUIRE(world->drop_grant(file.handle, b).ok());
    CHECK(punch(3) == 0);
    world.check();
}

TEST_CASE(
    "pins: a user is charged once for a block, on all files together, and refused past the limit") {
    World world;
    const auto f = world.make("f", 8), g = world.make("g", 8);
    world.lockable = 8 * kBlock;
    REQUIRE(world.take(f, GrantKind::pin, 10, false, 0, 6 * kBlock).ok());
    REQUIRE(world.take(f, GrantKind::pin, 10, false, 0, 6 * kBlock).ok());
    CHECK(world.take(f, GrantKind::pin, 10, false, 4 * kBlock, 4 * kBlock).ok());
    CHECK(errno_of(world.take(g, GrantKind::pin, 10, false, 0, kBlock)) == ENOMEM);
    CHECK(world.take(g, GrantKind::pin, 10, false, 0, kBlock, 0).ok());  // root
    world->release(f.handle);
    CHECK(world.take(g, GrantKind::pin, 10, false, 0, 8 * kBlock).ok());
    world.lockable = 0;
    CHECK(errno_of(world.take(g, GrantKind::pin, 10, false, 0, kBlock)) == EPERM);
    const auto reader = world.open(g.ino, 50, false);
    CHECK(errno_of(world.take(reader, GrantKind::pin, 50, false, 0, kBlock, 2000)) == EPERM);
}

TEST_CASE("pins: a hundred thousand of a block each cost at most 100 bytes a pin") {
    core::PinTable pins;
    std::vector<std::uint64_t> numbers;
    for (std::uint64_t i = 0; i < 100'000; ++i) {
        core::PinTable::Pin pin;
        pin.first = FileBlock(i * 48271 % 100'003 * 2);
        pin.end = pin.first + 1;
        pin.handle = 1 + i % 7;
        pin.uid = 5;
        numbers.push_back(*pins.add(pin));
    }
    CHECK(pins.bytes() <= 100 * numbers.size());
    constexpr FileBlock kPinned(48271 * 2);
    CHECK(pins.overlaps(kPinned, kPinned + 1));
    CHECK_FALSE(pins.overlaps(kPinned + 1, kPinned + 2));
    for (std::uint64_t i = 0; i < numbers.size(); ++i) {
        const auto removed = pins.remove(1 + i % 7, numbers[i]);
        REQUIRE(removed);
        REQUIRE(removed->blocks == 1);
    }
    CHECK(pins.count() == 0);
    CHECK_FALSE(pins.overlaps(FileBlock(0), FileBlock(~0ull)));
}

TEST_CASE("pins: coverage counts as a plain array of counters does") {
    core::PinTable pins;
    std::vector<int> counts(64);
    std::vector<std::pair<std::uint64_t, core::PinTable::Pin>> live;
    std::uint64_t random = 1;
    const auto next = [&random](std::uint64_t below) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        return (random >> 33) % below;
    };
    for (int step = 0; step < 20'000; ++step) {
        std::uint64_t changed = 0;
        if (live.size() < 20 && next(2) == 0) {
            core::PinTable::Pin pin;
            pin.first = FileBlock(next(60));
            pin.end = pin.first + 1 + next(4);
            pin.handle = 1 + next(3);
            for (FileBlock b = pin.first; b < pin.end; ++b) changed += counts[b.value()]++ == 0;
            REQUIRE(pins.new_blocks(0, pin.first, pin.end) == changed);
            live.emplace_back(*pins.add(pin), pin);
        } else if (!live.empty()) {
            const std::size_t at = next(live.size());
            const auto [number, pin] = live[at];
            live.erase(live.begin() + static_cast<std::ptrdiff_t>(at));
            for (FileBlock b = pin.first; b < pin.end; ++b) changed += --counts[b.value()] == 0;
            REQUIRE(pins.remove(pin.handle, number)->blocks == changed);
        }
        const std::uint64_t a = next(60), b = a + 1 + next(4);
        bool any = false;
        for (std::uint64_t i = a; i < b; ++i) any = any || counts[i] != 0;
        REQUIRE(pins.overlaps(FileBlock(a), FileBlock(b)) == any);
    }
}

TEST_CASE("quarantine: blocks that a surviving holder may still store to are not reused") {
    World world;
    const auto file = world.make("f", 64, 10);
    const auto mapped = world.blocks_of(file.ino);
    REQUIRE(world.take(file, GrantKind::temporary, 10, true).ok());
    world.check();
    world.crash();  // process 10 lives on
    REQUIRE(world->quarantine().take().size() == 1);
    CHECK(world->quarantine().take()[0].total == mapped.size() * kBlock);
    CHECK(world->quarantine().take()[0].held == 0);
    SetAttr set;
    set.size = 16 * kBlock;
    REQUIRE(world->setattr(file.ino, set, World::user(30)).ok());  // T is gone
    CHECK(world->quarantine().take()[0].held == 48 * kBlock);
    world.check();
    REQUIRE(world->unlink(kRoot, "f").ok());
    CHECK(world->quarantine().take()[0].held == 64 * kBlock);
    CHECK(disjoint(mapped, world.fill("a")));
    world.check();
    world.crash();  // and again
    CHECK(world->quarantine().take()[0].held == 64 * kBlock);
    CHECK(disjoint(mapped, world.fill("b")));
    world.check();
    world.dead.insert(10);
    world.crash();
    CHECK(world->quarantine().take().empty());
    CHECK_FALSE(disjoint(mapped, world.fill("c")));
    world.check();
}

TEST_CASE("quarantine: a lost mapped lease keeps its blocks until its holder unmaps or ends") {
    World world;
    const auto file = world.make("f", 64, 10);
    const auto mapped = world.blocks_of(file.ino);
    const GrantId lease = world.take(file, GrantKind::breakable, 10, true).take();
    Result<> done = world.truncate(file, 0, 30);
    world->when_ready(done.error(), [&] { done = world.truncate(file, 0, 30); });
    world.later(11);
    REQUIRE(done.ok());
    CHECK(world->quarantine().take()[0].reason == GrantReason::late);
    CHECK(disjoint(mapped, world.fill("a")));
    world.check();
    REQUIRE(world->drop_grant(file.handle, lease).ok());  // it has unmapped
    CHECK(world->quarantine().take().empty());
    CHECK_FALSE(disjoint(mapped, world.fill("b")));
    world.check();
}

TEST_CASE("quarantine: blocks with two holders become free with the last of them") {
    World world;
    const auto file = world.make("f", 32, 10), other = world.open(file.ino, 20);
    const auto mapped = world.blocks_of(file.ino);
    REQUIRE(world.take(file, GrantKind::temporary, 10, true).ok());
    REQUIRE(world.take(other, GrantKind::temporary, 20, true).ok());
    world.crash();
    REQUIRE(world->unlink(kRoot, "f").ok());
    auto all = world->quarantine().take();
    REQUIRE(all.size() == 2);
    CHECK(errno_of(world->release_quarantine(all[0].id, World::user(30))) == EPERM);
    REQUIRE(world->release_quarantine(all[0].id, World::user(30, 0)).ok());
    CHECK(disjoint(mapped, world.fill("a")));
    world.check();
    REQUIRE(world->release_quarantine(all[1].id, World::user(30, 0)).ok());
    CHECK_FALSE(disjoint(mapped, world.fill("b")));
    world.check();
}

TEST_CASE("quarantine: the end of one holder frees no block that another may store to") {
    for (const std::uint32_t ends : {10, 20}) {
        World world;
        const auto file = world.make("f", 32, 10), other = world.open(file.ino, 20);
        const auto mapped = world.blocks_of(file.ino);
        REQUIRE(world.take(file, GrantKind::temporary, 10, true).ok());
        REQUIRE(world.take(other, GrantKind::temporary, 20, true).ok());
        world.crash();
        REQUIRE(world->unlink(kRoot, "f").ok());
        world.dead.insert(ends);
        world.crash();
        CHECK(world->quarantine().take().size() == 1);
        world.check();
        CHECK(disjoint(mapped, world.fill("a")));
        world.check();
    }
}

TEST_CASE(
    "quarantine: a grant that is given back leaves no trace, in however many pieces its file is") {
    World world(64 << 20);
    const auto file = world.make("f", 1), between = world.make("g", 1);
    const std::string text(kBlock, 'x');
    for (std::uint64_t i = 0; i < 200; ++i)
        for (const auto &one : {file, between})
            REQUIRE(world
                        ->write(one.ino, i * kBlock, std::as_bytes(std::span(text)), false,
                                World::user(10))
                        .ok());
    const std::uint64_t inodes = world->info().inodes_used, free = world->info().blocks_free;
    const GrantId grant = world.take(file, GrantKind::temporary, 10, true).take();
    CHECK(world->info().inodes_used == inodes + 1);
    world.check();
    REQUIRE(world->drop_grant(file.handle, grant).ok());
    CHECK(world->info().inodes_used == inodes);
    CHECK(world->info().blocks_free == free);
    CHECK(world->quarantine().take().empty());
    world.check();
}
