// The kernel tells the server of a close(2) after it has returned.  So whoever is refused because
// of a holder waits for some time: the holder may have closed the file already.
//
// Holds docs/seal.md "Who holds it?".
#include <functional>

#include "holders_world.h"
#include "volume/seal_modes.h"

using namespace pmfs;
using namespace pmfs::test;

namespace {

constexpr std::uint32_t kCaller = 10, kHolder = 20;

struct Case {
    const char *name;
    // What the other one holds, and by which handle.
    std::function<HandleId(World &, const World::File &)> hold;
    std::function<int(World &, const World::File &, Caller, Progress *)> call;
};

HandleId cached(World &world, const World::File &file) {
    OpenRequest request;
    request.caller = World::user(kHolder);
    const auto opened = world->open_file(file.ino, request);
    REQUIRE(opened.ok());
    REQUIRE(!opened.value().direct_io);
    return opened.value().handle;
}

template <GrantKind kind>
HandleId granted(World &world, const World::File &file) {
    const World::File other = world.open(file.ino, kHolder);
    GrantRequest request;
    request.kind = kind;
    request.may_store = kind != GrantKind::breakable;
    std::uint64_t bad = 0;
    REQUIRE(world->take_grant(other.handle, request, World::user(kHolder), &bad).ok());
    return other.handle;
}

HandleId granted_under_a_seal(World &world, const World::File &file) {
    std::uint64_t bad = 0;
    REQUIRE(world->seal(file.ino, SealLevel::full, {}, true, &bad).ok());
    return granted<GrantKind::temporary>(world, file);
}

int take(World &world, const World::File &file, const Caller &caller, GrantKind kind) {
    GrantRequest request;
    request.kind = kind;
    request.may_store = true;
    std::uint64_t bad = 0;
    return errno_of(world->take_grant(file.handle, request, caller, &bad));
}

int seal(World &world, const World::File &file, const Caller &caller, Progress *) {
    std::uint64_t bad = 0;
    return errno_of(world->seal(file.ino, SealLevel::full, caller, true, &bad));
}

// A grant that announces its stores, and does so.
int announce(World &world, const World::File &file, const Caller &caller, Progress *progress) {
    GrantRequest request;
    request.kind = GrantKind::pin;
    request.may_store = request.maps = request.trusted = request.announces = true;
    std::uint64_t bad = 0;
    const auto grant = world->take_grant(file.handle, request, caller, &bad);
    if (!grant.ok()) return errno_of(grant);
    const int said = errno_of(world->begin_stores(file.handle, grant.value(), progress));
    REQUIRE(world->drop_grant(file.handle, grant.value()).ok());
    return said;
}

const Case kCases[] = {
    {"a grant that may store, and a cached handle", cached,
     [](World &w, const World::File &f, Caller c, Progress *) {
         return take(w, f, c, GrantKind::temporary);
     }},
    {"stores that are announced, and a cached handle", cached, announce},
    {"a temporary grant, and a lease", granted<GrantKind::breakable>,
     [](World &w, const World::File &f, Caller c, Progress *) {
         return take(w, f, c, GrantKind::temporary);
     }},
    {"SEAL, and a lease", granted<GrantKind::breakable>, seal},
    {"SEAL by an xattr, and a lease", granted<GrantKind::breakable>,
     [](World &w, const World::File &f, Caller c, Progress *) {
         return errno_of(w->setxattr(f.ino, "trusted.pmfs.seal", bytes_of("full"), 0, c));
     }},
    {"UNSEAL, and a temporary grant", granted_under_a_seal,
     [](World &w, const World::File &f, Caller c, Progress *) {
         return errno_of(w->unseal(f.ino, c, true));
     }},
    {"UNSEAL by an xattr, and a temporary grant", granted_under_a_seal,
     [](World &w, const World::File &f, Caller c, Progress *) {
         return errno_of(w->removexattr(f.ino, "trusted.pmfs.seal", c));
     }},
    {"chattr +i, and a grant that may store", granted<GrantKind::temporary>,
     [](World &w, const World::File &f, const Caller &, Progress *progress) {
         return errno_of(w->set_file_flags(f.ino, {.immutable = true}, progress));
     }},
};

}  // namespace

TEST_CASE("closing: user.pmfs.seal is refused at once, because the kernel has the file locked") {
    for (const bool seals : {true, false}) {
        World world;
        const World::File file = world.make("f", 1, kCaller);
        (seals ? granted<GrantKind::breakable> : granted_under_a_seal)(world, file);
        Progress progress;
        Caller caller;
        caller.progress = &progress;
        const std::string_view name = "user.pmfs.seal";
        CHECK(errno_of(seals ? world->setxattr(file.ino, name, bytes_of("full"), 0, caller)
                             : world->removexattr(file.ino, name, caller)) == EBUSY);
    }
}

TEST_CASE("closing: who is refused because of a holder waits for it to close, but not for ever") {
    for (const Case &one : kCases)
        for (const bool closes : {true, false}) {
            CAPTURE(one.name);
            CAPTURE(closes);
            World world;
            const World::File file = world.make("f", 1, kCaller);
            const HandleId holder = one.hold(world, file);
            Caller caller;
            caller.pid = kCaller;
            CHECK(one.call(world, file, caller, nullptr) == EBUSY);
            Progress progress;
            caller.progress = &progress;
            const auto call = [&] { return one.call(world, file, caller, &progress); };
            CHECK(call() == kCloseErrno);
            CHECK(call() == kCloseErrno);
            if (closes) {
                world->release(holder);
                CHECK(call() == 0);
            } else {
                int said = kCloseErrno;
                for (int times = 0; said == kCloseErrno && times < 100; ++times) said = call();
                CHECK(said == EBUSY);
                CHECK(call() == EBUSY);
            }
        }
}
