// Operations of several steps: claims, places that are kept, and data that is copied without a
// lock.
#include <doctest/doctest.h>
#include <linux/falloc.h>

#include <atomic>
#include <thread>

#include "core/epoch.h"
#include "unit/small_volume.h"

using namespace pmfs;
using namespace pmfs::test;

namespace {

class Image : public SmallVolume {
public:
    explicit Image(std::uint64_t size, std::uint64_t journal = media::kJournalSizeMin)
        : SmallVolume(size, SimMedia::Flavour::image, journal) {}
    void write(InodeNo ino, std::uint64_t offset, std::size_t size, char fill) {
        const std::string text(size, fill);
        REQUIRE(
            retry([&] { return (*this)->write(ino, offset, bytes_of(text), false, user()); }).ok());
    }
    // A file of which every second block is a hole.
    InodeNo fragmented(const std::string &name, unsigned extents) {
        const InodeNo ino = make_file(**this, name);
        for (unsigned i = 0; i < extents; ++i) write(ino, (2 * i + 1) * kBlock, kBlock, 'a');
        return ino;
    }
};

}  // namespace

TEST_CASE("steps: while a write waits between steps, other changes of the file wait for it") {
    Image image(16 << 20, 1 << 20);
    const InodeNo ino = image.fragmented("f", 8);
    const std::string text(16 * kBlock, 'w');
    const auto bytes = std::as_bytes(std::span(text));
    Progress progress;
    image.wait_behind(5);
    const auto written = image->write(ino, 0, bytes, false, user(&progress));
    REQUIRE(errno_of(written) == kParkErrno);
    REQUIRE(progress.kept());

    std::uint64_t bad = 0;
    const auto other = image->write(ino, 20 * kBlock, bytes.first(kBlock), false, user());
    CHECK(errno_of(other) == kClaimErrno);
    CHECK(other.error().subject() == ino.value());
    CHECK(errno_of(image->setattr(ino, size_of(0), user())) == kClaimErrno);
    CHECK(errno_of(image->seal(ino, SealLevel::as_is, user(), true, &bad)) == kClaimErrno);
    CHECK(errno_of(image->prepare(ino, 0, 0, 0, user())) == kClaimErrno);
    CHECK(errno_of(image->fallocate(0, ino, 0, 0, kBlock, user())) == kClaimErrno);
    CHECK(errno_of(image->file_info(ino)) == kClaimErrno);
    CHECK(image->getattr(ino).ok());
    CHECK(image->setattr(ino, SetAttr{.mode = 0600}, user()).ok());

    bool ran = false;
    image->when_ready(other.error(), [&] { ran = true; });
    image->tend(0);
    CHECK_FALSE(ran);
    // It goes on where it stopped: the blocks that were there before are not written once more.
    const std::size_t begun = image.begun();
    const auto done = image->write(ino, 0, bytes, false, user(&progress));
    CHECK(done.ok());
    CHECK(done.value_or(0) == text.size());
    CHECK(image.begun() - begun < 16);
    CHECK_FALSE(progress.kept());
    image->tend(0);
    CHECK(ran);
    CHECK(image->setattr(ino, size_of(5), user()).ok());
    CHECK(image->seal(ino, SealLevel::as_is, user(), true, &bad).ok());
    image.check();
}

TEST_CASE("steps: a dropped request releases its claims and reservations") {
    Image image(16 << 20, 1 << 20);
    const InodeNo ino = make_file(*image, "f");
    const std::string text(64 * kBlock, 'w');
    const auto bytes = std::as_bytes(std::span(text));
    const auto free = image->info().blocks_free;
    for (const std::size_t waits : {1u, 2u}) {  // before the blocks are reserved, and behind that
        Progress progress;
        image.wait_behind(waits);
        const auto written = image->write(ino, 0, bytes, false, user(&progress));
        CAPTURE(waits);
        if (written.ok()) break;
        CHECK(errno_of(image->setattr(ino, size_of(0), user())) == kClaimErrno);
        progress.drop();
        CHECK(image->setattr(ino, size_of(0), user()).ok());
        CHECK(image->info().blocks_free == free);
    }
    REQUIRE(image->commit_group().ok());
    // All of it can be had.
    const auto info = image->info();
    const auto all = image.retry([&] {
        return image->fallocate(0, ino, 0, 0, (info.blocks_available - 8) * kBlock, user());
    });
    CHECK(all.ok());
    image.check();
}

TEST_CASE(
    "steps: a write into a fragmented file ends on the smallest journal, with and without a "
    "place") {
    for (const bool keeps : {true, false}) {
        Image image(16 << 20);
        const InodeNo ino = image.fragmented("f", 128);
        const std::string text(256 * kBlock, 'w');
        Progress progress;
        int parked = 0;
        const auto done = image.retry(
            [&] {
                ++parked;
                return image->write(ino, 0, std::as_bytes(std::span(text)), false,
                                    user(keeps ? &progress : nullptr));
            },
            300);
        REQUIRE(done.ok());
        CHECK(done.value() == text.size());
        CHECK(parked > 1);
        CHECK((read_at(*image, ino, 0, text.size()) == text));
        image.check();
    }
}

