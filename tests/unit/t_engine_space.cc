// Limits: a full volume, a small journal, the most blocks of a transaction.
#include <doctest/doctest.h>
#include <linux/falloc.h>
#include <sys/stat.h>

#include <cstring>
#include <functional>

#include "core/alloc.h"
#include "journal/journal.h"
#include "media/geometry.h"
#include "mkfs/make.h"
#include "unit/small_volume.h"

using namespace pmfs;
using namespace pmfs::test;

namespace {

class Mounted {
public:
    explicit Mounted(std::uint64_t size) {
        auto region = std::move(pm::memory_region(size)).take();
        region_ = region.get();
        REQUIRE(mkfs::make(*region, {}).ok());
        auto opened = Volume::open(std::move(region), {});
        REQUIRE(opened.ok());
        volume_ = std::move(opened).take();
    }
    Volume *operator->() { return volume_.get(); }
    Volume &operator*() { return *volume_; }
    void check() { check_clean(*region_); }

private:
    pm::Region *region_;
    std::unique_ptr<Volume> volume_;
};

// Takes all data blocks, without writing any.
InodeNo fill(Volume &v) {
    const InodeNo ino = make_file(v, "filler");
    for (std::uint64_t step = 64 * kChunk, at = 0; step >= 4096;) {
        if (v.fallocate(0, ino, FALLOC_FL_KEEP_SIZE, at, step, kUser).ok())
            at += step;
        else
            step /= 2;
    }
    CHECK(v.info().blocks_available == 0);
    return ino;
}

// Makes files, and then names of one, until there is no room for any more of them.  The name for
// which there was none.
std::string use_up_names(Volume &v, InodeNo file) {
    std::string name;
    for (const bool links : {false, true}) {
        int said = 0;
        for (unsigned n = 0; said == 0 && n < 1'000'000; ++n) {
            name = (links ? "l" : "f") + std::to_string(n);
            name.resize(255, '.');
            said = links ? errno_of(v.link(file, kRoot, name))
                         : errno_of(v.make(kRoot, name, S_IFREG | 0644, 0, kUser));
        }
        CHECK(said == ENOSPC);
    }
    return name;
}

}  // namespace

TEST_CASE("space: a full volume is full at once, even if the change itself would free blocks") {
    Mounted volume(16 << 20);
    const InodeNo ino = make_file(*volume, "f");
    REQUIRE(volume->setxattr(ino, "user.x", bytes_of(std::string(60000, 'a')), 0, kUser).ok());
    fill(*volume);
    CHECK(errno_of(volume->setxattr(ino, "user.x", bytes_of(std::string(60000, 'b')), 0, kUser)) ==
          ENOSPC);
    CHECK(volume->getxattr(ino, "user.x").take().front() == std::byte{'a'});
    volume.check();
}

TEST_CASE("space: preparing in units of several chunks stays inside what was taken") {
    Mounted volume(512 << 20);
    const InodeNo ino = make_file(*volume, "f"), other = make_file(*volume, "g");
    std::string text;
    for (std::uint64_t block = 0; block < 4 * kChunk / 4096; block += 64) {  // every 64th block
        text = std::string(4096, static_cast<char>('a' + block % 23));
        REQUIRE(volume->write(ino, block * 4096, bytes_of(text), false, kUser).ok());
    }
    SetAttr set;
    set.size = 4 * kChunk;
    REQUIRE(volume->setattr(ino, set, kUser).ok());
    // Chunks 62 and 63 lie under two bitmap blocks.  All before them are taken.
    const InodeNo filler = make_file(*volume, "filler");
    std::uint64_t at = 0;
    for (Extent e{}; media::chunk_of(e.start) < ChunkNo(61); at += kChunk) {
        REQUIRE(volume->fallocate(0, filler, 0, at, kChunk, kUser).ok());
        REQUIRE(volume->extents(filler, media::file_block_of(at), std::span(&e, 1)).take() == 1);
        e.start = e.place_of(media::file_block_of(at));
    }
    REQUIRE(volume->prepare(ino, 0, 0, 2 * kChunk, kUser).ok());
    Extent e[8];
    const std::size_t n = volume->extents(ino, FileBlock(0), e).take();
    for (std::size_t i = 0; i < n; ++i) {
        CHECK(e[i].start % (2 * kChunk / 4096) == e[i].file_block % (2 * kChunk / 4096));
        CHECK(!e[i].unwritten);
    }
    for (std::uint64_t block = 0; block < 4 * kChunk / 4096; block += 64)
        CHECK(read_at(*volume, ino, block * 4096, 4096) ==
              std::string(4096, static_cast<char>('a' + block % 23)));
    CHECK(errno_of(volume->prepare(other, 0, 0, 256 * kChunk, kUser)) == EINVAL);
    volume.check();
}

