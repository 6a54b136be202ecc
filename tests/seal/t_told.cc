// Which notifications the kernel gets, and that they come before the answer that makes its caches
// stale (docs/coherence.md; tests/mount/t_coherence.py asks a real kernel).
//
// Holds docs/coherence.md "The server changes something".
#include <doctest/doctest.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "base/fair_pool.h"
#include "fixture.h"

using namespace pmfs;
using namespace pmfs::test;

namespace {

using Sent = std::vector<std::string>;
constexpr As kUser{.uid = 1000, .gid = 1000};

std::string node_text(const OpenFile &file) {
    return std::to_string(file.node);
}

// A file of some blocks with set-id bits; nothing is open, nothing was sent.
std::uint64_t set_id_file(Wire &wire, const char *name) {
    const OpenFile file = wire.create(name);
    REQUIRE(wire.write(file, 0, pattern(4 * kBlock, 1)) == 0);
    wire.release(file);
    fuse_setattr_in mode{};
    mode.valid = FATTR_MODE;
    mode.mode = S_IFREG | 06777;
    REQUIRE(wire.setattr(file.node, mode) == 0);
    return file.node;
}

Reply write_and_kill(Wire &wire, const OpenFile &file, std::string_view bytes) {
    fuse_write_in in{};
    in.fh = file.handle;
    in.size = static_cast<std::uint32_t>(bytes.size());
    in.write_flags = FUSE_WRITE_KILL_SUIDGID;
    return wire.call(FUSE_WRITE, file.node, bytes_text(in) + std::string(bytes), kUser);
}

double attr_seconds(Wire &wire, std::uint64_t node) {
    const Reply reply = wire.call(FUSE_GETATTR, node, bytes_text(fuse_getattr_in{}));
    REQUIRE(reply.error == 0);
    const auto attr = reply.as<fuse_attr_out>();
    return static_cast<double>(attr.attr_valid) + attr.attr_valid_nsec * 1e-9;
}

std::uint64_t seek(Wire &wire, const OpenFile &file, std::uint64_t offset, unsigned whence) {
    fuse_lseek_in in{};
    in.fh = file.handle;
    in.offset = offset;
    in.whence = whence;
    const Reply reply = wire.call(FUSE_LSEEK, file.node, bytes_text(in));
    REQUIRE(reply.error == 0);
    return reply.as<fuse_lseek_out>().offset;
}

}  // namespace

TEST_CASE(
    "told: attributes are dropped before the answer to a request that cleared set-id bits, and "
    "only then") {
    Mounted mounted(Medium::memory);
    Wire &wire = mounted.wire();
    const std::uint64_t node = set_id_file(wire, "f");
    const std::string attr = "attr " + std::to_string(node);
    OpenFile file = wire.open(node, O_RDWR, kUser);
    wire.sent();
    REQUIRE(write_and_kill(wire, file, "x").error == 0);
    CHECK(wire.sent() == Sent{attr, "reply 0"});
    REQUIRE(write_and_kill(wire, file, "x").error == 0);
    CHECK(wire.sent() == Sent{"reply 0"});

    const OpenFile other{.node = set_id_file(wire, "g")};
    OpenFile opened = wire.open(other.node, O_RDWR, kUser);
    wire.sent();
    REQUIRE(wire.fallocate(opened, 0, 0, 8 * kBlock, kUser) == 0);
    CHECK(wire.sent() == Sent{"attr " + node_text(other), "reply 0"});
    CHECK((wire.getattr(other.node).mode & 07777) == 0777);

    const OpenFile stored{.node = set_id_file(wire, "i")};
    opened = wire.open(stored.node, O_RDWR | O_DIRECT, kUser);
    pmfs_io_grant grant{};
    grant.version = PMFS_ABI_VERSION;
    grant.kind = PMFS_GRANT_TEMPORARY;
    grant.flags = PMFS_GRANT_STORE;
    wire.sent();
    REQUIRE(wire.ioctl(opened, PMFS_IOC_GRANT, &grant, kUser) == 0);
    CHECK(wire.sent().back() == "reply 0");
    CHECK((wire.getattr(stored.node).mode & 07777) == 0777);

    const OpenFile third{.node = set_id_file(wire, "h")};
    wire.sent();
    fuse_open_in in{};
    in.flags = O_WRONLY | O_TRUNC;
    in.open_flags = FUSE_OPEN_KILL_SUIDGID;
    const Reply reply = wire.call(FUSE_OPEN, third.node, bytes_text(in), kUser);
    REQUIRE(reply.error == 0);
    CHECK(wire.sent() == Sent{"attr " + node_text(third), "reply 0"});
    CHECK((wire.getattr(third.node).mode & 07777) == 0777);
}

