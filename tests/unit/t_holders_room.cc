// fs/holders delays nobody else: it asks the kernel nothing with the volume's lock held, files do
// not wait for each other, and no cost grows with the number of all holders.
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <random>

#include "base/blocking.h"
#include "base/mutex.h"
#include "core/quarantine.h"
#include "holders/caretaker.h"
#include "holders/live.h"
#include "holders_world.h"

using namespace pmfs;
using namespace pmfs::test;
using namespace std::chrono_literals;

namespace {

std::atomic<unsigned> blocking_calls;

// Something that happens, and is waited for.
class Event {
public:
    void happen() {
        const std::lock_guard held(mutex_);
        happened_ = true;
        changed_.notify_all();
    }
    bool wait() {  // false: it does not
        std::unique_lock held(mutex_);
        return changed_.wait_for(held, 20s, [this] { return happened_; });
    }

private:
    std::mutex mutex_;
    std::condition_variable changed_;
    bool happened_ = false;
};

// A file that is open for writing through the kernel's cache, and its pages.
struct CachedWriter {
    CachedWriter() {
        request.write = true;
        handle = live.open(ino, request, false)->handle;
    }
    LiveTable live{64};
    const InodeNo ino{16};
    OpenRequest request;
    HandleId handle = 0;
    const ByteRange all{0, ~std::uint64_t{0}}, first{0, 4096}, second{4096, 8192};
};

}  // namespace

TEST_CASE(
    "blocking: a call that may block is noticed under a brief lock, shared or not, and no other") {
    set_blocking_watch([](const char *) { ++blocking_calls; });
    SharedMutex brief(Blocking::never), other;
    blocking_calls = 0;
    may_block("nothing is held");
    {
        ExclusiveLock held(other);
        may_block("another lock");
    }
    CHECK(blocking_calls == 0);
    {
        SharedLock held(brief);
        may_block("shared");
        CHECK(blocking_calls == 1);
    }
    {
        ExclusiveLock held(brief);
        (void)process_of_thread(1);  // /proc
    }
    CHECK(blocking_calls > 1);
    const unsigned seen = blocking_calls;
    may_block("behind it");
    CHECK(blocking_calls == seen);
    set_blocking_watch(abort_on_blocking);
}

TEST_CASE("holders: a grant that gets another holder while the old one is checked is kept") {
    World world;
    const World::File file = world.make("f", 4);
    const auto id = world.take(file, GrantKind::temporary, 20, true);
    REQUIRE(id.ok());
    world.dead.insert(20);
    world.while_asked = [&] {
        REQUIRE(world->adopt_grant(file.handle, id.value(), World::user(30)).ok());
    };
    world->lose_grant(file.handle, id.value());
    REQUIRE(world->quarantine().take().size() == 1);  // process 30 lives, and may map
    CHECK(world->quarantine().take()[0].process.pid == 30);
    world.check();
}

TEST_CASE("holders: what a user has in quarantine counts among its grants, and no other user's") {
    constexpr std::uint32_t kGreedy = 1000, kOther = 1001;
    World world(16 << 20, 16);  // half of them for one user, an eighth for root
    const World::File file = world.make("f", 4);
    const auto takes = [&](std::uint32_t uid, std::uint32_t pid) {
        return world.take(file, GrantKind::temporary, pid, true, 0, 0, uid);
    };
    std::vector<GrantId> taken;
    for (std::uint32_t pid = 20; pid < 28; ++pid) {
        const auto id = takes(kGreedy, pid);
        REQUIRE(id.ok());
        taken.push_back(id.value());
    }
    CHECK(errno_of(takes(kGreedy, 30)) == EUSERS);
    for (const GrantId id : taken) world->lose_grant(file.handle, id);
    REQUIRE(world->quarantine().take().size() == 8);
    CHECK(errno_of(takes(kGreedy, 30)) == EUSERS);
    for (std::uint32_t pid = 40; pid < 44; ++pid) CHECK(takes(kOther, pid).ok());
    CHECK(takes(0, 50).ok());
    const std::uint64_t first = world->quarantine().take()[0].id;
    REQUIRE(world->release_quarantine(first, World::user(1, 0)).ok());
    CHECK(takes(kGreedy, 30).ok());
    CHECK(errno_of(takes(kGreedy, 31)) == EUSERS);
}

