// Every operation that changes metadata: all there or not at all, wherever power is cut.
#include <doctest/doctest.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/stat.h>

#include "sweep.h"

using namespace pmfs;
using namespace pmfs::test;

namespace {

void check(const Sweep &sweep) {
    for (const auto flavour : {SimMedia::Flavour::dax, SimMedia::Flavour::image}) {
        const Swept swept = run(sweep, flavour);
        for (const std::string &violation : swept.violations) MESSAGE(violation);
        CHECK(swept.violations.empty());
        CHECK(swept.cuts > 10);
    }
    const Swept parked = run_parked(sweep);
    for (const std::string &violation : parked.violations) MESSAGE(violation);
    CHECK(parked.violations.empty());
    CHECK(parked.cuts != 0);
}

constexpr std::uint32_t kFile = S_IFREG | 0644, kDir = S_IFDIR | 0755;

// Files with content 0xDD were deleted: these bytes must never be read again.
void with_leftovers(User &u) {
    u.make("old", kFile);
    u.write("old", 0, 200000, 0xdd);
    u.unlink("old");
    u.make("d", kDir);
    u.make("f", kFile);
    u.write("f", 0, 10000, 1);
}

}  // namespace

TEST_CASE("crash: making files, directories, nodes and symlinks") {
    check({"make",
           with_leftovers,
           {[](User &u) { u.make("a", kFile); }, [](User &u) { u.make("d/sub", kDir); },
            [](User &u) { u.make("d/fifo", S_IFIFO | 0600); },
            [](User &u) { u.symlink("short", "target"); },
            [](User &u) { u.symlink("d/long", std::string(3000, 'x')); },
            [](User &u) { u.symlink("longest", std::string(4095, 'z')); },
            [](User &u) { u.link("f", "d/f2"); }}});
}

TEST_CASE("crash: removing names, and freeing their files") {
    check({"remove",
           [](User &u) {
               with_leftovers(u);
               u.link("f", "d/f2");
               u.make("d/e", kDir);
               u.symlink("s", std::string(4095, 'y'));
               u.set_xattr("s", "user.big", 9000, 'b');
           },
           {[](User &u) { u.unlink("f"); }, [](User &u) { u.unlink("d/f2"); },
            [](User &u) { u.rmdir("d/e"); }, [](User &u) { u.unlink("s"); },
            [](User &u) { u.rmdir("d"); }}});
}

TEST_CASE("crash: renaming, replacing and exchanging") {
    check({"rename",
           [](User &u) {
               with_leftovers(u);
               u.make("g", kFile);
               u.write("g", 0, 5000, 2);
               u.make("d/x", kDir);
               u.make("e", kDir);
               u.make("e/y", kDir);
           },
           {[](User &u) { u.rename("f", "f2"); }, [](User &u) { u.rename("f2", "d/f"); },
            [](User &u) { u.rename("d/f", "g"); }, [](User &u) { u.rename("d/x", "e/x"); },
            [](User &u) { u.rename("e/x", "e/y"); },
            [](User &u) { u.rename("g", "e", RENAME_EXCHANGE); }}});
}

TEST_CASE("crash: a rename that leaves a whiteout leaves it with the new name, or nothing moved") {
    check({"whiteout",
           [](User &u) {
               with_leftovers(u);
               u.make("g", kFile);
               u.write("g", 0, 5000, 2);
               u.make("d/x", kDir);
               u.make("d/y", kFile);
               u.make("e", kDir);
               u.make("e/z", kDir);
           },
           {[](User &u) { u.rename("f", "f2", RENAME_WHITEOUT); },
            [](User &u) { u.rename("f2", "g", RENAME_WHITEOUT); },
            [](User &u) { u.rename("d/y", "e/y", RENAME_WHITEOUT | RENAME_NOREPLACE); },
            [](User &u) { u.rename("d/x", "e/z", RENAME_WHITEOUT); },
            [](User &u) { u.rename("g", "f2"); },
            [](User &u) { u.rename("d/x", "e/y", RENAME_WHITEOUT); },
            [](User &u) { u.unlink("d/x"); }}});
}