TEST_CASE("told: pages under a direct write beside a cached reader are dropped before its answer") {
    Mounted mounted(Medium::memory);
    Wire &wire = mounted.wire();
    const OpenFile writer = wire.create("f");
    REQUIRE(wire.write(writer, 0, pattern(8 * kBlock, 1)) == 0);
    wire.release(writer);
    const OpenFile direct = wire.open(writer.node, O_RDWR | O_DIRECT);
    REQUIRE(direct.direct());
    OpenFile cached = wire.open(writer.node, O_RDWR);
    REQUIRE(!cached.direct());
    CHECK(cached.keeps_pages());
    wire.sent();
    REQUIRE(wire.write(direct, 2 * kBlock, pattern(3 * kBlock, 2)) == 0);
    CHECK(wire.sent() == Sent{"pages " + node_text(direct) + " 8192 12288", "reply 0"});
    REQUIRE(wire.write(direct, 8 * kBlock, pattern(kBlock, 3)) == 0);  // one that grows the file
    CHECK(wire.sent() == Sent{"pages " + node_text(direct) + " 32768 4096", "reply 0"});
    REQUIRE(wire.write(cached, 0, "x") == 0);  // by its own kernel, through those pages
    CHECK(wire.sent() == Sent{"reply 0"});
    wire.release(cached);

    SUBCASE("and without one, the next cached open keeps none") {
        wire.sent();
        REQUIRE(wire.write(direct, 0, pattern(kBlock, 4)) == 0);
        CHECK(wire.sent() == Sent{"reply 0"});
        cached = wire.open(writer.node, O_RDONLY);
        CHECK(!cached.keeps_pages());
        wire.release(cached);
        cached = wire.open(writer.node, O_RDONLY);
        CHECK(cached.keeps_pages());
    }
}

TEST_CASE(
    "told: no open keeps pages from before a direct store until they have gone, whoever opened the "
    "file before") {
    Mounted mounted(Medium::memory);
    Wire &wire = mounted.wire();
    const OpenFile writer = wire.create("f");
    wire.release(writer);
    const OpenFile direct = wire.open(writer.node, O_RDWR | O_DIRECT);
    REQUIRE(wire.write(direct, 0, pattern(kBlock, 1)) == 0);
    std::mutex mutex;
    std::condition_variable changed;
    bool goes = false;
    wire.on_invalidate = [&](std::uint64_t) {
        std::unique_lock held(mutex);
        changed.wait(held, [&] { return goes; });
    };
    wire.sent();
    const std::string how = bytes_text(fuse_open_in{});
    wire.post(FUSE_OPEN, writer.node, how, kUser);
    wire.post(FUSE_OPEN, writer.node, how);
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    CHECK(wire.sent().empty());
    {
        const std::lock_guard held(mutex);
        goes = true;
        changed.notify_all();
    }
    const OpenFile third = wire.open(writer.node, O_RDONLY);
    CHECK(third.error == 0);
}

TEST_CASE("told: an open that empties the file does not wait for pages to be dropped") {
    // With -o writeback the kernel writes none of them back until it has the answer.
    Mounted mounted(Medium::memory, {}, {.writeback = true});
    Wire &wire = mounted.wire();
    const OpenFile writer = wire.create("f");
    wire.release(writer);
    const OpenFile direct = wire.open(writer.node, O_RDWR | O_DIRECT);
    REQUIRE(wire.write(direct, 0, pattern(kBlock, 1)) == 0);
    wire.sent();
    for (const int flags : {O_RDWR | O_TRUNC | O_DIRECT, O_RDWR | O_TRUNC}) {
        const OpenFile emptied = wire.open(writer.node, flags);
        REQUIRE(emptied.error == 0);
        for (const std::string &text : wire.sent()) CHECK(text.substr(0, 5) != "pages");
        wire.release(emptied);
    }
}

