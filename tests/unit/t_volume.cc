// The engine under use: large directories, scattered files, many threads, a full volume; each ends
// with fsck.
#include <dirent.h>
#include <doctest/doctest.h>
#include <linux/falloc.h>
#include <sys/stat.h>

#include <cstdlib>
#include <cstring>
#include <random>
#include <set>
#include <thread>

#include "fsck/check.h"
#include "media/geometry.h"
#include "media/verify.h"
#include "mkfs/make.h"
#include "unit/files.h"

using namespace pmfs;
using namespace pmfs::test;

namespace {

class Mounted {
public:
    explicit Mounted(std::uint64_t size) {
        auto region = std::move(pm::memory_region(size)).take();
        path_ = region->path();
        region_ = region.get();
        REQUIRE(mkfs::make(*region, {}).ok());
        auto opened = Volume::open(std::move(region), {});
        REQUIRE(opened.ok());
        volume_ = std::move(opened).take();
    }
    Volume *operator->() { return volume_.get(); }
    Volume &operator*() { return *volume_; }

    // Flips a bit of a sealed file's digest on the medium, with a checksum that is right.
    void break_digest(InodeNo ino) {
        for (std::uint64_t at = 0; at < region_->size(); at += media::kInodeSize) {
            media::Inode inode;
            std::memcpy(static_cast<void *>(&inode), region_->meta() + at, sizeof inode);
            if (!media::block_ok(std::as_bytes(std::span(&inode, 1)), media::Magic::inode,
                                 inode.header.fsid.get(), ino.value()))
                continue;
            inode.seal_digest[0] ^= 1;
            media::seal_block(inode);
            region_->fence(region_->store_meta(at, std::as_bytes(std::span(&inode, 1))));
        }
    }

    // Damage: a bit of the medium at `at`.
    void flip(std::uint64_t at) {
        const std::byte flipped = region_->meta()[at] ^ std::byte{1};
        region_->fence(region_->store_meta(at, std::span(&flipped, 1)));
    }
    bool whole(std::uint64_t block) const {
        return media::checksum_ok({region_->meta() + block * media::kBlockSize, media::kBlockSize});
    }

    // Looks at all of it as it is now.
    void check() { check_clean(*region_); }

private:
    std::string path_;
    pm::Region *region_;
    std::unique_ptr<Volume> volume_;
};

std::string read_all(Volume &v, InodeNo ino) {
    const std::uint64_t size = v.getattr(ino).take().size;
    std::string text;
    while (text.size() < size) {
        const auto n = v.read(ino, text.size(), 1 << 20, [&](auto pieces) {
            for (const iovec &p : pieces) text.append(static_cast<char *>(p.iov_base), p.iov_len);
        });
        if (!n.ok() || n.value() == 0) break;
    }
    return text;
}

std::set<std::string> names_in(Volume &v, InodeNo dir) {
    std::set<std::string> names;
    REQUIRE(v.readdir(dir, 2, [&](const DirEntry &e) {
                 CHECK(names.emplace(e.name).second);
                 return true;
             }).ok());
    return names;
}

}  // namespace

TEST_CASE("volume: a directory of thousands behaves like a set, in any order of changes") {
    Mounted volume(256 << 20);
    std::set<std::string> model;
    std::mt19937 random(7);
    for (int phase = 0; phase < 3; ++phase) {
        for (int i = 0; i < 4000; ++i) {
            const std::string name =
                std::string(1 + random() % 60, 'x') + std::to_string(random() % 4000);
            // The middle phase mostly removes, so that nodes merge and trees get shallower.
            if (random() % 4 < (phase == 1 ? 1u : 3u)) {
                const auto made = volume->make(kRoot, name, S_IFREG | 0644, 0, kUser);
                CHECK(made.ok() == model.insert(name).second);
                if (made.ok()) volume->forget(made.value().ino, 1);
            } else if (!model.empty()) {
                const auto victim = model.lower_bound(name);
                const std::string gone = victim == model.end() ? *model.begin() : *victim;
                CHECK(volume->unlink(kRoot, gone).ok());
                model.erase(gone);
            }
        }
        CHECK(names_in(*volume, kRoot) == model);
        volume.check();
    }
    for (const std::string &name : model) CHECK(volume->unlink(kRoot, name).ok());
    CHECK(names_in(*volume, kRoot).empty());
    volume.check();
}