TEST_CASE("quarantine: only the rows of a page are looked at, and none for their number and sum") {
    constexpr unsigned kRows = 7;
    World world;
    std::vector<World::File> files;
    for (unsigned i = 0; i < kRows; ++i) {
        files.push_back(world.make("f" + std::to_string(i), 4));
        const auto id = world.take(files[i], GrantKind::temporary, 20 + 10 * i, true);
        REQUIRE(id.ok());
        world->lose_grant(files[i].handle, id.value());
    }
    const auto total = [&](std::size_t recounted) {
        world.lives_asked = 0;
        const QuarantineTotal sum = world->quarantine_total().take();
        CHECK(world.lives_asked == 0);
        CHECK(sum.rows == world->quarantine().take().size());
        CHECK(sum.recounted == recounted);
        std::uint64_t held = 0;
        for (const Quarantined &row : world->quarantine().take()) held += row.held;
        CHECK(sum.held == held);
        return sum.held;
    };
    CHECK(total(kRows) == 0);
    CHECK(total(0) == 0);
    REQUIRE(world.truncate(files[2], kBlock, 10).ok());
    CHECK(total(kRows) == 3 * kBlock);
    REQUIRE(world.truncate(files[2], 0, 10).ok());
    CHECK(total(kRows) == 4 * kBlock);
    CHECK(total(0) == 4 * kBlock);

    std::vector<std::uint64_t> ids;
    std::uint64_t next = 0;
    do {
        world.lives_asked = 0;
        const auto page = world->quarantine(next, 3, &next).take();
        CHECK(world.lives_asked == page.size());
        for (const Quarantined &row : page) ids.push_back(row.id);
    } while (next != 0);
    CHECK(ids.size() == kRows);
    CHECK(std::ranges::is_sorted(ids));
    REQUIRE(world->release_quarantine(ids[2], World::user(1, 0)).ok());
    const std::uint64_t held = total(0);
    CHECK((held == 0 || held == 4 * kBlock));  // as the row was of the truncated file or not
    world.check();
}

TEST_CASE("caretaker: a slow end of one file's leases does not delay those of others") {
    Event held_up, may_go_on, other_ran, all_over;
    FairPool pool("test", 4);
    REQUIRE(pool.start().ok());
    Caretaker caretaker({.revoke =
                             [&](InodeNo ino) {
                                 if (ino != InodeNo(1)) return;
                                 held_up.happen();
                                 CHECK(may_go_on.wait());
                             },
                         .process_ended = [](InodeNo) {},
                         .look_again = [](InodeNo) {}},
                        &pool);
    REQUIRE(caretaker.start().ok());
    caretaker.begin_break(InodeNo(1), 0);
    caretaker.wait(InodeNo(1), 1000, [&] { all_over.happen(); });
    CHECK(held_up.wait());
    caretaker.begin_break(InodeNo(2), 0);
    caretaker.wait(InodeNo(2), 1001, [&] { other_ran.happen(); });
    CHECK(other_ran.wait());
    may_go_on.happen();
    CHECK(all_over.wait());
    caretaker.stop();
    pool.finish();
}

TEST_CASE("caretaker: of many watched processes, the end of one is reported, once") {
    constexpr unsigned kMany = 400;
    std::map<std::uint64_t, int> ended;
    Caretaker caretaker({.revoke = [](InodeNo) {},
                         .process_ended = [&](InodeNo record) { ++ended[record.value()]; },
                         .look_again = [](InodeNo) {}},
                        nullptr);
    REQUIRE(caretaker.start().ok());
    std::vector<int> processes;  // (an eventfd, too, becomes readable)
    for (unsigned i = 1; i <= kMany; ++i) {
        const int fd = ::eventfd(0, EFD_CLOEXEC);
        REQUIRE(fd >= 0);
        processes.push_back(fd);
        caretaker.watch(InodeNo(i), FileDescriptor(fd), false);
    }
    const auto end = [&](unsigned record) {
        const std::uint64_t one = 1;
        REQUIRE(::write(processes[record - 1], &one, sizeof one) == sizeof one);
    };
    caretaker.tend(1);
    CHECK(ended.empty());
    end(7), end(8), end(300);
    caretaker.forget(InodeNo(8));
    caretaker.tend(2);
    caretaker.tend(3);
    CHECK(ended == std::map<std::uint64_t, int>{{7, 1}, {300, 1}});
    for (unsigned i = 100; i < 300; ++i) end(i);  // more than are taken at a time
    caretaker.tend(4);
    CHECK(ended.size() == 202);
}