TEST_CASE("crash: a file without a name is gone, and one that was given a name has all of it") {
    check({"nameless",
           with_leftovers,
           {[](User &u) { u.make_nameless("a"); }, [](User &u) { u.make_nameless("b"); },
            [](User &u) { u.make_nameless("c"); }, [](User &u) { u.write_nameless("b", 20000, 7); },
            [](User &u) { u.name("b", "d/b"); }, [](User &u) { u.name("c", "c"); },
            [](User &u) { u.name("c", "d/c"); }, [](User &u) { u.close_nameless("a"); },
            [](User &u) { u.close_nameless("b"); }, [](User &u) { u.close_nameless("c"); },
            [](User &u) { u.unlink("d/b"); }}});
}

TEST_CASE("crash: writing into holes, over data and past the end") {
    check(
        {"write",
         with_leftovers,
         {[](User &u) { u.write("f", 0, 8192, 3); }, [](User &u) { u.write("f", 9000, 3000, 4); },
          [](User &u) { u.write("f", 40000, 5000, 5); }, [](User &u) { u.write("f", 20001, 7, 6); },
          [](User &u) { u.make("n", kFile); }, [](User &u) { u.write("n", 0, 100000, 7); },
          [](User &u) { u.write("n", 100000, 1, 8); }},
         true});
}

TEST_CASE("crash: truncating in both directions never shows old bytes") {
    check({"truncate",
           with_leftovers,
           {[](User &u) { u.truncate("f", 5001); }, [](User &u) { u.truncate("f", 9000); },
            [](User &u) { u.allocate("f", FALLOC_FL_KEEP_SIZE, 12288, 40000); },
            [](User &u) { u.truncate("f", 9000); }, [](User &u) { u.truncate("f", 100); },
            [](User &u) { u.truncate("f", 300000); },
            [](User &u) { u.write("f", 100000, 4096, 3); }, [](User &u) { u.truncate("f", 0); }},
           true});
}

TEST_CASE("crash: a truncation of more extents than a transaction takes") {
    check({"truncate many",
           [](User &u) {
               u.make("f", kFile);
               for (unsigned i = 0; i < 60; ++i) u.write("f", i * 8192, 4096, 1);
           },
           {[](User &u) { u.truncate("f", 4096); }},
           false,
           4 << 20,
           media::kJournalSizeMin,
           4});
}

TEST_CASE("crash: opening with O_TRUNC, and closing files that have lost their names") {
    check({"open and close",
           [](User &u) {
               with_leftovers(u);
               u.make("many", kFile);
               for (unsigned i = 0; i < 40; ++i) u.write("many", i * 8192, 4096, 1);
               u.set_xattr("many", "user.big", 9000, 'b');
               u.link("f", "d/f2");
           },
           {[](User &u) { u.open("f", true); }, [](User &u) { u.open("many"); },
            [](User &u) { u.unlink("many"); }, [](User &u) { u.close("many"); },
            [](User &u) { u.unlink("f"); }, [](User &u) { u.close("f"); }},
           true});
}

TEST_CASE("crash: allocating, punching and zeroing") {
    check(
        {"fallocate",
         with_leftovers,
         {[](User &u) { u.allocate("f", 0, 0, 60000); },
          [](User &u) { u.allocate("f", FALLOC_FL_KEEP_SIZE, 60000, 60000); },
          [](User &u) { u.write("f", 30000, 10000, 3); },
          [](User &u) { u.allocate("f", FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 8192); },
          [](User &u) { u.allocate("f", FALLOC_FL_ZERO_RANGE, 28672, 8192); },
          [](User &u) { u.truncate("f", 120000); }},
         true});
}

TEST_CASE("crash: attributes of every size") {
    check({"xattr",
           with_leftovers,
           {[](User &u) { u.set_xattr("f", "user.a", 10, 'a'); },
            [](User &u) { u.set_xattr("f", "user.a", 800, 'b'); },
            [](User &u) { u.set_xattr("f", "user.a", 20000, 'c'); },
            [](User &u) { u.set_xattr("f", "user.a", 30000, 'd'); },
            [](User &u) { u.set_xattr("f", "user.z", 0, 'e'); },
            [](User &u) { u.remove_xattr("f", "user.a"); }}});
}