TEST_CASE(
    "told: a cached write that had to wait for a lease still gives up pages that were filled "
    "before it came") {
    Mounted mounted(Medium::memory);
    Wire &wire = mounted.wire();
    const OpenFile file = wire.create("f");
    REQUIRE(wire.write(file, 0, pattern(kBlock, 1)) == 0);
    const OpenFile holder = wire.open(file.node, O_RDWR | O_DIRECT);
    pmfs_io_grant lease{};
    lease.version = PMFS_ABI_VERSION;
    lease.kind = PMFS_GRANT_BREAKABLE;
    REQUIRE(wire.ioctl(holder, PMFS_IOC_GRANT, &lease) == 0);
    const InodeNo ino(file.node);
    const ByteRange all{0, ~std::uint64_t{0}};
    mounted.volume().pages_go(ino, all);
    mounted.volume().pages_gone(ino, all);
    mounted.volume().pages_fill(ino, {0, 2 * kBlock});
    wire.sent();
    fuse_write_in in{};
    in.fh = file.handle;
    in.offset = kBlock;
    in.size = kBlock;
    wire.post(FUSE_WRITE, file.node, bytes_text(in) + pattern(kBlock, 2), {.pid = 1});
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    CHECK(wire.sent().empty());
    pmfs_io_release_grant release{};
    release.version = PMFS_ABI_VERSION;
    release.grant = lease.grant;
    REQUIRE(wire.ioctl(holder, PMFS_IOC_RELEASE_GRANT, &release) == 0);
    const std::string dropped = "pages " + node_text(file) + " 4096 4096";
    for (int i = 0; i < 1000 && wire.count_sent(dropped) == 0; ++i)
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    CHECK(wire.count_sent(dropped) == 1);
}

TEST_CASE(
    "told: what the kernel stores into a hole is written back before st_blocks, seeks and "
    "direct reads are answered") {
    Mounted mounted(Medium::memory);
    Wire &wire = mounted.wire();
    const OpenFile file = wire.create("f");
    REQUIRE(wire.truncate(file.node, 64 * kBlock) == 0);
    const std::string page(kBlock, 'p');
    unsigned asked = 0;
    wire.on_invalidate = [&](std::uint64_t node) {
        ++asked;
        CHECK(wire.write_back(node, file.handle, (20 + asked) * kBlock, page) == 0);
    };
    CHECK(wire.getattr(file.node).blocks == 8);
    CHECK(asked == 1);
    CHECK(seek(wire, file, 0, SEEK_DATA) == 21 * kBlock);
    CHECK(asked == 2);
    CHECK(seek(wire, file, 21 * kBlock, SEEK_HOLE) == 24 * kBlock);
    CHECK(asked == 3);
    const OpenFile direct = wire.open(file.node, O_RDONLY | O_DIRECT);
    CHECK(wire.read(direct, 24 * kBlock, kBlock).text() == page);
    CHECK(asked == 4);

    // The kernel is not asked where nothing can be unseen: no hole is left, or no handle may store.
    REQUIRE(wire.fallocate(file, 0, 0, 64 * kBlock) == 0);
    for (unsigned block = 0; block < 64; block += 16)
        REQUIRE(wire.write(file, block * kBlock, std::string(16 * kBlock, 'w')) == 0);
    wire.getattr(file.node);
    CHECK(seek(wire, file, 0, SEEK_HOLE) == 64 * kBlock);
    CHECK(asked == 4);
    REQUIRE(wire.truncate(file.node, 128 * kBlock) == 0);
    wire.release(file);
    wire.getattr(file.node);
    CHECK(wire.read(direct, 0, kBlock).error == 0);
    CHECK(asked == 4);
    wire.release(direct);
}