TEST_CASE("quarantine: a block is held until the last record that holds it is removed") {
    constexpr std::uint64_t kBlocks = 512;
    std::mt19937_64 random(9);
    core::Quarantine quarantine;
    std::map<std::uint64_t, std::vector<core::Run>> records;
    for (int step = 0; step < 4000; ++step) {
        const std::uint64_t record = 1 + random() % 12;
        if (random() % 2 == 0 && records.contains(record)) {
            CHECK(quarantine.remove(InodeNo(record)).size() == records[record].size());
            records.erase(record);
        } else {
            std::vector<core::Run> runs;
            for (std::uint64_t at = random() % 40; at < kBlocks - 60; at += 1 + random() % 60) {
                runs.push_back({BlockNo(at), 1 + random() % 30});
                at += runs.back().blocks;
            }
            quarantine.add(InodeNo(record), runs);
            records[record] = std::move(runs);
        }
        std::array<bool, kBlocks> held{};
        for (const auto &[number, runs] : records)
            for (const core::Run &run : runs)
                for (std::uint64_t b = 0; b < run.blocks; ++b) held[(run.start + b).value()] = true;
        std::array<std::uint64_t, 8> bits;
        bits.fill(~0ull);
        quarantine.strike(BlockNo(0), bits);
        std::array<bool, kBlocks> left{};
        for (const core::Run &run : quarantine.without({BlockNo(0), kBlocks}))
            for (std::uint64_t b = 0; b < run.blocks; ++b) left[(run.start + b).value()] = true;
        bool as_held = quarantine.empty() == records.empty();
        for (std::uint64_t b = 0; b < kBlocks; ++b)
            as_held =
                as_held && held[b] == !left[b] && held[b] == ((bits[b / 64] >> (b % 64) & 1) == 0);
        REQUIRE(as_held);
    }
}

TEST_CASE_FIXTURE(
    CachedWriter,
    "live: a cached write learns that its pages may have been filled before it came") {
    const auto refilled = [&](ByteRange bytes) { return live.wrote(handle, bytes).refilled; };

    live.pages_fill(ino, first);
    CHECK(!refilled(first));  // nothing was dropped
    live.pages_go(ino, all);
    live.pages_gone(ino, all);
    CHECK(!refilled(first));  // nothing was filled again
    live.pages_go(ino, all);
    live.pages_gone(ino, all);
    live.pages_fill(ino, first);
    CHECK(!refilled(second));
    CHECK(!refilled(first));  // ... as of the write before

    SUBCASE("while they are being dropped") {
        live.pages_go(ino, all);
        live.pages_fill(ino, first);
        CHECK(refilled(first));
        CHECK(refilled(first));
        live.pages_gone(ino, all);
        CHECK(refilled(first));
        CHECK(!refilled(first));
    }
    SUBCASE("unless they were dropped once more") {
        live.pages_go(ino, first);
        live.pages_fill(ino, first);
        live.pages_gone(ino, first);
        live.pages_go(ino, first);
        live.pages_gone(ino, first);
        CHECK(!refilled(first));
    }
    SUBCASE("not if only some of them were, or something else at the same time") {
        live.pages_go(ino, all);
        live.pages_fill(ino, {0, 8192});
        live.pages_gone(ino, all);
        live.pages_go(ino, first);
        live.pages_gone(ino, first);
        CHECK(refilled(second));
        live.pages_go(ino, all);
        live.pages_fill(ino, first);
        live.pages_go(ino, all);
        live.pages_gone(ino, all);
        live.pages_gone(ino, all);
        CHECK(refilled(first));
    }
    SUBCASE("and learns it when it has ended, not when it had to wait") {
        live.pages_go(ino, all);
        live.pages_gone(ino, all);
        live.pages_fill(ino, first);
        CHECK(!live.wrote(handle, first, false).refilled);
        CHECK(refilled(first));
    }
    SUBCASE("and no write comes any more when nobody has it open for writing") {
        live.pages_go(ino, all);
        live.pages_gone(ino, all);
        const HandleId reader = live.open(ino, {}, false)->handle;
        REQUIRE(live.release(handle));
        const HandleId again = live.open(ino, request, false)->handle;
        live.pages_fill(ino, first);
        CHECK(!live.wrote(again, first).refilled);
        REQUIRE(live.release(again));
        REQUIRE(live.release(reader));
    }
}