TEST_CASE("crash: an access control list is there with its mode, and in new files, or not at all") {
    core::Acl acl{{core::AclTag::owner, 7, ~0u},
                  {core::AclTag::user, 6, 1000},
                  {core::AclTag::owning_group, 4, ~0u},
                  {core::AclTag::mask, 6, ~0u},
                  {core::AclTag::other, 0, ~0u}};
    check({"acl",
           [acl](User &u) {
               with_leftovers(u);
               u.set_acl("d", core::kDefaultAcl, acl);
           },
           {[acl](User &u) { u.set_acl("f", core::kAccessAcl, acl); },
            [](User &u) { u.chmod("f", 0604); }, [](User &u) { u.make("d/f", kFile); },
            [](User &u) { u.make("d/sub", kDir); }, [](User &u) { u.make("d/sub/fifo", S_IFIFO); },
            [](User &u) { u.set_acl("f", core::kAccessAcl, {}); },
            [](User &u) { u.unlink("d/f"); }}});
}

TEST_CASE("crash: the seal is there or not, with a digest that is right") {
    check({"seal",
           [](User &u) {
               with_leftovers(u);
               u.make("holes", kFile);
               u.write("holes", 100000, 4096, 2);
           },
           {[](User &u) { u.prepare("f"); }, [](User &u) { u.seal("f", SealLevel::as_is); },
            [](User &u) { u.seal("f", SealLevel::full); },
            [](User &u) { u.seal("holes", SealLevel::as_is); }, [](User &u) { u.unseal("f"); },
            [](User &u) { u.unlink("holes"); }}});
}

TEST_CASE(
    "crash: a process that maps the device has a record, and blocks that it may store to stay in "
    "use") {
    check({"grants",
           [](User &u) {
               with_leftovers(u);
               u.prepare("f");
               u.make("g", kFile);  // in more pieces than an inode holds
               for (unsigned i = 0; i < 14; ++i)
                   for (const char *name : {"g", "d/h"}) {
                       if (i == 0 && name[0] == 'd') u.make("d/h", kFile);
                       u.write(name, i * 4096, 4096, 1);
                   }
           },
           {[](User &u) { u.take("f", GrantKind::temporary); }, [](User &u) { u.drop("f"); },
            [](User &u) { u.take("g", GrantKind::temporary); },
            [](User &u) { u.take("f", GrantKind::breakable); }, [](User &u) { u.lose("f"); },
            [](User &u) { u.truncate("f", 5000); }, [](User &u) { u.unlink("f"); },
            [](User &u) { u.drop("g"); }, [](User &u) { u.unlink("g"); }}});
}

TEST_CASE("crash: a file that is truncated around bound blocks has its old size or its new one") {
    check({"bound",
           [](User &u) {
               with_leftovers(u);
               u.make("g", kFile);
               u.write("g", 0, 40 * 4096, 1);
               u.prepare("g");
           },
           {[](User &u) { u.bind("g", 12 * 4096, 3 * 4096); },
            [](User &u) { u.truncate("g", 5000); }, [](User &u) { u.truncate("g", 20 * 4096); },
            [](User &u) { u.write("g", 13 * 4096, 4096, 2); },
            [](User &u) { u.truncate("g", 13 * 4096 + 10); },
            [](User &u) { u.write("g", 30 * 4096, 4096, 3); },
            [](User &u) { u.truncate("g", 100); }, [](User &u) { u.drop("g"); },
            [](User &u) { u.truncate("g", 16 * 4096); }, [](User &u) { u.unlink("g"); }}});
}

TEST_CASE("crash: preparing moves a file to whole units and changes no byte of it") {
    check(
        {"prepare",
         [](User &u) {
             u.make("f", kFile);
             for (unsigned i = 0; i < 9; ++i) u.write("f", i * 150000, 40000, 1);
         },
         {[](User &u) { u.prepare("f", 2 << 20); }, [](User &u) { u.seal("f", SealLevel::full); }},
         false,
         12 << 20,
         media::kJournalSizeMin,
         4});
}

TEST_CASE("crash: making a file one extent changes no byte of it") {
    check({"contiguous",
           [](User &u) {
               u.make("f", kFile);
               for (unsigned i = 0; i < 9; ++i) u.write("f", i * 250000, 40000, 1);
           },
           {[](User &u) { u.prepare_contiguous("f"); },
            [](User &u) { u.seal("f", SealLevel::full); }},
           false,
           16 << 20,
           media::kJournalSizeMin,
           4});
}

