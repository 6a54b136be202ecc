// `-o sync` and `-o dirsync` on an image file: an answer waits for the disk.
//
// Holds docs/posix.md "Durability".
#include <doctest/doctest.h>
#include <sys/stat.h>

#include <thread>

#include "fixture.h"

using namespace pmfs;
using namespace pmfs::test;

namespace {

// A volume that commits when an operation waits for it, and never by itself.
Mounted mounted(bool sync, bool dirsync) {
    MountOptions options;
    options.commit_interval_ms = 1'000'000;
    front::DispatchOptions dispatch;
    dispatch.sync = sync;
    dispatch.dirsync = dirsync;
    return Mounted(Medium::image, options, dispatch);
}

bool durable(Mounted &mounted) {
    const VolumeInfo info = mounted.volume().info();
    return info.tx_durable == info.tx_last;
}

struct Act {
    const char *name;
    bool of_directory;
    std::function<int(Wire &)> run;
};

std::vector<Act> acts(OpenFile &file) {
    return {
        {"create", true, [&](Wire &w) { return (file = w.create("f")).error; }},
        {"mkdir", true, [](Wire &w) { return w.make_node("d", S_IFDIR | 0755) == 0 ? EIO : 0; }},
        {"mknod", true, [](Wire &w) { return w.make_node("p", S_IFIFO | 0600) == 0 ? EIO : 0; }},
        {"link", true, [&](Wire &w) { return w.link(file.node, "f2"); }},
        {"rename", true, [](Wire &w) { return w.rename("f2", "f3"); }},
        {"unlink", true, [](Wire &w) { return w.unlink("f3"); }},
        {"write", false, [&](Wire &w) { return w.write(file, 0, std::string(100000, 'x')); }},
        {"truncate", false, [&](Wire &w) { return w.truncate(file.node, 5000); }},
        {"fallocate", false, [&](Wire &w) { return w.fallocate(file, 0, 8192, 8192); }},
        {"setxattr", false, [&](Wire &w) { return w.setxattr(file.node, "user.a", "value"); }},
        {"removexattr", false, [&](Wire &w) { return w.removexattr(file.node, "user.a"); }},
    };
}

}  // namespace

TEST_CASE("sync: with -o sync every change is on the disk when it is answered") {
    Mounted m = mounted(true, false);
    OpenFile file;
    for (const Act &act : acts(file)) {
        CAPTURE(std::string(act.name));
        CHECK(act.run(m.wire()) == 0);
        CHECK(durable(m));
    }
}

TEST_CASE(
    "sync: with -o dirsync changes of directories are, and other changes are not waited for") {
    Mounted m = mounted(false, true);
    OpenFile file;
    for (const Act &act : acts(file)) {
        CAPTURE(std::string(act.name));
        CHECK(act.run(m.wire()) == 0);
        CHECK(durable(m) == act.of_directory);
    }
}

TEST_CASE("sync: without either nothing waits") {
    Mounted m = mounted(false, false);
    OpenFile file;
    for (const Act &act : acts(file)) {
        CAPTURE(std::string(act.name));
        CHECK(act.run(m.wire()) == 0);
        CHECK_FALSE(durable(m));
    }
}

TEST_CASE("sync: many requests that wait at once are all answered, and everything is on the disk") {
    Mounted m = mounted(true, false);
    std::atomic<int> made{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < 8; ++t)
        threads.emplace_back([&, t] {
            for (int i = 0; i < 20; ++i)
                made += m.wire().create(std::to_string(t) + "-" + std::to_string(i)).error == 0;
        });
    for (std::thread &thread : threads) thread.join();
    CHECK(made == 160);
    CHECK(durable(m));
}