TEST_CASE_FIXTURE(CachedWriter,
                  "live: a write was not on its way when its own thread waited for the drop") {
    const auto refilled = [&](const std::vector<std::uint32_t> &askers, std::uint32_t writer) {
        for (const std::uint32_t asker : askers) {
            live.pages_go(ino, all, asker);
            live.pages_gone(ino, {4096, 8192});
            live.pages_fill(ino, first);
        }
        return live.wrote(handle, first, true, writer).refilled;
    };
    CHECK(!refilled({7}, 7));
    CHECK(!refilled({7, 7}, 7));
    CHECK(refilled({7}, 8));
    CHECK(refilled({7, 8}, 7));
    CHECK(refilled({8, 7}, 7));
    CHECK(refilled({8, 7, 7}, 7));
    CHECK(refilled({0}, 0));
    CHECK(refilled({7}, 0));
    CHECK(refilled({7, 0}, 7));
    CHECK(!refilled({7}, 7));  // the drops before the write before do not count
}

TEST_CASE_FIXTURE(
    CachedWriter,
    "live: a cached write learns which of its pages were filled, and not what lies between") {
    const auto wrote = [&](ByteRange filled, ByteRange also, ByteRange bytes) {
        live.pages_go(ino, all);
        live.pages_gone(ino, all);
        live.pages_fill(ino, filled);
        live.pages_fill(ino, also);
        const auto result = live.wrote(handle, bytes);
        return std::pair(result.refilled, result.refilled_part);
    };
    CHECK(wrote(first, {}, {0, 4096}) == std::pair(true, false));
    CHECK(wrote(first, {}, {100, 4096}) == std::pair(false, true));
    CHECK(wrote({0, 8192}, {}, {100, 8192}) == std::pair(true, false));
    CHECK(wrote(first, {}, {100, 200}) == std::pair(false, true));
    CHECK(wrote(first, {}, {100, 8192 + 1}) == std::pair(true, false));
    CHECK(wrote(second, {}, {100, 4096 + 1}) == std::pair(false, true));
    CHECK(wrote({0, 8192}, {}, {100, 4096 + 1}) == std::pair(true, true));
    CHECK(wrote(first, {40960, 45056}, {8192, 9000}) == std::pair(false, false));
    CHECK(wrote(first, {4096, 8192}, {4096, 5000}) == std::pair(false, true));
}

TEST_CASE(
    "live: pages are kept again when all have gone that are older than the last direct store") {
    LiveTable live(64);
    const InodeNo ino(16);
    OpenRequest request;
    request.write = true;
    const HandleId direct = live.open(ino, request, true)->handle;
    const ByteRange all{0, ~std::uint64_t{0}}, first{0, 4096};
    const auto store = [&] { CHECK(!live.wrote(direct, first).past_cache); };
    const auto keeps = [&] {
        const auto opened = live.open(ino, {}, false);
        REQUIRE(live.release(opened->handle));
        return opened->keep_cache;
    };
    CHECK(keeps());
    store();
    CHECK(!keeps());
    CHECK(!keeps());  // the first open has not dropped them yet
    SUBCASE("all of them, and not some") {
        live.pages_go(ino, first);
        live.pages_gone(ino, first);
        CHECK(!keeps());
        live.pages_go(ino, all);
        CHECK(!keeps());
        live.pages_gone(ino, all);
        CHECK(keeps());
    }
    SUBCASE("not if it was stored to meanwhile") {
        live.pages_go(ino, all);
        store();
        live.pages_gone(ino, all);
        CHECK(!keeps());
    }
    SUBCASE("not if another drop was under way at the same time") {
        live.pages_go(ino, all);
        store();
        live.pages_go(ino, all);
        live.pages_gone(ino, all);  // which of them this is, is not known
        CHECK(!keeps());
        live.pages_gone(ino, all);
        CHECK(!keeps());
    }
    SUBCASE("not while a grant stores, or has stored meanwhile") {
        Grant grant;
        grant.file = ino;
        grant.handle = direct;
        grant.id = live.next_grant_id();
        grant.stores = grant.may_store = true;
        live.pages_go(ino, all);
        REQUIRE(live.add_grant(ino, grant, {}).ok());
        live.pages_gone(ino, all);
        live.pages_go(ino, all);
        REQUIRE(live.drop_grant(direct, grant.id));
        live.pages_gone(ino, all);
        CHECK(!keeps());
        live.pages_go(ino, all);
        live.pages_gone(ino, all);
        CHECK(keeps());
    }
    REQUIRE(live.release(direct));
}