TEST_CASE(
    "told: a mode that the kernel has no answer for comes without write-back, or it would drop "
    "it") {
    Mounted mounted(Medium::memory);
    Wire &wire = mounted.wire();
    const std::uint64_t node = set_id_file(wire, "f");
    OpenFile file = wire.open(node, O_RDWR, kUser);
    REQUIRE(wire.truncate(node, 64 * kBlock) == 0);
    unsigned asked = 0;
    wire.on_invalidate = [&](std::uint64_t) { ++asked; };
    wire.getattr(node);
    CHECK(asked == 1);
    SUBCASE("of a list") {
        const std::string list(
            "\2\0\0\0\1\0\6\0\xff\xff\xff\xff\4\0\0\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff",
            28);
        REQUIRE(wire.setxattr(node, "system.posix_acl_access", list) == 0);
        CHECK((wire.getattr(node).mode & 0777) == 0600);
    }
    SUBCASE("of a write") {
        REQUIRE(write_and_kill(wire, file, "x").error == 0);
        CHECK((wire.getattr(node).mode & 07777) == 0777);
    }
    const unsigned by_then = asked;         // (an attribute notification is no write-back)
    CHECK(wire.getattr(node).blocks != 0);  // and tar does not take it for one hole
    CHECK(asked == by_then);
    wire.release(file);
    wire.getattr(node);  // which the kernel keeps
    file = wire.open(node, O_RDWR, kUser);
    asked = 0;
    wire.getattr(node);
    CHECK(asked == 1);
    wire.release(file);
}

TEST_CASE(
    "told: a cached write gives up pages that were dropped, and filled again, while it was on its "
    "way") {
    Mounted mounted(Medium::memory);
    Wire &wire = mounted.wire();
    const OpenFile cached = wire.create("f"), other = wire.create("g");
    REQUIRE(wire.write(cached, 0, pattern(8 * kBlock, 1)) == 0);
    REQUIRE(wire.write(other, 0, pattern(8 * kBlock, 1)) == 0);
    const std::string node = "pages " + node_text(cached);
    pmfs_io_prepare prepare{};
    prepare.version = PMFS_ABI_VERSION;
    REQUIRE(wire.ioctl(cached, PMFS_IOC_PREPARE, &prepare) == 0);
    wire.sent();
    REQUIRE(wire.write(other, 0, pattern(kBlock, 2)) == 0);
    CHECK(wire.sent() == Sent{"reply 0"});
    CHECK(wire.read(cached, 2 * kBlock, kBlock).error == 0);
    wire.sent();
    const As writer{.pid = 1};  // this process waited for the drops
    REQUIRE(wire.write(cached, kBlock, pattern(2 * kBlock, 2), writer) == 0);
    CHECK(wire.sent() == Sent{node + " 4096 8192", "reply 0"});
    REQUIRE(wire.write(cached, kBlock, pattern(2 * kBlock, 3)) == 0);  // and the next one does not
    CHECK(wire.sent() == Sent{"reply 0"});

    // Pages of one range go, and those of another one are written to.
    const OpenFile direct = wire.open(cached.node, O_RDWR | O_DIRECT);
    for (const std::uint64_t block : {std::uint64_t{6}, std::uint64_t{3}}) {
        REQUIRE(wire.write(direct, 2 * kBlock, pattern(2 * kBlock, 4)) == 0);
        CHECK(wire.read(cached, 2 * kBlock, 2 * kBlock).error == 0);
        wire.sent();
        REQUIRE(wire.write(cached, block * kBlock + 5, "some words") == 0);
        CHECK(wire.sent() == (block == 6 ? Sent{"reply 0"} : Sent{node + " 12293 10", "reply 0"}));
    }
    // No write can be on its way of a thread that waited for the drop (and not, as above, for a
    // write past the cache, which may be asynchronous).
    REQUIRE(wire.ioctl(cached, PMFS_IOC_PREPARE, &prepare) == 0);
    CHECK(wire.read(cached, 2 * kBlock, 2 * kBlock).error == 0);
    wire.sent();
    REQUIRE(wire.write(cached, 3 * kBlock + 5, "some words") == 0);
    CHECK(wire.sent() == Sent{"reply 0"});
    wire.release(direct);
    wire.release(cached);
    wire.release(other);
}

