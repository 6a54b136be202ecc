// Notifications about leases: the time that is left, and that none comes after the watcher was
// removed.
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "holders_world.h"

using namespace pmfs;
using namespace pmfs::test;
using namespace std::chrono_literals;

namespace {

// Stays in a call until it may go on.
class Slow : public GrantWatcher {
public:
    void lease_breaking(HandleId, GrantId, std::uint32_t) override {
        std::unique_lock held(mutex_);
        inside_ = true;
        changed_.notify_all();
        changed_.wait(held, [this] { return go_on_; });
        inside_ = false;
    }
    void grant_revoked(HandleId, GrantId) override {}
    void wait_until_inside() {
        std::unique_lock held(mutex_);
        changed_.wait(held, [this] { return inside_; });
    }
    void go_on() {
        const std::lock_guard held(mutex_);
        go_on_ = true;
        changed_.notify_all();
    }
    bool inside() {
        const std::lock_guard held(mutex_);
        return inside_;
    }

private:
    std::mutex mutex_;
    std::condition_variable changed_;
    bool inside_ = false, go_on_ = false;
};

}  // namespace

TEST_CASE(
    "watcher: it may be destroyed when set_watcher has returned, because no call is under way") {
    World world;
    const World::File file = world.make("f", 4), also = world.open(file.ino, 20);
    REQUIRE(world.take(also, GrantKind::breakable, 20).ok());
    Slow watcher;
    world->set_watcher(&watcher);
    std::thread breaker([&] { (void)world.truncate(file, kBlock, 30).ok(); });
    watcher.wait_until_inside();
    std::atomic<bool> returned{false};
    bool was_inside = true;
    std::thread ender([&] {
        world->set_watcher(nullptr);
        was_inside = watcher.inside();
        returned = true;
    });
    std::this_thread::sleep_for(50ms);
    CHECK(!returned);
    watcher.go_on();
    breaker.join();
    ender.join();
    CHECK(!was_inside);
}

TEST_CASE("watcher: a holder that asks late gets the time that is left") {
    World world;  // where 10 s are given
    const World::File file = world.make("f", 4), also = world.open(file.ino, 20);
    const auto lease = world.take(also, GrantKind::breakable, 20);
    REQUIRE(lease.ok());
    CHECK(world->lease_time_left(also.handle, lease.value()) == 0);
    REQUIRE(errno_of(world.truncate(file, kBlock, 30)) == kBreakErrno);
    const std::uint32_t first = world->lease_time_left(also.handle, lease.value());
    CHECK(first > 5'000);
    CHECK(first <= 10'000);
    std::this_thread::sleep_for(300ms);
    const std::uint32_t later = world->lease_time_left(also.handle, lease.value());
    CHECK(later + 250 <= first);
    CHECK(later > 0);
}

TEST_CASE("grants: there are as many as the mount allows, and root finds a place among users") {
    World world(16 << 20, 16);
    const World::File file = world.make("f", 4);
    std::vector<GrantId> held;
    for (std::uint32_t user = 1000; user < 1003; ++user) {
        for (;;) {
            const auto id = world.take(file, GrantKind::temporary, 20, false, 0, 0, user);
            if (!id.ok()) {
                CHECK(errno_of(id) == EUSERS);
                break;
            }
            held.push_back(id.value());
        }
        CHECK(held.size() == (user == 1000 ? 8 : 14));  // half of all; all but what root is kept
    }
    for (int i = 0; i < 2; ++i)
        CHECK(world.take(file, GrantKind::temporary, 20, false, 0, 0, 0).ok());
    CHECK(errno_of(world.take(file, GrantKind::temporary, 20, false, 0, 0, 0)) == EUSERS);
    for (const GrantId id : held) REQUIRE(world->drop_grant(file.handle, id).ok());
    CHECK(world.take(file, GrantKind::temporary, 20, false, 0, 0, 1002).ok());
}