TEST_CASE("crash: directories that split, and inode tables that grow") {
    Sweep sweep{"grow", with_leftovers, {}};
    for (unsigned i = 0; i < 3; ++i)
        sweep.acts.push_back([](User &u) {  // the last one of a batch is swept
            u.make("d/last" + std::to_string(u.volume().info().inodes_used), kFile);
        });
    sweep.before = [](User &u) {
        with_leftovers(u);
        // 28 of the first 32 inodes, and a leaf that is nearly full.
        for (unsigned i = 0; i < 27; ++i)
            u.make("d/" + std::string(120, 'n') + std::to_string(i), kFile);
    };
    check(sweep);
}

TEST_CASE("crash: a journal that wraps round many times") {
    Sweep sweep{"wrap", with_leftovers, {}};
    for (unsigned i = 0; i < 60; ++i) {
        const std::string name = "w" + std::to_string(i % 7);
        if (i >= 7) sweep.acts.push_back([name](User &u) { u.unlink(name); });
        sweep.acts.push_back([name](User &u) { u.make(name, kFile); });
    }
    for (unsigned i = 0; i < 60; ++i)
        sweep.acts.push_back([i](User &u) { u.write("w1", i * 4096, 4096, 9); });
    sweep.prefix = true;
    sweep.seeds = 2;
    sweep.step = 7;
    check(sweep);
}

TEST_CASE("crash: directories that shrink") {
    Sweep sweep{"shrink", nullptr, {}};
    sweep.before = [](User &u) {
        u.make("d", kDir);
        for (unsigned i = 0; i < 90; ++i)
            u.make("d/" + std::string(200, 'n') + std::to_string(i), S_IFIFO | 0600);
        for (unsigned i = 0; i < 80; ++i)
            u.unlink("d/" + std::string(200, 'n') + std::to_string(i));
    };
    for (unsigned i = 80; i < 90; ++i)
        sweep.acts.push_back(
            [i](User &u) { u.unlink("d/" + std::string(200, 'n') + std::to_string(i)); });
    sweep.acts.push_back([](User &u) { u.rmdir("d"); });
    sweep.seeds = 3;
    check(sweep);
}

namespace {

// Every chunk is broken: of files of 128 blocks, partly written, the first and the last of four
// are left, and beside them long symlinks and large attributes.
void with_broken_chunks(User &u) {
    unsigned made = 0;
    for (; u.volume().info().blocks_available > 140; ++made) {
        const std::string name = "s" + std::to_string(made);
        u.make(name, kFile);
        u.allocate(name, 0, 0, 512 << 10);
        u.write(name, 8192, 12288, static_cast<unsigned char>(1 + made));
        if (made % 4 != 0) continue;
        u.symlink("l" + std::to_string(made), std::string(4000, static_cast<char>('a' + made)));
        u.set_xattr(name, "user.large", 9000, static_cast<char>('A' + made));
    }
    u.make("big", kFile);
    u.truncate("big", 2 << 20);
    u.write("big", 300000, 5000, 99);
    for (unsigned i = 0; i < made; ++i)
        if (i % 4 == 1 || i % 4 == 2) u.unlink("s" + std::to_string(i));
    (void)u.volume().commit_group().ok();
    (void)u.volume().commit_group().ok();
    std::vector<ChunkInfo> chunks(u.volume().info().chunks);
    REQUIRE(u.volume().chunks(ChunkNo(0), chunks).ok());
    for (const ChunkInfo &c : chunks) CHECK(c.kind != 0);
}

}  // namespace

TEST_CASE("crash: moving other files' data to make whole chunks changes no byte of it") {
    check({"evacuate",
           with_broken_chunks,
           {[](User &u) { u.prepare("big", 2 << 20); }},
           false,
           12 << 20,
           media::kJournalSizeMin,
           4});
}

TEST_CASE("crash: making chunks in a row of broken ones changes no byte of others' data") {
    check({"contiguous by evacuation",
           [](User &u) {
               with_broken_chunks(u);
               u.truncate("big", 4 << 20);
               u.write("big", 3 << 20, 5000, 98);
           },
           {[](User &u) { u.prepare_contiguous("big"); }},
           false,
           16 << 20,
           media::kJournalSizeMin,
           1});
}

TEST_CASE("crash: compacting a volume changes no byte of it") {
    check({"compact",
           with_broken_chunks,
           {[](User &u) { u.compact(); }},
           false,
           12 << 20,
           media::kJournalSizeMin,
           4});
}