TEST_CASE("space: preparing a file in many pieces ends, however small the journal") {
    SmallVolume volume(16 << 20);
    const InodeNo ino = make_file(*volume, "f");
    const InodeNo between = make_file(*volume, "g");
    const std::string text(4096, 'x');
    for (int i = 0; i < 60; ++i)
        for (const InodeNo one : {ino, between})
            REQUIRE(volume
                        .retry([&] {
                            return volume->write(one, static_cast<std::uint64_t>(i) * 8192,
                                                 bytes_of(text), false, kUser);
                        })
                        .ok());
    CHECK(volume.retry([&] { return volume->prepare(ino, 0, 0, kChunk, kUser); }, 300).ok());
    Extent e[2];
    CHECK(volume->extents(ino, FileBlock(0), e).take() == 1);
    for (int i = 0; i < 60; ++i)
        CHECK(read_at(*volume, ino, static_cast<std::uint64_t>(i) * 8192, 4096) == text);
}

TEST_CASE("space: creating and opening a file in one request does not collide with itself") {
    SmallVolume volume(16 << 20);
    OpenRequest request;
    request.write = request.truncate = true;
    request.caller = kUser;
    for (int i = 0; i < 40; ++i) {
        OpenReply reply;
        const auto made = volume.retry([&] {
            return volume->create(kRoot, "f" + std::to_string(i), S_IFREG | 0644, request, &reply);
        });
        REQUIRE(errno_of(made) == 0);
        volume->release(reply.handle);
    }
}

TEST_CASE("space: a large attribute in pieces from every group fits a transaction, or is refused") {
    Mounted volume(4ull << 30);
    const InodeNo ino = make_file(*volume, "f"), other = make_file(*volume, "g");
    REQUIRE(volume->setxattr(other, "user.x", bytes_of("a"), 0, kUser).ok());
    const InodeNo filler = fill(*volume);
    // Six blocks in each group but the first.
    GroupNo punched(1);
    for (FileBlock at; punched < GroupNo(4);) {
        Extent e;
        REQUIRE(volume->extents(filler, at, std::span(&e, 1)).take() == 1);
        if (media::group_of(e.start) == punched && e.blocks > 100) {
            REQUIRE(volume
                        ->fallocate(0, filler, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                    media::byte_of(e.file_block + 50), 6 * 4096, kUser)
                        .ok());
            ++punched;
            at = FileBlock(0);
            continue;
        }
        at = e.end();
    }
    // The attribute's tree must come from the first: no other chunk has a block for metadata.
    for (int i = 0; volume->link(ino, kRoot, std::string(240, 'n') + std::to_string(i)).ok();) ++i;
    REQUIRE(volume->removexattr(other, "user.x", kUser).ok());
    const int done =
        errno_of(volume->setxattr(ino, "user.x", bytes_of(std::string(65536, 'a')), 0, kUser));
    CHECK((done == 0 || done == ENOSPC));
    volume.check();
}