TEST_CASE(
    "live: the handles of an inode are kept apart from others, whatever the order of closing") {
    LiveTable live(64);
    const InodeNo one(16), other(32);  // of the same shard
    std::vector<HandleId> mine;
    for (int i = 0; i < 5; ++i) {
        mine.push_back(live.open(one, {}, true)->handle);
        REQUIRE(live.open(other, {}, true));
    }
    const auto open = [&] {
        std::set<HandleId> all;
        for (const HandleInfo &info : live.handles(one)) {
            CHECK(info.ino == one);
            all.insert(info.handle);
        }
        return all;
    };
    CHECK(open() == std::set<HandleId>(mine.begin(), mine.end()));
    for (const int gone : {2, 0, 4, 1, 3}) {
        REQUIRE(live.release(mine[static_cast<std::size_t>(gone)]));
        mine[static_cast<std::size_t>(gone)] = 0;
        std::set<HandleId> left(mine.begin(), mine.end());
        left.erase(0);
        CHECK(open() == left);
    }
    CHECK(live.handles(other).size() == 5);
}

TEST_CASE("pins: there are as many as the mount allows, for all users and for each") {
    World world(16 << 20, 16);  // so 256 pins: 128 a user, 224 for all but root
    const World::File file = world.make("f", 4);
    std::vector<GrantId> pins;
    for (std::uint32_t user = 1000; user < 1003; ++user) {
        for (;;) {  // what is pinned already costs no quota
            const auto id = world.take(file, GrantKind::pin, 20, false, 0, 0, user);
            if (!id.ok()) {
                CHECK(errno_of(id) == EUSERS);
                break;
            }
            pins.push_back(id.value());
            REQUIRE(pins.size() < 1000);
        }
        CHECK(pins.size() == (user == 1000 ? 128 : 224));
    }
    CHECK(world.take(file, GrantKind::pin, 20, false, 0, 0, 0).ok());
    for (int i = 0; i < 100; ++i) REQUIRE(world->drop_grant(file.handle, pins[i]).ok());
    CHECK(world.take(file, GrantKind::pin, 20, false, 0, 0, 1000).ok());
    world->release(file.handle);
    const World::File again = world.open(file.ino);
    for (int i = 0; i < 128; ++i)
        REQUIRE(world.take(again, GrantKind::pin, 20, false, 0, 0, 1000).ok());
    CHECK(errno_of(world.take(again, GrantKind::pin, 20, false, 0, 0, 1000)) == EUSERS);
    // One that maps counts among the grants.
    CHECK(world.take(again, GrantKind::pin, 20, true, 0, 0, 1000).ok());
}

TEST_CASE("caretaker: at its end, waiting operations are dropped without its lock") {
    Caretaker caretaker({}, nullptr);
    struct Asks {  // as an operation does that gives up what it holds
        ~Asks() { still = caretaker.breaking(InodeNo(1)); }
        Caretaker &caretaker;
        bool &still;
    };
    bool still = true;
    auto asks = std::shared_ptr<Asks>(new Asks{caretaker, still});
    caretaker.run_at(~std::uint64_t{0}, 1, [asks] {});
    caretaker.run([asks] {});
    asks.reset();
    caretaker.stop();
    CHECK_FALSE(still);
}

TEST_CASE("caretaker: operations that are due at the same time run in parallel") {
    FairPool pool("pmfs-test", 8);
    REQUIRE(pool.start().ok());
    Caretaker caretaker({}, &pool);
    REQUIRE(caretaker.start().ok());
    Event first, second;
    bool beside = false;
    caretaker.run_at(0, 1, [&] {
        first.happen();
        beside = second.wait();
    });
    caretaker.run_at(0, 2, [&] { second.happen(); });
    CHECK(first.wait());
    CHECK(second.wait());
    caretaker.stop();
    pool.finish();
    CHECK(beside);
}