TEST_CASE("told: attributes that may change without notice must not be cached") {
    Mounted mounted(Medium::memory);
    Wire &wire = mounted.wire();
    OpenFile file = wire.create("f");
    REQUIRE(wire.write(file, 0, pattern(kBlock, 1)) == 0);
    CHECK(attr_seconds(wire, file.node) > 0);  // dense: a store changes no attribute but times
    REQUIRE(wire.truncate(file.node, 2 * kBlock) == 0);
    CHECK(attr_seconds(wire, file.node) == 0);
    wire.release(file);
    CHECK(attr_seconds(wire, file.node) > 0);
    wire.sent();
    file = wire.open(file.node, O_RDWR);  // what the kernel kept is not to be kept any more
    CHECK(wire.sent() == Sent{"attr " + node_text(file), "reply 0"});
    wire.release(file);
    file = wire.open(file.node, O_RDWR | O_DIRECT);  // it may write asynchronously
    CHECK(attr_seconds(wire, file.node) == 0);
    wire.release(file);
    CHECK(attr_seconds(wire, file.node) > 0);
}

TEST_CASE("told: a write-back that is stored in part is an error, and a write a short count") {
    Mounted mounted(Medium::memory);
    Wire &wire = mounted.wire();
    const OpenFile filler = wire.create("filler"), file = wire.create("f");
    std::uint64_t end = 0;
    for (std::uint64_t step : {1024, 32, 1})
        for (; wire.fallocate(filler, 0, end * kBlock, step * kBlock) == 0;) end += step;
    REQUIRE(wire.fallocate(filler, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 16 * kBlock) ==
            0);
    const std::uint64_t blocks = 32;
    REQUIRE(wire.truncate(file.node, blocks * kBlock) == 0);
    const std::string bytes(blocks * kBlock, 'b');
    CHECK(wire.write_back(file.node, file.handle, 0, bytes) == ENOSPC);
    REQUIRE(wire.truncate(file.node, 0) == 0);
    fuse_write_in in{};
    in.fh = file.handle;
    in.size = static_cast<std::uint32_t>(bytes.size());
    const Reply reply = wire.call(FUSE_WRITE, file.node, bytes_text(in) + bytes);
    REQUIRE(reply.error == 0);
    CHECK(reply.as<fuse_write_out>().size > 0);
    CHECK(reply.as<fuse_write_out>().size < bytes.size());
}

TEST_CASE("told: attributes are dropped before the answer to each ioctl that changes them") {
    Mounted mounted(Medium::memory);
    Wire &wire = mounted.wire();
    const OpenFile file = wire.create("f");
    REQUIRE(wire.truncate(file.node, 4 * kBlock) == 0);
    const auto told = [&] {
        const Sent sent = wire.sent();
        return sent.size() >= 2 && sent[sent.size() - 2] == "attr " + node_text(file);
    };
    REQUIRE(prepare_ioctl(wire, file) == 0);
    CHECK(told());
    REQUIRE(seal_ioctl(wire, file, PMFS_SEAL_FULL) == 0);
    CHECK(told());
    REQUIRE(unseal_ioctl(wire, file) == 0);
    CHECK(told());
    info_of(wire, file);
    CHECK(!told());
}

TEST_CASE("told: the listing of a directory is dropped when it is moved to another parent") {
    Mounted mounted(Medium::memory);
    Wire &wire = mounted.wire();
    const std::uint64_t from = wire.make_node("from", S_IFDIR | 0755);
    const std::uint64_t moved = wire.make_node("moved", S_IFDIR | 0755);
    const fuse_rename_in in{.newdir = from};
    const auto names = [](std::string a, const std::string &b) {
        return (a += '\0') + b + std::string(1, '\0');
    };
    wire.sent();
    REQUIRE(wire.call(FUSE_RENAME, FUSE_ROOT_ID, bytes_text(in) + names("moved", "m")).error == 0);
    CHECK(wire.sent() == Sent{"pages " + std::to_string(moved) + " 0 0", "reply 0"});
    REQUIRE(wire.rename("from", "to") == 0);
    CHECK(wire.sent() == Sent{"reply 0"});
}