TEST_CASE("space: a symlink's longest target is in two blocks, apart where no two are together") {
    for (const bool scattered : {false, true}) {
        CAPTURE(scattered);
        Mounted volume(16 << 20);
        if (scattered) {  // what is free: a few blocks, no two of them neighbours
            const InodeNo filler = fill(*volume);
            for (std::uint64_t at = 1; at < 40; at += 2)
                REQUIRE(volume
                            ->fallocate(0, filler, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                        at * 4096, 4096, kUser)
                            .ok());
        }
        for (const std::size_t size : {272, 273, 4000, 4001, 4032, 4033, 4095}) {
            std::string target(size, 't');
            target.back() = 'e';
            const auto made = volume->symlink(kRoot, "l" + std::to_string(size), target, kUser);
            REQUIRE(errno_of(made) == 0);
            CHECK(made.value().size == size);
            CHECK(made.value().blocks == (size <= 272 ? 0 : size <= 4032 ? 1 : 2));
            const auto read = volume->readlink(made.value().ino);
            REQUIRE(read.ok());
            CHECK(read.value() == target);
            volume->forget(made.value().ino, 1);
        }
        CHECK(errno_of(volume->symlink(kRoot, "l", std::string(4096, 't'), kUser)) == ENAMETOOLONG);
        volume.check();
        const std::uint64_t free = volume->info().blocks_free;
        CHECK(volume->unlink(kRoot, "l4095").ok());
        CHECK(volume->info().blocks_free == free + 2);
        volume.check();
    }
}

TEST_CASE("space: what metadata gave back is data's again, after a mount too") {
    auto region = std::move(pm::memory_region(32 << 20)).take();
    REQUIRE(mkfs::make(*region, {}).ok());
    std::vector<std::byte> bytes;
    {
        auto volume = Volume::open(std::move(region), {}).take();
        // Names of one file: tree nodes, and no inodes among them.
        const InodeNo file = make_file(*volume, "f");
        for (int i = 0; i < 20000; ++i)
            REQUIRE(volume->link(file, kRoot, std::string(200, 'n') + std::to_string(i)).ok());
        for (int i = 0; i < 20000; ++i)
            REQUIRE(volume->unlink(kRoot, std::string(200, 'n') + std::to_string(i)).ok());
        REQUIRE(volume->close().ok());
        bytes.assign(volume->region().meta(), volume->region().meta() + (32 << 20));
    }
    region = std::move(pm::memory_region(32 << 20)).take();
    region->fence(region->write(0, bytes));
    auto volume = Volume::open(std::move(region), {}).take();
    const InodeNo ino = make_file(*volume, "g");
    const std::string text(4096, 'x');
    for (std::uint64_t at = 0; volume->write(ino, at, bytes_of(text), false, kUser).ok();)
        at += text.size();
    std::vector<ChunkInfo> chunks(16);
    REQUIRE(volume->chunks(ChunkNo(0), chunks).ok());
    for (const ChunkInfo &chunk : chunks)
        CHECK_FALSE((chunk.kind == static_cast<std::uint8_t>(media::ChunkKind::meta) &&
                     chunk.used_blocks == 0));
}

TEST_CASE("space: what an unlinked file will give back counts as free, once nobody has it open") {
    Mounted volume(64 << 20);
    const std::uint64_t free = volume->info().blocks_free;
    const InodeNo filler = fill(*volume);
    const auto opened = volume->open_file(filler, {});
    REQUIRE(opened.ok());
    REQUIRE(volume->unlink(kRoot, "filler").ok());
    CHECK(volume->info().blocks_available <= 1);  // the directory's leaf
    volume->release(opened.value().handle);
    const auto leaving = volume->info();  // the kernel still knows the inode
    CHECK(leaving.blocks_available > 10000);
    volume->forget(filler, 1);
    const auto gone = volume->info();
    CHECK(gone.blocks_free == free);
    CHECK(leaving.blocks_free == gone.blocks_free);
    CHECK(leaving.blocks_available <= leaving.blocks_free);
    const std::uint64_t most = std::max(leaving.blocks_available, gone.blocks_available);
    const std::uint64_t least = std::min(leaving.blocks_available, gone.blocks_available);
    CHECK(most - least < 100);  // a few blocks of its tree may stay metadata's
    volume.check();
}

