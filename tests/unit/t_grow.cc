// A volume that grows under its users: in memory, in an image file, in steps and all at once; and
// what only root may fill.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <thread>

#include "base/bytes.h"
#include "base/file_descriptor.h"
#include "fsck/check.h"
#include "media/geometry.h"
#include "media/verify.h"
#include "mkfs/make.h"
#include "unit/files.h"

using namespace pmfs;
using namespace pmfs::test;

namespace {

// A file with a volume on it, which can be made longer under its mount.
class Medium {
public:
    enum class Kind { memory, image };
    static constexpr Kind kBoth[] = {Kind::memory, Kind::image};

    Medium(Kind kind, std::uint64_t size)
        : fd_(kind == Kind::memory ? ::memfd_create("pmfs", MFD_CLOEXEC)
                                   : ::open("/var/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600)) {
        REQUIRE(fd_.ok());
        set_size(size);
        REQUIRE(mkfs::make(*open_region(), {}).ok());
    }
    void set_size(std::uint64_t size) {
        REQUIRE(::ftruncate(fd_.get(), static_cast<off_t>(size)) == 0);
    }
    void mount(bool read_only = false) {
        MountOptions options;
        options.read_only = read_only;
        auto region = open_region(read_only);
        region_ = region.get();
        auto opened = Volume::open(std::move(region), options);
        REQUIRE_MESSAGE(opened.ok(), std::string(opened.ok() ? "" : opened.error().what()));
        volume_ = std::move(opened).take();
    }
    void unmount() {
        REQUIRE(volume_->close().ok());
        volume_.reset();
        region_ = nullptr;
    }
    // Of the volume as it is on the medium, unmounted.
    void check() {
        const auto region = open_region();
        const auto report = fsck::check(*region);
        REQUIRE(report.ok());
        for (const auto &p : report.value().problems)
            MESSAGE(fsck::id_of(p.code), " ", fsck::info_of(p.code).sentence, " ", p.detail);
        CHECK(report.value().clean());
        CHECK(report.value().blocks == size_ / media::kBlockSize);
    }
    void again() {
        unmount();
        check();
        mount();
        CHECK(volume_->info().size == size_);
    }
    // The errno value, or 0.
    int grow(std::uint64_t size = 0, const Caller &caller = kAdmin) {
        Growth growth;
        const auto grown = volume_->grow(size, caller, &growth);
        if (!grown.ok()) {
            CHECK(growth.before == growth.now);
            return grown.error().errno_value();
        }
        size_ = growth.now;
        CHECK(volume_->info().size == size_);
        return 0;
    }
    void write_at(std::uint64_t offset, const void *bytes, std::size_t size) {
        REQUIRE(::pwrite(fd_.get(), bytes, size, static_cast<off_t>(offset)) ==
                static_cast<ssize_t>(size));
    }
    template <class T>
    T read_at(std::uint64_t offset) {
        T value;
        REQUIRE(::pread(fd_.get(), static_cast<void *>(&value), sizeof value,
                        static_cast<off_t>(offset)) == static_cast<ssize_t>(sizeof value));
        return value;
    }
    Volume *operator->() { return volume_.get(); }
    Volume &operator*() { return *volume_; }
    pm::Region &region() { return *region_; }

private:
    std::unique_ptr<pm::Region> open_region(bool read_only = false) {
        pm::OpenOptions options;
        options.read_only = read_only;
        auto opened = pm::open_region("/proc/self/fd/" + std::to_string(fd_.get()), options);
        REQUIRE_MESSAGE(opened.ok(), std::string(opened.ok() ? "" : opened.error().what()));
        return std::move(opened).take();
    }
    FileDescriptor fd_;
    pm::Region *region_ = nullptr;
    std::unique_ptr<Volume> volume_;
    std::uint64_t size_ = 0;
};

template <class F>
auto waited(Volume &v, F operation) {
    auto done = operation();
    for (int i = 0; i < 1000 && !done.ok() && must_park(done.error()); ++i) {
        (void)v.commit_group().ok();
        done = operation();
    }
    return done;
}

// Takes all that there is but a little, and writes the file's name to its last block.
void fill(Volume &v, const std::string &name) {
    const InodeNo ino = make_file(v, name);
    const std::uint64_t blocks = v.info().blocks_available - 64;
    const auto done =
        waited(v, [&] { return v.fallocate(0, ino, 0, 0, blocks * media::kBlockSize, kAdmin); });
    REQUIRE_MESSAGE(done.ok(), std::string(done.ok() ? "" : done.error().what()));
    const auto wrote = waited(v, [&] {
        return v.write(ino, (blocks - 1) * media::kBlockSize, std::as_bytes(std::span(name)), false,
                       kAdmin);
    });
    REQUIRE(wrote.ok());
}

std::string last_block_of(Volume &v, const std::string &name) {
    const auto attr = v.lookup(kRoot, name);
    REQUIRE(attr.ok());
    std::string text =
        read_at(v, attr.value().ino, attr.value().size - media::kBlockSize, name.size());
    v.forget(attr.value().ino, 1);
    return text;
}

std::uint64_t end_of(Volume &v, const std::string &name) {
    const InodeNo ino = v.lookup(kRoot, name).take().ino;
    Extent extents[64];
    BlockNo end;
    FileBlock from;
    for (std::size_t n = 64; n == 64;) {
        n = v.extents(ino, from, extents).take();
        for (std::size_t i = 0; i < n; ++i) {
            end = std::max(end, extents[i].start + extents[i].blocks);
            from = extents[i].end();
        }
    }
    v.forget(ino, 1);
    return media::byte_of(end);
}

}  // namespace

TEST_CASE("grow: a volume of five chunks grows to three groups and keeps its files") {
    for (const Medium::Kind kind : Medium::kBoth)
        for (const bool remount : {false, true}) {
            CAPTURE(static_cast<int>(kind));
            CAPTURE(remount);
            Medium medium(kind, 10 * kMiB);
            medium.mount();
            std::vector<std::string> names;
            const auto use = [&](std::uint64_t before) {
                names.push_back("file " + std::to_string(names.size()));
                fill(*medium, names.back());
                // (All of a little may be had below.)
                if (medium->info().size - before > 8 * kMiB)
                    CHECK(end_of(*medium, names.back()) > before);
                CHECK(medium->info().blocks_available < 200);
                for (const std::string &name : names) CHECK(last_block_of(*medium, name) == name);
            };
            use(0);
            std::uint64_t size = 10 * kMiB;
            for (const std::uint64_t next : {12 * kMiB, 65 * kMiB, kGiB, kGiB + 2 * kMiB,
                                             2 * kGiB - kMiB, 2 * kGiB + 7 * kMiB}) {
                CAPTURE(next);
                medium.set_size(next);
                const VolumeInfo was = medium->info();
                REQUIRE(medium.grow() == 0);
                const VolumeInfo now = medium->info();
                CHECK(now.size == align_down(next, media::kChunkSize));
                CHECK(now.blocks_total > was.blocks_total);
                CHECK(now.blocks_free - was.blocks_free == now.blocks_total - was.blocks_total);
                CHECK(now.chunks == now.size / media::kChunkSize);
                use(size);
                size = now.size;
                if (remount) medium.again();
            }
            medium.unmount();
            medium.check();
            medium.mount();
            for (const std::string &name : names) CHECK(last_block_of(*medium, name) == name);
            for (const std::string &name : names) REQUIRE(medium->unlink(kRoot, name).ok());
            medium.unmount();
            medium.check();
        }
}

TEST_CASE("grow: a medium that was larger from the start can be used in parts") {
    Medium medium(Medium::Kind::memory, 10 * kMiB);
    medium.set_size(3 * kGiB);
    medium.mount();
    CHECK(medium->info().size == 10 * kMiB);
    CHECK(medium.grow(20 * kMiB) == 0);
    CHECK(medium->info().size == 20 * kMiB);
    CHECK(medium.grow(20 * kMiB + 5000) == 0);  // less than a chunk
    CHECK(medium->info().size == 20 * kMiB);
    medium.again();
    CHECK(medium.grow() == 0);
    CHECK(medium->info().size == 3 * kGiB);
    CHECK(medium.grow() == 0);
    medium.again();
}

TEST_CASE("grow: impossible sizes are refused, and change nothing") {
    Medium medium(Medium::Kind::image, 10 * kMiB);
    medium.set_size(16 * kMiB);
    medium.mount();
    CHECK(medium.grow(0, kUser) == EPERM);
    CHECK(medium.grow(8 * kMiB) == EINVAL);
    CHECK(medium.grow(16 * kMiB + 1) == ENOSPC);
    CHECK(medium->set_root_reserve(100, kUser).error().errno_value() == EPERM);
    CHECK(medium->set_root_reserve(5001, kAdmin).error().errno_value() == EINVAL);
    CHECK(medium.grow(10 * kMiB) == 0);
    medium.again();
    medium.unmount();
    medium.mount(true);
    CHECK(medium.grow() == EROFS);
    CHECK(medium->set_root_reserve(100, kAdmin).error().errno_value() == EROFS);
}

TEST_CASE("grow: a volume whose superblock is damaged does not grow") {
    Medium medium(Medium::Kind::memory, 10 * kMiB);
    const char bad = 'x';
    medium.write_at(1000, &bad, 1);
    medium.set_size(20 * kMiB);
    medium.mount();
    CHECK(medium.grow() == EUCLEAN);
    CHECK(medium->set_root_reserve(100, kAdmin).error().errno_value() == EUCLEAN);
}

TEST_CASE("grow: chunks behind the last group that it marks as used are not added to it") {
    for (const bool in_summary : {false, true}) {
        Medium medium(Medium::Kind::memory, 10 * kMiB);
        const auto layout = media::layout_of(0);
        if (in_summary) {
            for (const std::uint64_t block : {layout.summary_a, layout.summary_b}) {
                auto summary = medium.read_at<media::Summary>(block * media::kBlockSize);
                summary.kind[7] = static_cast<std::uint8_t>(media::ChunkKind::data);
                media::seal_block(summary);
                medium.write_at(block * media::kBlockSize, &summary, sizeof summary);
            }
        } else {
            auto bitmap = medium.read_at<media::BitmapBlock>(layout.bitmaps * media::kBlockSize);
            bitmap.bits[7][3] = media::le64(1);
            media::seal_block(bitmap);
            medium.write_at(layout.bitmaps * media::kBlockSize, &bitmap, sizeof bitmap);
        }
        medium.set_size(20 * kMiB);
        medium.mount();
        CHECK(medium.grow() == EUCLEAN);
        CHECK(medium->info().size == 10 * kMiB);
        CHECK(medium.read_at<media::Superblock>(0).block_count.get() ==
              10 * kMiB / media::kBlockSize);
    }
}

TEST_CASE("grow: the views of a region stay where they are, and no more is mapped than there is") {
    for (const Medium::Kind kind : Medium::kBoth) {
        Medium medium(kind, 10 * kMiB + 100);  // not whole pages
        medium.mount();
        pm::Region &region = medium.region();
        const std::byte *data = region.data(), *meta = region.meta();
        CHECK(region.extend(20 * kMiB).error().errno_value() == EINVAL);
        medium.set_size(20 * kMiB + 100);
        REQUIRE(region.medium_size().value_or(0) == 20 * kMiB + 100);
        REQUIRE(region.extend(20 * kMiB + 100).ok());
        CHECK(region.data() == data);
        CHECK(region.meta() == meta);
        const std::byte seven{7};
        for (const std::uint64_t at : {10 * kMiB + 4095, 10 * kMiB + 4096, 20 * kMiB + 99}) {
            medium.write_at(at, &seven, 1);
            CHECK(data[at] == seven);
            CHECK(meta[at] == seven);
        }
        region.fence(region.write(20 * kMiB, std::span(&seven, 1)));
        CHECK(medium.read_at<std::byte>(20 * kMiB) == seven);
        // A medium that is cut short again is an I/O error, also in what was added.
        medium.set_size(12 * kMiB);
        (void)pm::take_fault();
        CHECK(data[19 * kMiB] == std::byte{0});
        CHECK(pm::take_fault());
        CHECK(region.lost(19 * kMiB, 1));
        medium.set_size(8 * kMiB);
        CHECK(medium.grow() == EIO);
    }
}

TEST_CASE("grow: threads that read, write and ask for space go on meanwhile") {
    for (const Medium::Kind kind : Medium::kBoth) {
        Medium medium(kind, 32 * kMiB);
        medium.mount();
        std::atomic<bool> stop = false;
        std::vector<std::thread> threads;
        for (int t = 0; t < 3; ++t)
            threads.emplace_back([&medium, &stop, t] {
                const std::string text(20000, static_cast<char>('a' + t));
                for (int i = 0; !stop; ++i) {
                    Volume &v = *medium;
                    const std::string name = std::to_string(t) + "-" + std::to_string(i % 7);
                    (void)waited(v, [&] { return v.unlink(kRoot, name); }).ok();
                    auto made =
                        waited(v, [&] { return v.make(kRoot, name, S_IFREG | 0644, 0, kAdmin); });
                    if (!made.ok()) continue;
                    const InodeNo ino = made.value().ino;
                    (void)waited(v, [&] {
                        return v.write(ino, 0, std::as_bytes(std::span(text)), false, kAdmin);
                    }).ok();
                    (void)
                        v.read(ino, 0, text.size(), [&](auto pieces) {
                             for (const iovec &p : pieces)
                                 CHECK(*static_cast<char *>(p.iov_base) == text[0]);
                         }).ok();
                    CHECK(v.info().blocks_free <= v.info().blocks_total + 1000000);
                    v.forget(ino, 1);
                }
            });
        for (const std::uint64_t size :
             {40 * kMiB, 64 * kMiB, 200 * kMiB, kGiB + 6 * kMiB, kGiB + 600 * kMiB, 3 * kGiB}) {
            medium.set_size(size);
            CHECK(medium.grow() == 0);
            std::this_thread::sleep_for(std::chrono::milliseconds(20));
        }
        stop = true;
        for (std::thread &thread : threads) thread.join();
        medium.again();
    }
}

TEST_CASE("reserve: the reserve for root changes at once and durably") {
    for (const Medium::Kind kind : Medium::kBoth) {
        Medium medium(kind, 64 * kMiB);
        medium.mount();
        const VolumeInfo was = medium->info();
        CHECK(medium->root_reserve().value_or(0) == 100);
        REQUIRE(medium->set_root_reserve(2500, kAdmin).ok());
        const std::uint64_t blocks = 64 * kMiB / media::kBlockSize;
        CHECK(was.blocks_available - medium->info().blocks_available ==
              blocks * 2500 / 10000 - blocks * 100 / 10000);
        CHECK(was.blocks_free == medium->info().blocks_free);
        CHECK(medium.grow(64 * kMiB) == 0);
        medium.again();
        CHECK(medium->root_reserve().value_or(0) == 2500);
        REQUIRE(medium->set_root_reserve(0, kAdmin).ok());
        CHECK(medium->info().blocks_available > was.blocks_available);
        medium.again();
        CHECK(medium->root_reserve().value_or(1) == 0);
    }
}
