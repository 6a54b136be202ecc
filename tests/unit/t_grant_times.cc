// Stores through a grant do not pass the server, so that the file's times move when such a grant
// begins and when it ends, in every way that it can end.
//
// Holds docs/seal.md "Times".
#include <chrono>
#include <functional>
#include <thread>

#include "holders_world.h"

using namespace pmfs;
using namespace pmfs::test;

namespace {

constexpr std::uint32_t kHolder = 20, kOther = 30;

// The times of a file, made old, and whether they have moved since.
class Times {
public:
    Times(World &world, InodeNo ino) : world_(world), ino_(ino) { age(); }
    void age() {
        SetAttr old;
        old.mtime = Timespec{1000, 0};
        REQUIRE(world_->setattr(ino_, old, World::user(10)).ok());
        changed_ = now().ctime;
        std::this_thread::sleep_for(std::chrono::milliseconds(10));  // more than a clock tick
    }
    bool moved() {
        const Attr attr = now();
        const bool mtime = attr.mtime.seconds != 1000, ctime = attr.ctime != changed_;
        CHECK(mtime == ctime);
        return mtime && ctime;
    }

private:
    Attr now() {
        const auto attr = world_->getattr(ino_);
        REQUIRE(attr.ok());
        return attr.value();
    }
    World &world_;
    const InodeNo ino_;
    Timespec changed_;
};

GrantRequest request_of(GrantKind kind, bool maps, bool may_store) {
    GrantRequest request;
    request.kind = kind;
    request.maps = maps;
    request.may_store = may_store;
    return request;
}

}  // namespace

TEST_CASE("times: a grant that may store moves mtime and ctime when it is taken and when it ends") {
    struct End {
        const char *name;
        bool maps_only;
        std::function<void(World &, const World::File &, GrantId)> act;
    };
    const End ends[] = {
        {"given back", false,
         [](World &w, const World::File &f, GrantId id) {
             REQUIRE(w->drop_grant(f.handle, id).ok());
         }},
        {"its handle is closed", false,
         [](World &w, const World::File &f, GrantId) { w->release(f.handle); }},
        {"its connection ends, and it may map on", false,
         [](World &w, const World::File &f, GrantId id) { w->lose_grant(f.handle, id); }},
        {"its process has ended", false,
         [](World &w, const World::File &f, GrantId id) {
             w.dead.insert(kHolder);
             w->lose_grant(f.handle, id);
         }},
        {"its server dies", true, [](World &w, const World::File &, GrantId) { w.crash(); }},
        {"its server dies, and it ends before the next one", true,
         [](World &w, const World::File &, GrantId) {
             w.dead.insert(kHolder);
             w.crash();
         }},
    };
    for (const GrantKind kind : {GrantKind::temporary, GrantKind::breakable, GrantKind::pin}) {
        for (const bool maps : {true, false}) {
            for (const End &end : ends) {
                if (end.maps_only && !maps) continue;
                CAPTURE(end.name);
                CAPTURE(maps);
                World world;
                const World::File file = world.make("f", 4), also = world.open(file.ino);
                Times times(world, file.ino);
                std::uint64_t bad = 0;
                const auto id = world->take_grant(also.handle, request_of(kind, maps, true),
                                                  World::user(kHolder), &bad);
                REQUIRE(id.ok());
                CHECK(times.moved());
                times.age();
                end.act(world, also, id.value());
                CHECK(times.moved());
            }
        }
    }
}

TEST_CASE("times: a revoked lease updates them, and again when its holder cannot map any more") {
    World world;
    const World::File file = world.make("f", 4), also = world.open(file.ino, kHolder);
    REQUIRE(world.take(also, GrantKind::breakable, kHolder, true).ok());
    Times times(world, file.ino);
    const auto broken = world.truncate(file, kBlock, kOther);
    REQUIRE(errno_of(broken) == kBreakErrno);
    world.later(60);
    REQUIRE(world.revoked.size() == 1);
    CHECK(times.moved());
    times.age();
    const auto lost = world->quarantine();
    REQUIRE(lost.ok());
    REQUIRE(lost.value().size() == 1);
    REQUIRE(world->release_quarantine(lost.value()[0].id, World::user(10, 0)).ok());
    CHECK(times.moved());
}

TEST_CASE(
    "times: a holder that outlived its server updates them at the mount, and when it is gone") {
    World world;
    const World::File file = world.make("f", 4);
    REQUIRE(world.take(file, GrantKind::temporary, kHolder, true).ok());
    Times times(world, file.ino);
    world.crash();
    CHECK(times.moved());
    times.age();
    const auto lost = world->quarantine();
    REQUIRE(lost.ok());
    REQUIRE(lost.value().size() == 1);
    REQUIRE(world->release_quarantine(lost.value()[0].id, World::user(10, 0)).ok());
    CHECK(times.moved());
    // Nor does the end of a holder whose file is gone or replaced update any file.
    REQUIRE(world.take(world.open(file.ino), GrantKind::temporary, kHolder, true).ok());
    REQUIRE(world->unlink(kRoot, "f").ok());
    world.crash();
    const World::File next = world.make("g", 4);
    Times others(world, next.ino);
    for (const Quarantined &one : world->quarantine().take())
        REQUIRE(world->release_quarantine(one.id, World::user(10, 0)).ok());
    CHECK(!others.moved());
    world.check();
}

TEST_CASE(
    "times: a user's grant that may store clears set-id bits when it begins and when it ends") {
    World world;
    const World::File file = world.make("f", 4), also = world.open(file.ino);
    const auto set_bits = [&] {
        SetAttr set;
        set.mode = 06777;
        REQUIRE(world->setattr(file.ino, set, World::user(10, 0)).ok());
    };
    const auto bits = [&] { return world->getattr(file.ino).take().mode & 06000; };
    for (const std::uint32_t uid : {1000u, 0u}) {
        set_bits();
        std::uint64_t bad = 0;
        const auto id = world->take_grant(also.handle, request_of(GrantKind::temporary, true, true),
                                          World::user(kHolder, uid), &bad);
        REQUIRE(id.ok());
        CHECK(bits() == (uid == 0 ? 06000u : 0u));
        set_bits();
        REQUIRE(world->drop_grant(also.handle, id.value()).ok());
        CHECK(bits() == (uid == 0 ? 06000u : 0u));
    }
}

TEST_CASE(
    "times: a grant that only reads updates nothing; closing the volume ends grants that store") {
    World world;
    const World::File file = world.make("f", 4);
    Times times(world, file.ino);
    std::uint64_t bad = 0;
    for (const bool maps : {true, false}) {
        const auto id = world->take_grant(
            file.handle, request_of(GrantKind::temporary, maps, false), World::user(kHolder), &bad);
        REQUIRE(id.ok());
        REQUIRE(world->drop_grant(file.handle, id.value()).ok());
    }
    CHECK(!times.moved());
    REQUIRE(world
                ->take_grant(file.handle, request_of(GrantKind::breakable, false, true),
                             World::user(kHolder), &bad)
                .ok());
    times.age();
    REQUIRE(world->close().ok());
    CHECK(times.moved());
}