TEST_CASE(
    "space: an operation on a full volume waits for unlinked files that no process has open, but "
    "not for ever") {
    Mounted volume(32 << 20);
    for (const bool forgotten : {true, false}) {
        CAPTURE(forgotten);
        const InodeNo gone = make_file(*volume, "gone");
        const std::uint64_t size = volume->info().blocks_available * 4096;
        REQUIRE(volume->fallocate(0, gone, 0, 0, size, kUser).ok());
        REQUIRE(volume->unlink(kRoot, "gone").ok());  // the lookup that made it holds it
        const InodeNo ino = make_file(*volume, "f");
        Progress progress;
        Caller caller = kUser;
        caller.progress = &progress;
        const auto write = [&] {
            return errno_of(volume->write(ino, 0, bytes_of("words"), false, caller));
        };
        CHECK(write() == kForgetErrno);
        CHECK(progress.kept());
        int said = kForgetErrno;
        if (forgotten) {
            volume->forget(gone, 1);
            said = write();
            for (int i = 0; said != 0 && i < 1000; ++i) said = write();
            CHECK(said == 0);
        } else {
            while (said == kForgetErrno) said = write();
            CHECK(said == ENOSPC);
            volume->forget(gone, 1);
        }
        REQUIRE(volume->unlink(kRoot, "f").ok());
        volume->forget(ino, 1);
    }
}

TEST_CASE("space: names, links and attributes wait for a file that is to be forgotten") {
    using Call = std::function<int(Volume &, const Caller &, InodeNo file)>;
    const std::string value(60000, 'v');
    std::string unfit;
    const std::pair<const char *, Call> calls[] = {
        {"mkdir", [](Volume &v, const Caller &who,
                     InodeNo) { return errno_of(v.make(kRoot, "d", S_IFDIR | 0755, 0, who)); }},
        {"symlink",
         [](Volume &v, const Caller &who, InodeNo) {
             return errno_of(v.symlink(kRoot, "s", std::string(4000, 't'), who));
         }},
        {"link", [&](Volume &v, const Caller &who,
                     InodeNo file) { return errno_of(v.link(file, kRoot, unfit, who.progress)); }},
        {"nameless",
         [](Volume &v, const Caller &who, InodeNo) {
             OpenReply reply;
             return errno_of(
                 v.create_nameless(kRoot, S_IFREG | 0600, true, {.caller = who}, &reply));
         }},
        {"setxattr",
         [&](Volume &v, const Caller &who, InodeNo file) {
             return errno_of(v.setxattr(file, "user.x", bytes_of(value), 0, who));
         }},
    };
    for (const auto &[what, call] : calls) {
        for (const bool forgotten : {true, false}) {
            const std::string name = what;
            CAPTURE(name);
            CAPTURE(forgotten);
            Mounted volume(16 << 20);
            const InodeNo file = make_file(*volume, "f"), filler = fill(*volume);
            Progress progress;
            Caller caller = kUser;
            caller.progress = &progress;
            const auto said = [&, &call = call] { return call(*volume, caller, file); };
            unfit = use_up_names(*volume, file);
            CHECK(said() == ENOSPC);  // nothing is about to be freed
            REQUIRE(volume->unlink(kRoot, "filler").ok());
            CHECK(said() == kForgetErrno);
            int last = kForgetErrno, times = 0;
            if (forgotten) {
                volume->forget(filler, 1);
                while ((last = said()) != 0 && ++times < 1000) {
                }
                CHECK(last == 0);
            } else {
                while ((last = said()) == kForgetErrno && ++times < 1000) {
                }
                CHECK(last == ENOSPC);
            }
        }
    }
}

TEST_CASE("space: a write that got on in part says so at once, whatever may come to be free") {
    Mounted volume(32 << 20);
    const InodeNo gone = make_file(*volume, "gone"), ino = make_file(*volume, "f");
    const std::uint64_t size = (volume->info().blocks_available - 4) * 4096;
    REQUIRE(volume->fallocate(0, gone, 0, 0, size, kUser).ok());
    REQUIRE(volume->unlink(kRoot, "gone").ok());
    Progress progress;
    Caller caller = kUser;
    caller.progress = &progress;
    const auto done = volume->write(ino, 0, bytes_of(std::string(1 << 20, 'x')), false, caller);
    REQUIRE(done.ok());
    CHECK(done.value() < 1 << 20);
    CHECK(done.value() > 0);
    CHECK_FALSE(progress.kept());
}