TEST_CASE("volume: a scattered file reads as a flat buffer does") {
    Mounted volume(64 << 20);
    const InodeNo ino = make_file(*volume, "f");
    std::string model;
    std::mt19937 random(11);
    for (int i = 0; i < 3000; ++i) {
        const std::uint64_t offset = random() % 6000000, size = random() % 9000 + 1;
        switch (random() % 8) {
            case 0: {  // a hole
                constexpr unsigned mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
                REQUIRE(volume->fallocate(0, ino, mode, offset, size * 5, kUser).ok());
                for (std::uint64_t b = offset; b < std::min(model.size(), offset + size * 5); ++b)
                    model[b] = 0;
                break;
            }
            case 1: {
                if (random() % 8 != 0) break;
                SetAttr set;
                set.size = offset;
                REQUIRE(volume->setattr(ino, set, kUser).ok());
                model.resize(offset);
                break;
            }
            case 2: {
                REQUIRE(
                    volume->fallocate(0, ino, FALLOC_FL_ZERO_RANGE, offset, size * 3, kUser).ok());
                if (model.size() < offset + size * 3) model.resize(offset + size * 3);
                std::fill_n(model.begin() + static_cast<long>(offset), size * 3, 0);
                break;
            }
            default: {
                const std::string text(size, static_cast<char>(random() % 255 + 1));
                const auto n = volume->write(ino, offset, bytes_of(text), false, kUser);
                if (!n.ok()) MESSAGE(std::string(n.error().what()));
                REQUIRE(n.ok());
                REQUIRE(n.value() == size);
                if (model.size() < offset + size) model.resize(offset + size);
                model.replace(offset, size, text);
            }
        }
    }
    CHECK(read_all(*volume, ino) == model);
    volume.check();
    // Then whole: aligned in units of 2 MiB, same bytes, and sealed for good.
    REQUIRE(volume->prepare(ino, 0, 0, 2 << 20, kUser).ok());
    CHECK(read_all(*volume, ino) == model);
    std::uint64_t bad = 0;
    CHECK(volume->seal(ino, SealLevel::full, kUser, true, &bad).ok());
    CHECK(volume->file_info(ino).take().extents <= 4);
    volume.check();
}

TEST_CASE("volume: a full one returns ENOSPC, and everything can be deleted from it") {
    Mounted volume(16 << 20);
    std::vector<std::string> names;
    const std::string text(50000, 'z');
    for (int i = 0;; ++i) {
        const std::string name = "f" + std::to_string(i);
        const auto made = volume->make(kRoot, name, S_IFREG | 0644, 0, kUser);
        if (!made.ok()) {
            CHECK(made.error().errno_value() == ENOSPC);
            break;
        }
        names.push_back(name);
        const auto n = volume->write(made.value().ino, 0, bytes_of(text), false, kUser);
        volume->forget(made.value().ino, 1);
        if (!n.ok() || n.value() < text.size()) {
            if (!n.ok()) CHECK(n.error().errno_value() == ENOSPC);
            break;
        }
    }
    CHECK(names.size() > 100);
    CHECK(volume->info().blocks_available == 0);
    volume.check();
    for (const std::string &name : names) CHECK(volume->unlink(kRoot, name).ok());
    CHECK(volume->info().blocks_available > 3000);
    volume.check();
}

TEST_CASE("volume: threads that work side by side leave a sound volume") {
    Mounted volume(128 << 20);
    const InodeNo shared = make_file(*volume, "shared");
    REQUIRE(volume->fallocate(0, shared, 0, 0, 1 << 20, kUser).ok());
    std::vector<std::thread> threads;
    for (unsigned t = 0; t < 4; ++t)
        threads.emplace_back([&volume, shared, t] {
            std::mt19937 random(t);
            const auto dir = volume->make(kRoot, "d" + std::to_string(t), S_IFDIR | 0755, 0, kUser);
            const std::string text(6000, static_cast<char>('a' + t));
            for (int i = 0; i < 600; ++i) {
                const std::string name = "n" + std::to_string(random() % 20);
                const auto made = volume->make(dir.value().ino, name, S_IFREG | 0644, 0, kUser);
                if (made.ok()) {
                    (void)volume->write(made.value().ino, 0, bytes_of(text), false, kUser).ok();
                    volume->forget(made.value().ino, 1);
                } else {
                    (void)volume->unlink(dir.value().ino, name).ok();
                }
                (void)volume
                    ->write(shared, t * 100000 + random() % 50000, bytes_of(text), false, kUser)
                    .ok();
                (void)volume->read(shared, random() % 900000, 8192, [](auto) {}).ok();
                (void)volume->getattr(dir.value().ino).ok();
            }
        });
    for (auto &thread : threads) thread.join();
    volume.check();
}

TEST_CASE("volume: a change of a block does not seal damage to another part of it") {
    Mounted volume(16 << 20);
    const auto layout = media::layout_of(0);
    REQUIRE(volume.whole(layout.summary_a));
    volume.flip(layout.summary_a * media::kBlockSize + 2000);  // after it was verified
    const InodeNo ino = make_file(*volume, "f");
    const std::string text(9000, 'q');
    REQUIRE(volume->write(ino, 0, bytes_of(text), false, kUser).ok());
    CHECK(!volume.whole(layout.summary_a));
    CHECK(volume.whole(layout.summary_b));
    volume.flip(layout.summary_a * media::kBlockSize + 2000);
    CHECK(volume.whole(layout.summary_a));
    volume.check();
}

TEST_CASE("volume: a sealed map whose digest is wrong is refused at the first open") {
    Mounted volume(16 << 20);
    const InodeNo ino = make_file(*volume, "f");
    const std::string text(9000, 'q');
    REQUIRE(volume->write(ino, 0, bytes_of(text), false, kUser).ok());
    std::uint64_t bad = 0;
    REQUIRE(volume->seal(ino, SealLevel::full, kUser, true, &bad).ok());
    volume.break_digest(ino);
    const auto opened = volume->open_file(ino, {});
    REQUIRE(!opened.ok());
    CHECK(opened.error().errno_value() == EUCLEAN);
    volume.break_digest(ino);  // back again
    const auto again = volume->open_file(ino, {});
    REQUIRE(again.ok());
    CHECK(!again.value().direct_io);
    volume->release(again.value().handle);
}