TEST_CASE("steps: every operation on a file of many extents lets other operations run in between") {
    Image image(32 << 20, 4 << 20);
    std::uint64_t bad = 0;
    const InodeNo ino = image.fragmented("f", 3000);
    Progress progress;
    const auto info = image->file_info(ino, &progress);
    REQUIRE(info.ok());
    CHECK(info.value().extents == 3000);
    CHECK(image.retry([&] { return image->seal(ino, SealLevel::as_is, user(), true, &bad); }).ok());
    CHECK(image.retry([&] { return image->unseal(ino, user(), true); }).ok());
    CHECK(image
              .retry([&] {
                  return image->fallocate(0, ino, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                                          1000 * kBlock, user());
              })
              .ok());
    CHECK(image->file_info(ino).take().extents == 2500);
    Progress place;
    CHECK(
        image.retry([&] { return image->setattr(ino, size_of(100 * kBlock), user(&place)); }).ok());
    CHECK(image->file_info(ino).take().extents == 0);
    image.check();
}

TEST_CASE("steps: a freed block is not reused while it is being read") {
    auto region = std::move(pm::memory_region(16 << 20)).take();
    REQUIRE(mkfs::make(*region, {}).ok());
    MountOptions options;
    options.no_background = true;
    auto opened = Volume::open(std::move(region), options);
    REQUIRE(opened.ok());
    Volume &volume = *opened.value();
    const std::string old(256 * kBlock, 'o'), fresh(64 * kBlock, 'n');
    const InodeNo ino = volume.make(kRoot, "f", S_IFREG | 0644, 0, user()).take().ino;
    const InodeNo other = volume.make(kRoot, "g", S_IFREG | 0644, 0, user()).take().ino;
    REQUIRE(volume.write(ino, 0, std::as_bytes(std::span(old)), false, user()).ok());
    int stopped = 0;
    REQUIRE(volume
                .read(ino, 0, old.size(),
                      [&](std::span<const iovec> pieces) {
                          REQUIRE(volume.setattr(ino, size_of(0), user()).ok());
                          for (std::uint64_t at = 0; stopped == 0; at += fresh.size())
                              stopped = errno_of(volume.write(
                                  other, at, std::as_bytes(std::span(fresh)), false, user()));
                          for (const iovec &p : pieces) {
                              const std::string_view seen(static_cast<char *>(p.iov_base),
                                                          p.iov_len);
                              CHECK(seen.find('n') == std::string_view::npos);
                          }
                      })
                .ok());
    CHECK(stopped == kParkErrno);
    CHECK(volume.commit_group().ok());
    const std::uint64_t end = volume.getattr(other).take().size;
    CHECK(volume.write(other, end, std::as_bytes(std::span(fresh)), false, user()).ok());
}

TEST_CASE("steps: no write in place is lost while the file's blocks are moved") {
    auto region = std::move(pm::memory_region(128 << 20)).take();
    REQUIRE(mkfs::make(*region, {}).ok());
    auto opened = Volume::open(std::move(region), {});
    REQUIRE(opened.ok());
    Volume &volume = *opened.value();
    constexpr std::uint64_t kSize = 2 << 20, kPiece = 64 << 10;
    for (int round = 0; round < 10; ++round) {
        const std::string name = "f" + std::to_string(round);
        const InodeNo ino = volume.make(kRoot, name, S_IFREG | 0644, 0, user()).take().ino;
        // Back to front, so that it is in pieces.
        std::string bytes(kPiece, 'a');
        for (std::uint64_t at = kSize; at > 0; at -= kPiece)
            REQUIRE(volume.write(ino, at - kPiece, std::as_bytes(std::span(bytes)), false, user())
                        .ok());
        std::atomic<bool> done{false};
        std::string wanted(kSize, 'a');
        std::thread writer([&] {
            for (unsigned n = 0; !done || n < 10; ++n) {
                const std::string text(kPiece, static_cast<char>('A' + n % 26));
                const std::uint64_t at = n * kPiece % kSize;
                auto written = volume.write(ino, at, std::as_bytes(std::span(text)), false, user());
                if (!written.ok()) continue;  // it would have to wait, and did nothing
                wanted.replace(at, kPiece, text);
            }
        });
        Result<> prepared;
        do prepared = volume.prepare(ino, 0, 0, 2 << 20, user());
        while (!prepared.ok() && must_park(prepared.error()));
        done = true;
        writer.join();
        CHECK(prepared.ok());
        CHECK((read_at(volume, ino, 0, kSize) == wanted));
        CHECK(volume.file_info(ino).take().extents == 1);
        CHECK(volume.unlink(kRoot, name).ok());
        volume.forget(ino, 1);
    }
    CHECK(volume.close().ok());
}

TEST_CASE("epochs: unmapped blocks are free when all readers that could have seen them have left") {
    core::Epochs epochs;
    CHECK(epochs.left(epochs.advance()));
    std::uint64_t freed;
    {
        const core::Epochs::Section early(epochs);
        freed = epochs.advance();
        CHECK_FALSE(epochs.left(freed));
        const core::Epochs::Section late(epochs);  // which cannot have seen it
        CHECK_FALSE(epochs.left(freed));
    }
    const core::Epochs::Section late(epochs);
    CHECK(epochs.left(freed));
}