TEST_CASE("space: a write with O_DIRECT that does not fit is refused as a whole") {
    Mounted volume(32 << 20);
    const InodeNo filler = make_file(*volume, "filler"), ino = make_file(*volume, "f");
    const std::uint64_t size = (volume->info().blocks_available - 40) * 4096;
    REQUIRE(volume->fallocate(0, filler, 0, 0, size, kUser).ok());
    const std::string data(1 << 20, 'x');
    for (const bool direct : {true, false}) {
        CAPTURE(direct);
        Caller caller = kUser;
        caller.direct = direct;
        const auto done = volume->write(ino, 0, bytes_of(data), false, caller);
        CHECK(done.ok() == !direct);
        if (!done.ok()) CHECK(done.error().errno_value() == ENOSPC);
        const auto attr = volume->getattr(ino);
        REQUIRE(attr.ok());
        CHECK((attr.value().size == 0) == direct);
    }
}

TEST_CASE("space: where a group has no free chunk, those of others are filled one by one") {
    Mounted volume((std::uint64_t{1} << 30) + (64 << 20));  // two groups
    const InodeNo large = make_file(*volume, "large");
    std::uint64_t at = 0;
    std::vector<ChunkInfo> chunks(volume->info().chunks);
    using media::ChunkKind;
    const auto count = [&](ChunkKind kind, std::size_t from) {
        REQUIRE(volume->chunks(ChunkNo(0), chunks).ok());
        return std::count_if(
            chunks.begin() + static_cast<std::ptrdiff_t>(from), chunks.end(),
            [&](const ChunkInfo &c) { return c.kind == static_cast<std::uint8_t>(kind); });
    };
    while (count(ChunkKind::free, 0) > 30) {
        REQUIRE(volume->fallocate(0, large, 0, at, kChunk, kUser).ok());
        at += kChunk;
    }
    for (unsigned i = 0; i < 70'000; ++i) make_file(*volume, "f" + std::to_string(i));
    CHECK(count(ChunkKind::free, 512) >= 10);  // eighteen of inodes, one of the directory
}

TEST_CASE("space: fallocate may have what metadata gave back") {
    Mounted volume(32 << 20);
    const InodeNo file = make_file(*volume, "f");
    const std::string name(200, 'n');
    for (int i = 0; i < 20000; ++i)
        REQUIRE(volume->link(file, kRoot, name + std::to_string(i)).ok());
    const std::uint64_t available = volume->info().blocks_available;
    for (int i = 0; i < 20000; ++i) REQUIRE(volume->unlink(kRoot, name + std::to_string(i)).ok());
    const std::uint64_t given_back = volume->info().blocks_available - available;
    CHECK(given_back >= 512);
    const std::uint64_t all = volume->info().blocks_available * media::kBlockSize;
    CHECK(errno_of(volume->fallocate(0, file, 0, 0, all + 4096, kUser)) == ENOSPC);
    CHECK(errno_of(volume->fallocate(0, file, 0, 0, all, kUser)) == 0);
    CHECK(volume->info().blocks_available == 0);
    volume.check();
}

TEST_CASE("space: a write into allocated space needs no block, not even the last one") {
    auto region = std::move(pm::memory_region(64 << 20)).take();
    pm::Region *kept = region.get();
    mkfs::MakeOptions options;
    options.root_reserve = 0;
    REQUIRE(mkfs::make(*region, options).ok());
    auto volume = Volume::open(std::move(region), {}).take();
    const InodeNo ino = fill(*volume);
    const std::uint64_t blocks = volume->getattr(ino).take().blocks - 400;
    std::string text(4096, 'x');
    bool was_full = false;
    for (std::uint64_t at = 0; at < blocks; at += 2) {  // each a piece of its own
        std::memcpy(text.data(), &at, sizeof at);
        REQUIRE(errno_of(volume->write(ino, at * 4096, bytes_of(text), false, kUser)) == 0);
        was_full = was_full || volume->info().blocks_free == 0;
    }
    CHECK(was_full);
    for (std::uint64_t at = 0; at < blocks; at += 2) {
        std::memcpy(text.data(), &at, sizeof at);
        REQUIRE(read_at(*volume, ino, at * 4096, 4096) == text);
        if (at + 1 < blocks - 1)
            REQUIRE(read_at(*volume, ino, at * 4096 + 4096, 4096) == std::string(4096, '\0'));
    }
    REQUIRE(volume->unlink(kRoot, "filler").ok());
    check_clean(*kept);
}

TEST_CASE("space: a transaction that is dropped leaves no chunk reserved") {
    auto region = std::move(pm::memory_region(16 << 20)).take();
    REQUIRE(mkfs::make(*region, {}).ok());
    media::Superblock sb;
    std::memcpy(static_cast<void *>(&sb), region->meta(), sizeof sb);
    auto journal =
        journal::Journal::open(*region, sb, journal::BootId{}, journal::Journal::Use::write).take();
    auto allocator = core::Allocator::open(*journal, sb).take();
    core::Core core{*journal, sb, *allocator};
    const auto take_all = [&](std::uint64_t owner) {  // so many chunks
        core::Change change(core);
        REQUIRE(change.begin().ok());
        core::Goal goal;
        goal.owner = owner;
        goal.large = true;
        std::uint64_t n = 0;
        while (allocator->take_data(change, goal, 1).ok() && n < 100) {
            ++n;
            goal.file_block += media::kChunkBlocks;
            goal.near = BlockNo(0);
            if (allocator->available_blocks(true) < media::kChunkBlocks) break;
        }
        return n;
    };
    const std::uint64_t before = allocator->available_blocks(true);
    const std::uint64_t first = take_all(5);
    CHECK(allocator->available_blocks(true) == before);
    core::Change change(core);
    REQUIRE(change.begin().ok());
    CHECK(allocator->take_chunks(change, allocator->map().free_chunks(), 512, true).ok());
    CHECK(first >= 1);
}

TEST_CASE("space: a file in many pieces goes in few transactions") {
    Mounted volume(32 << 20);
    const InodeNo ino = make_file(*volume, "f"), between = make_file(*volume, "g");
    const std::string text(4096, 'x');
    for (std::uint64_t i = 0; i < 400; ++i)
        for (const InodeNo one : {ino, between})
            REQUIRE(volume->write(one, i * 8192, bytes_of(text), false, kUser).ok());
    const std::uint64_t before = volume->info().tx_last;
    SetAttr set;
    set.size = 0;
    REQUIRE(volume->setattr(ino, set, kUser).ok());
    CHECK(volume->info().tx_last - before < 40);
    volume.check();
}

// Wide enough that one node above the leaves does not hold them all.
TEST_CASE("space: a map of many extents gives its nodes back as it is emptied, from either end") {
    constexpr std::uint64_t kExtents = 60'000, kLeft = 10;
    for (const bool from_front : {true, false}) {
        CAPTURE(from_front);
        Mounted volume(512 << 20);
        const InodeNo ino = make_file(*volume, "f");
        for (std::uint64_t i = 0; i < kExtents; ++i)
            REQUIRE(volume->fallocate(0, ino, 0, i * 8192, 4096, kUser).ok());
        const std::uint64_t nodes = volume->getattr(ino).take().blocks - kExtents;
        CHECK(nodes > 300);
        const std::uint64_t most = (kExtents - kLeft) * 8192;
        if (from_front) {
            REQUIRE(
                volume
                    ->fallocate(0, ino, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, most, kUser)
                    .ok());
        } else {
            SetAttr set;
            set.size = kLeft * 8192;
            REQUIRE(volume->setattr(ino, set, kUser).ok());
        }
        CHECK(volume->file_info(ino).take().extents == kLeft);
        CHECK(volume->getattr(ino).take().blocks <= kLeft + 2);
        volume.check();
    }
}

TEST_CASE(
    "space: a journal that lost its records makes the volume read-only, and goes on reading") {
    SmallVolume volume(16 << 20);
    const InodeNo ino = make_file(*volume, "f");
    volume.spoil_journal();
    CHECK(errno_of(volume->commit_group()) == EIO);
    CHECK(volume->info().damaged);
    CHECK(errno_of(volume->make(kRoot, "g", S_IFREG | 0644, 0, kUser)) == EROFS);
    CHECK(volume->getattr(ino).ok());
}