TEST_CASE(
    "fair pool: one user's blocked jobs keep nobody else waiting, and a file's keep their order") {
    std::mutex mutex;
    std::condition_variable changed;
    bool blocked = true;
    std::vector<int> order;
    unsigned done = 0;
    FairPool pool("pool", 4);
    REQUIRE(pool.start().ok());
    const auto wait_for = [&](unsigned count) {
        std::unique_lock held(mutex);
        return changed.wait_for(held, std::chrono::seconds(20), [&] { return done >= count; });
    };
    for (std::uint64_t file = 0; file < 50; ++file)
        pool.submit({1, file, [&] {
                         std::unique_lock held(mutex);
                         changed.wait(held, [&] { return !blocked; });
                     }});
    for (int i = 0; i < 20; ++i)
        pool.submit({2, 1000, [&, i] {
                         const std::lock_guard held(mutex);
                         order.push_back(i);
                         ++done;
                         changed.notify_all();
                     }});
    CHECK(wait_for(20));
    CHECK(std::is_sorted(order.begin(), order.end()));
    {
        const std::lock_guard held(mutex);
        blocked = false;
        changed.notify_all();
    }
    pool.finish();
    CHECK(!pool.submit({1, 1, [] {}}));
}

TEST_CASE("fair pool: lengthy jobs of many users have threads of their own") {
    std::mutex mutex;
    std::condition_variable changed;
    bool blocked = true;
    unsigned lengthy = 0, second = 0, others = 0;
    FairPool pool("pool", 4, 0, 4);
    REQUIRE(pool.start().ok());
    const auto wait_for = [&](const unsigned &count, unsigned least) {
        std::unique_lock held(mutex);
        return changed.wait_for(held, std::chrono::seconds(20), [&] { return count >= least; });
    };
    const auto block = [&] {
        std::unique_lock held(mutex);
        ++lengthy;
        changed.notify_all();
        changed.wait(held, [&] { return !blocked; });
    };
    // However many a user has, another one's begins.
    for (std::uint64_t file = 0; file < 10; ++file) pool.submit({1, file, block, true});
    CHECK(wait_for(lengthy, 1));
    pool.submit({2, 100,
                 [&] {
                     {
                         const std::lock_guard held(mutex);
                         ++second;
                         changed.notify_all();
                     }
                     block();
                 },
                 true});
    CHECK(wait_for(second, 1));
    // However many there are, what is short begins.
    for (std::uint32_t user = 3; user < 20; ++user) pool.submit({user, 100 + user, block, true});
    pool.submit({20, 200, [&] {
                     const std::lock_guard held(mutex);
                     ++others;
                     changed.notify_all();
                 }});
    CHECK(wait_for(others, 1));
    {
        const std::lock_guard held(mutex);
        CHECK(lengthy <= 4);
        blocked = false;
        changed.notify_all();
    }
    pool.finish();
    CHECK(lengthy == 28);
}

TEST_CASE("fair pool: a job wakes one thread, and not all") {
    constexpr unsigned kJobs = 300;
    std::mutex mutex;
    std::condition_variable changed;
    unsigned done = 0;
    FairPool pool("pool", 32);
    REQUIRE(pool.start().ok());
    const auto switches = [] {
        rusage usage{};
        ::getrusage(RUSAGE_SELF, &usage);
        return usage.ru_nvcsw;
    };
    const long before = switches();
    for (unsigned job = 0; job < kJobs; ++job) {
        pool.submit({1, 0, [&] {
                         const std::lock_guard held(mutex);
                         ++done;
                         changed.notify_all();
                     }});
        std::unique_lock held(mutex);
        REQUIRE(changed.wait_for(held, std::chrono::seconds(20), [&] { return done > job; }));
    }
    // (10 for each job; 45 and more when all threads are woken, twice.)
    CHECK(switches() - before < 20L * kJobs);
}

TEST_CASE("fair pool: a user that submits again and again waits for its turn") {
    FairPool pool("pool", 1);
    std::atomic<int> turns{0}, before{-1};
    std::atomic<bool> over{false};
    std::function<void()> again = [&] {
        ++turns;
        if (!over && turns < 10'000) pool.submit({1, std::uint64_t(turns), again});
    };
    pool.submit({1, 0, again});
    pool.submit({2, 1 << 20, [&] {
                     before = turns.load();
                     over = true;
                     over.notify_all();
                 }});
    REQUIRE(pool.start().ok());
    over.wait(false);
    pool.finish();
    CHECK(before <= 1);
}
