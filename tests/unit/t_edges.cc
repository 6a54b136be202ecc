// What a volume is rarely asked for: capabilities, a file of a thousand pieces, inodes of
// another group, leases in the way of a preparation.
#include <doctest/doctest.h>
#include <linux/falloc.h>

#include <functional>
#include <random>
#include <set>

#include "core/group_set.h"
#include "unit/holders_world.h"
#include "unit/small_volume.h"
#include "unit/tampered.h"

using namespace pmfs;
using namespace pmfs::test;

// (The kernel has removed it when write(2) was called, and a store by mmap removes none.)
TEST_CASE("volume: a capability stays when the kernel writes pages back") {
    SmallVolume volume(8 << 20, SimMedia::Flavour::dax);
    const InodeNo ino = make_file(*volume, "f");
    REQUIRE(volume->write(ino, 0, bytes_of(std::string(4096, 'x')), false, kUser).ok());
    REQUIRE(volume->setattr(ino, size_of(20'000), kUser).ok());
    REQUIRE(volume->setxattr(ino, "security.capability", bytes_of("cap"), 0, kAdmin).ok());
    for (const std::uint64_t at : {0, 9000}) {  // in place, and into a hole
        REQUIRE(volume->write(ino, at, bytes_of("words"), false, {.written_back = true}).ok());
        CHECK(volume->getxattr(ino, "security.capability").ok());
    }
    volume.check();
}

TEST_CASE("volume: a capability goes with a change of content, size or owner, and with no other") {
    struct Act {
        const char *name;
        std::function<Result<>(Volume &, InodeNo)> run;
        bool keeps = false;
    };
    const auto plain = [](const auto &result) -> Result<> {
        return result.ok() ? Result<>() : Result<>(result.error());
    };
    const std::string text = "some words";
    const Act acts[] = {
        {"overwrite",
         [&](Volume &v, InodeNo ino) {
             return plain(v.write(ino, 0, bytes_of(text), false, kUser));
         }},
        {"append",
         [&](Volume &v, InodeNo ino) {
             return plain(v.write(ino, 5000, bytes_of(text), false, kUser));
         }},
        {"truncate",
         [&](Volume &v, InodeNo ino) { return plain(v.setattr(ino, size_of(5), kUser)); }},
        {"chown", [&](Volume &v,
                      InodeNo ino) { return plain(v.setattr(ino, SetAttr{.uid = 1001}, kAdmin)); }},
        {"punch",
         [](Volume &v, InodeNo ino) {
             return v.fallocate(0, ino, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 10, kUser);
         }},
        {"a grant that may store",
         [&](Volume &v, InodeNo ino) -> Result<> {
             OpenRequest open;
             open.write = open.direct = true;
             open.caller = kUser;
             GrantRequest request;
             request.kind = GrantKind::temporary;
             request.may_store = true;
             std::uint64_t bad = 0;
             const HandleId handle = TRY(v.open_file(ino, open)).handle;
             return plain(v.take_grant(handle, request, kUser, &bad));
         }},
        {"chmod",
         [&](Volume &v, InodeNo ino) {
             return plain(v.setattr(ino, SetAttr{.mode = 0755}, kUser));
         },
         true},
        {"another attribute",
         [&](Volume &v, InodeNo ino) {
             return plain(v.setxattr(ino, "user.a", bytes_of(text), 0, kUser));
         },
         true},
        {"rename", [&](Volume &v, InodeNo) { return plain(v.rename(kRoot, "f", kRoot, "g", 0)); },
         true},
    };
    for (const Act &act : acts) {
        CAPTURE(act.name);
        SmallVolume volume(8 << 20, SimMedia::Flavour::dax);
        const InodeNo ino = make_file(*volume, "f");
        REQUIRE(volume->write(ino, 0, bytes_of(std::string(4096, 'x')), false, kUser).ok());
        REQUIRE(volume->setxattr(ino, "security.capability", bytes_of("cap"), 0, kAdmin).ok());
        REQUIRE(errno_of(act.run(*volume, ino)) == 0);
        CHECK(errno_of(volume->getxattr(ino, "security.capability")) == (act.keeps ? 0 : ENODATA));
        volume.check();
    }
}

TEST_CASE(
    "volume: pages that are written back do not lengthen a file that was made shorter meanwhile") {
    for (const bool writeback : {false, true}) {
        CAPTURE(writeback);
        auto region = std::move(pm::memory_region(16 << 20)).take();
        REQUIRE(mkfs::make(*region, {}).ok());
        MountOptions options;
        options.writeback = writeback;
        auto volume = Volume::open(std::move(region), options).take();
        const InodeNo ino = make_file(*volume, "f");
        const std::string pages(8192, 'x');
        Caller kernel = kUser;
        kernel.written_back = true;
        const auto size_after = [&](std::uint64_t size, std::uint64_t offset) {
            REQUIRE(volume->write(ino, 0, bytes_of(pages), false, kUser).ok());
            REQUIRE(volume->setattr(ino, size_of(size), kUser).ok());
            const auto done = volume->write(ino, offset, bytes_of(pages), false, kernel);
            REQUIRE(done.ok());
            CHECK(done.value() == pages.size());
            const std::uint64_t found = volume->getattr(ino).take().size;
            // What lies behind the end is zero when the file grows again.
            REQUIRE(volume->setattr(ino, size_of(3 * 8192), kUser).ok());
            const std::string read = read_at(*volume, ino, 0, 3 * 8192);
            CHECK(read.find_first_not_of('\0', found) == std::string::npos);
            return found;
        };
        CHECK(size_after(0, 4096) == (writeback ? 12288 : 0));
        CHECK(size_after(4096, 4096) == (writeback ? 12288 : 4096));
        CHECK(size_after(5000, 0) == (writeback ? 8192 : 5000));
        CHECK(size_after(5000, 4096) == (writeback ? 12288 : 5000));
        REQUIRE(volume->close().ok());
    }
}

TEST_CASE("volume: zeroing a range of more pieces than a step looks at zeroes all of it") {
    SmallVolume volume(32 << 20, SimMedia::Flavour::dax);
    const InodeNo ino = make_file(*volume, "f");
    constexpr std::uint64_t kPieces = 1300;
    for (std::uint64_t i = 0; i < kPieces; ++i)
        REQUIRE(volume->fallocate(0, ino, 0, 2 * i * kBlock, kBlock, kUser).ok());
    const std::string text(kBlock, 'x');
    const std::uint64_t last = 2 * (kPieces - 1) * kBlock;
    REQUIRE(volume->write(ino, last, bytes_of(text), false, kUser).ok());
    REQUIRE(volume->fallocate(0, ino, FALLOC_FL_ZERO_RANGE, 0, last + kBlock, kUser).ok());
    CHECK((read_at(*volume, ino, last, kBlock) == std::string(kBlock, 0)));
    CHECK(volume->getattr(ino).take().blocks >= 2 * kPieces - 1);
    volume.check();
}

TEST_CASE("volume: pmfs's own attributes and seals by a descriptor for reading are refused") {
    SmallVolume volume(8 << 20, SimMedia::Flavour::dax);
    const InodeNo ino = make_file(*volume, "f");
    const std::string text(kBlock, 'x');
    REQUIRE(volume->write(ino, 0, bytes_of(text), false, kUser).ok());
    CHECK(errno_of(volume->setxattr(ino, "user.pmfs.other", bytes_of("1"), 0, kUser)) == EINVAL);
    CHECK(errno_of(volume->removexattr(ino, "trusted.pmfs.other", kAdmin)) == EINVAL);
    OpenRequest open;
    open.caller = kAdmin;
    const HandleId reads = volume->open_file(ino, open).take().handle;
    constexpr unsigned kSeal = 0x01000000 | FALLOC_FL_KEEP_SIZE;
    CHECK(errno_of(volume->fallocate(reads, ino, kSeal, 0, kBlock, kAdmin)) == EBADF);
    CHECK(volume->file_info(ino).take().seal == SealLevel::none);
    open.write = true;
    const HandleId writes = volume->open_file(ino, open).take().handle;
    CHECK(errno_of(volume->fallocate(writes, ino, kSeal, 0, kBlock - 1, kAdmin)) == EINVAL);
    CHECK(errno_of(volume->fallocate(writes, ino, kSeal, 0, kBlock, kAdmin)) == 0);
    CHECK(volume->file_info(ino).take().seal == SealLevel::full);
    volume.check();
}

TEST_CASE("holders: a preparation gives up its claim while it waits for a lease to be given back") {
    World world;
    const auto file = world.make("f", 4);
    REQUIRE(world->setattr(file.ino, size_of(8 * kBlock), World::user(20)).ok());
    const auto lease = world.take(file, GrantKind::breakable, 10, false, 0, 4 * kBlock);
    REQUIRE(errno_of(lease) == 0);
    Progress place;
    Caller caller = World::user(20);
    caller.progress = &place;
    const auto refused = world->prepare(file.ino, 0, 0, kBlock, caller);
    REQUIRE(errno_of(refused) == kBreakErrno);
    CHECK(world.asked.size() == 1);
    // A holder may see its own grants, so that it can give them back.
    CHECK(errno_of(world->file_info(file.ino)) == 0);
    Result<> done = Error(EIO, "it has not run");
    world->when_ready(refused.error(),
                      [&] { done = world->prepare(file.ino, 0, 0, kBlock, caller); });
    world->tend(0);
    CHECK_FALSE(done.ok());
    CHECK(world->drop_grant(file.handle, lease.value()).ok());
    world->tend(0);
    CHECK(done.ok());
    CHECK(world->getattr(file.ino).take().blocks == 8);
    world.check();
}

TEST_CASE("holders: a revocation that has to wait for the journal ends the grant all the same") {
    SmallVolume volume(16 << 20);
    const InodeNo ino = make_file(*volume, "f");
    const std::string text(kBlock, 'x');
    REQUIRE(volume.retry([&] { return volume->write(ino, 0, bytes_of(text), false, kUser); }).ok());
    OpenRequest open;
    open.write = open.direct = true;
    open.caller = kUser;
    const HandleId handle = volume->open_file(ino, open).take().handle;
    GrantRequest request;
    request.kind = GrantKind::temporary;
    request.may_store = true;
    std::uint64_t bad = 0;
    REQUIRE(volume.retry([&] { return volume->take_grant(handle, request, kUser, &bad); }).ok());
    CHECK(errno_of(volume->revoke(ino, 0, 0, kUser)) == EPERM);
    volume.wait_behind(0);
    const std::size_t begun = volume.begun();
    const auto ended = volume->revoke(ino, 0, 0, kAdmin);
    CHECK(ended.value_or(0) == 1);
    CHECK(volume.begun() > begun + 1);  // it did wait
    CHECK(volume->holders(ino).take().empty());
    CHECK(errno_of(volume->revoke(ino, 0, 0, kAdmin)) == ENOENT);
    volume.check();
}

TEST_CASE("inodes: where no two blocks are together, one that is free in another group is used") {
    auto region = std::move(pm::memory_region(2ull << 30)).take();
    pm::Region *kept = region.get();
    mkfs::MakeOptions options;
    options.root_reserve = 0;
    REQUIRE(mkfs::make(*region, options).ok());
    auto volume = Volume::open(std::move(region), {}).take();
    const auto group_of = [](InodeNo ino) { return ino.value() / 8 / media::kGroupBlocks; };
    // A directory of the other group, and with its inode seven free ones.
    bool other = false;
    for (int i = 0; i < 4 && !other; ++i)
        other = group_of(volume->make(kRoot, "d" + std::to_string(i), S_IFDIR | 0755, 0, kUser)
                             .take()
                             .ino) == 1;
    REQUIRE(other);
    const InodeNo filler = make_file(*volume, "filler");
    std::uint64_t end = 0;
    for (std::uint64_t step = 65536; step != 0; step /= 2)
        while (volume->fallocate(0, filler, 0, end * kBlock, step * kBlock, kAdmin).ok())
            end += step;
    // The rest goes to the nodes of its map.
    const std::string text(kBlock, 'x');
    std::uint64_t at = 0;
    for (; volume->info().blocks_free != 0 && at < 60000; at += 2)
        REQUIRE(volume->write(filler, at * kBlock, bytes_of(text), false, kUser).ok());
    REQUIRE(volume->info().blocks_free == 0);
    for (std::uint64_t i = 0; i < 800; i += 2)
        REQUIRE(volume
                    ->fallocate(0, filler, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                (at + 1000 + i) * kBlock, kBlock, kAdmin)
                    .ok());
    unsigned here = 0, there = 0;
    for (int i = 0; i < 100; ++i) {
        const auto made = volume->make(kRoot, "n" + std::to_string(i), S_IFREG | 0644, 0, kUser);
        if (!made.ok()) {
            CHECK(errno_of(made) == ENOSPC);
            break;
        }
        (group_of(made.value().ino) == 0 ? here : there) += 1;
    }
    CHECK(here < 8);
    CHECK(there > 0);
    CHECK(there < 16);
    REQUIRE(volume->close().ok());
    check_clean(*kept);
}

TEST_CASE("group sets: the next member is found whatever lies between, as in a plain set") {
    std::mt19937 random(7);
    constexpr std::uint64_t kGroups = 20000;  // several words of words
    core::GroupSet set(kGroups);
    std::set<GroupNo> model;
    for (int round = 0; round < 3000; ++round) {
        const GroupNo group(random() % 5 == 0 ? random() % kGroups : random() % 7 * 3000);
        const bool member = random() % 3 != 0 && model.size() < 12;
        set.set(group, member);
        if (member)
            model.insert(group);
        else
            model.erase(group);
        CHECK(set.has(group) == member);
        const GroupNo from(random() % (kGroups + 100));
        const auto found = model.lower_bound(from);
        const auto next = found != model.end() ? std::optional(*found) : std::optional<GroupNo>();
        CHECK((set.search(from) == next));
        CHECK((set.next(from) == (next || model.empty() ? next : std::optional(*model.begin()))));
    }
}

TEST_CASE("links: a directory and a file have as many as can be counted, and no more") {
    Tampered volume;
    const InodeNo ino = make_file(*volume, "f");
    const InodeNo dir = volume->make(kRoot, "d", S_IFDIR | 0755, 0, kUser).take().ino;
    volume.close();
    for (const InodeNo one : {ino, dir}) {
        media::Inode &inode = volume.inode(one);
        inode.nlink.set(media::kLinksMax - 1);
        media::seal_block(inode);
    }
    REQUIRE(volume.reopen().ok());
    CHECK(volume->link(ino, kRoot, "g").ok());
    CHECK(errno_of(volume->link(ino, kRoot, "h")) == EMLINK);
    CHECK(volume->make(dir, "a", S_IFDIR | 0755, 0, kUser).ok());
    CHECK(errno_of(volume->make(dir, "b", S_IFDIR | 0755, 0, kUser)) == EMLINK);
    CHECK(errno_of(volume->lookup(dir, "b")) == ENOENT);
    CHECK(volume->make(dir, "c", S_IFREG | 0644, 0, kUser).ok());
}

TEST_CASE("quarantine: where not even its record has room, what a lost holder maps stays in use") {
    World world;
    const auto file = world.make("f", 1);
    const InodeNo between = world.make("between", 1).ino;
    const std::string text(kBlock, 'x');
    for (std::uint64_t i = 1; i < 40; ++i)  // in more pieces than an inode keeps
        for (const InodeNo ino : {file.ino, between})
            REQUIRE(world->write(ino, i * kBlock, bytes_of(text), false, World::user(10)).ok());
    const auto grant = world.take(file, GrantKind::temporary, 10, true);
    REQUIRE(errno_of(grant) == 0);
    const InodeNo filler = make_file(*world.operator->(), "filler");
    std::uint64_t end = 0;
    for (std::uint64_t step = 4096; step != 0; step /= 2)
        while (world->fallocate(0, filler, 0, end * kBlock, step * kBlock, kAdmin).ok())
            end += step;
    for (std::uint64_t at = 0; world->info().blocks_free != 0 && at < end; at += 2)
        REQUIRE(world->write(filler, at * kBlock, bytes_of(text), false, kUser).ok());
    REQUIRE(world->info().blocks_free == 0);
    const auto mapped = world.blocks_of(file.ino);
    REQUIRE(mapped.size() == 40);
    world->lose_grant(file.handle, grant.value());
    CHECK(world->quarantine().take().size() == 1);
    REQUIRE(world.truncate(file, 0, 20).ok());
    CHECK(world->info().blocks_free < 40);  // the nodes of its map, and nothing that is mapped
    CHECK(disjoint(world.fill("more"), mapped));
}
