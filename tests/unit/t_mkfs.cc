// mkfs: what it makes, what it refuses, and what is left when it is cut short.
#include <doctest/doctest.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "base/bytes.h"
#include "fsck/check.h"
#include "fsck/print.h"
#include "fsck/repair.h"
#include "media/geometry.h"
#include "media/verify.h"
#include "mkfs/make.h"
#include "support/sim_media.h"

using namespace pmfs;
using namespace pmfs::media;

namespace {

void expect_clean(pm::Region &region) {
    const auto report = fsck::check(region);
    REQUIRE(report.ok());
    const std::string text = fsck::text_of(report.value(), "volume");
    INFO(text);
    CHECK(report.value().clean());
}

int error_of(std::uint64_t size, std::uint64_t unit, const mkfs::MakeOptions &options) {
    const auto planned = mkfs::plan(size, unit, options);
    return planned.ok() ? 0 : planned.error().errno_value();
}

}  // namespace

TEST_CASE("mkfs: volumes of every shape are clean, and hold what was asked") {
    struct Shape {
        std::uint64_t size, journal, unit;
    };
    for (const Shape &shape :
         {Shape{4 * kMiB, 0, 0}, Shape{4 * kMiB, kMiB, 0}, Shape{4 * kMiB + 4096, 0, 0},
          Shape{6 * kMiB - 1, 260 * kKiB, 16 * kKiB}, Shape{64 * kMiB, 16 * kMiB, 2 * kMiB},
          Shape{126 * kMiB, 0, 0},  // one bitmap block exactly
          Shape{128 * kMiB, 0, 0},  // one chunk more
          Shape{64 * kMiB, 1960 * kKiB, 0}, Shape{64 * kMiB, 1964 * kKiB, 0},  // to chunk 0's end
          Shape{kGiB, 256 * kMiB, 0}, Shape{kGiB + 2 * kMiB, 0, 0},  // a group of one chunk
          Shape{3 * kGiB - 2 * kMiB, 0, 0}}) {
        CAPTURE(shape.size);
        CAPTURE(shape.journal);
        const auto region = pm::memory_region(shape.size);
        REQUIRE(region.ok());
        mkfs::MakeOptions options;
        options.label = "a label";
        options.journal_size = shape.journal;
        options.mapping_unit = shape.unit;
        options.root_uid = 1000;
        const auto made = mkfs::make(*region.value(), options);
        REQUIRE(made.ok());
        const Superblock &sb = made.value();
        CHECK(sb.block_count.get() == shape.size / kChunkSize * kChunkBlocks);
        if (shape.journal != 0) CHECK(sb.journal_blocks.get() * kBlockSize == shape.journal);
        CHECK(sb.mapping_unit.get() == std::max<std::uint64_t>(shape.unit, 4096));
        CHECK(sb.root_reserve.get() == 100);
        CHECK(std::strcmp(reinterpret_cast<const char *>(sb.label), "a label") == 0);
        CHECK((sb.uuid[6] & 0xf0) == 0x40);
        expect_clean(*region.value());
    }
}

TEST_CASE("mkfs: the root's inode map has room in the root's chunk, wherever the journal ends") {
    // Chunk 0 has 22 blocks before the journal.
    for (std::uint64_t blocks = 480; blocks < 500; ++blocks) {
        CAPTURE(blocks);
        const auto region = pm::memory_region(64 * kMiB);
        REQUIRE(region.ok());
        mkfs::MakeOptions options;
        options.journal_size = blocks * kBlockSize;
        const auto made = mkfs::make(*region.value(), options);
        REQUIRE(made.ok());
        // One less, rather than a root in the last block of a chunk.
        CHECK(made.value().journal_blocks.get() == (blocks == 489 ? 488 : blocks));
        CHECK(made.value().root_block.get() == 22 + made.value().journal_blocks.get());
        expect_clean(*region.value());
    }
}

TEST_CASE("mkfs: each volume gets an fsid, a UUID and a hash key of its own") {
    const auto region = pm::memory_region(4 * kMiB);
    REQUIRE(region.ok());
    const auto a = mkfs::make(*region.value(), {}), b = mkfs::make(*region.value(), {});
    REQUIRE(a.ok());
    REQUIRE(b.ok());
    CHECK(a.value().header.fsid != b.value().header.fsid);
    CHECK(!std::ranges::equal(a.value().uuid, b.value().uuid));
    CHECK(!std::ranges::equal(a.value().hash_key, b.value().hash_key));
    expect_clean(*region.value());
}

TEST_CASE("mkfs: the journal grows with the volume, from 256 KiB to 128 MiB") {
    CHECK(mkfs::default_journal_size(4 * kMiB) == 256 * kKiB);
    CHECK(mkfs::default_journal_size(64 * kMiB) == 256 * kKiB);
    CHECK(mkfs::default_journal_size(128 * kMiB) == 512 * kKiB);
    CHECK(mkfs::default_journal_size(kGiB) == 4 * kMiB);
    CHECK(mkfs::default_journal_size(kTiB) == 128 * kMiB);
    for (std::uint64_t size = 4 * kMiB; size < kGiB; size += 2 * kMiB)
        CHECK(error_of(size, 4096, {}) == 0);
}

TEST_CASE("mkfs: what does not fit is refused before anything is written") {
    const auto with = [](auto set) {
        mkfs::MakeOptions options;
        set(options);
        return options;
    };
    CHECK(error_of(4 * kMiB - 1, 4096, {}) == EINVAL);
    CHECK(error_of(0, 4096, {}) == EINVAL);
    CHECK(error_of(kGiB, kGiB, {}) == EINVAL);  // a device with 1 GiB pages
    CHECK(error_of(kGiB, 2 * kMiB, with([](auto &o) { o.mapping_unit = 4096; })) == EINVAL);
    CHECK(error_of(kGiB, 4096, with([](auto &o) { o.mapping_unit = 12288; })) == EINVAL);
    CHECK(error_of(kGiB, 4096, with([](auto &o) { o.mapping_unit = 4 * kMiB; })) == EINVAL);
    CHECK(error_of(kGiB, 4096, with([](auto &o) { o.journal_size = 252 * kKiB; })) == EINVAL);
    CHECK(error_of(kGiB, 4096, with([](auto &o) { o.journal_size = 257 * kKiB; })) == EINVAL);
    CHECK(error_of(4 * kMiB, 4096, with([](auto &o) { o.journal_size = 2 * kMiB; })) == EINVAL);
    CHECK(error_of(kTiB, 4096, with([](auto &o) { o.journal_size = kGiB; })) == EINVAL);
    CHECK(error_of(kGiB, 4096, with([](auto &o) { o.label = std::string(64, 'x'); })) == 0);
    CHECK(error_of(kGiB, 4096, with([](auto &o) { o.label = std::string(65, 'x'); })) == EINVAL);
    CHECK(error_of(kGiB, 4096, with([](auto &o) { o.root_reserve = 5000; })) == 0);
    CHECK(error_of(kGiB, 4096, with([](auto &o) { o.root_reserve = 5001; })) == EINVAL);
    CHECK(error_of(std::uint64_t{1} << 60, 4096, {}) == 0);  // as much of it as can be used
}

TEST_CASE("mkfs: interrupted anywhere, it leaves a sound volume or none") {
    for (const auto flavour : {test::SimMedia::Flavour::dax, test::SimMedia::Flavour::image}) {
        // Over an older volume, whose blocks must not be taken for new ones.
        const auto old = pm::memory_region(4 * kMiB);
        REQUIRE(old.ok());
        REQUIRE(mkfs::make(*old.value(), {}).ok());
        const std::byte *bytes = old.value()->data();
        test::SimMedia media(flavour, test::MediaImage({bytes, bytes + 4 * kMiB}));
        const auto made = mkfs::make(media, {});
        REQUIRE(made.ok());
        expect_clean(media);
        bool seen_old = false, seen_new = false, seen_none = false;
        for (std::size_t cut = 0; cut <= media.events(); ++cut)
            for (unsigned seed = 0; seed < 8; ++seed) {
                INFO(media.describe(cut, seed));
                test::SimMedia found(flavour, media.after_power_cut(cut, seed));
                const auto report = fsck::check(found);
                if (!report.ok()) {
                    CHECK((report.error().errno_value() == EINVAL ||
                           report.error().errno_value() == EUCLEAN));
                    seen_none = true;
                    continue;
                }
                // Block 0 may be torn, in front of an older volume or behind the new one.
                fsck::Report mended = report.value();
                REQUIRE(fsck::repair(found, mended).ok());
                CHECK(mended.repaired == mended.found);
                CHECK(fsck::check(found).value_or({.found = 1}).clean());
                const auto fsid = load<BlockHeader>({found.data(), kBlockSize}).fsid;
                (fsid == made.value().header.fsid ? seen_new : seen_old) = true;
            }
        CHECK(seen_old);
        CHECK(seen_none);
        CHECK(seen_new);
        test::SimMedia after(flavour, media.after_power_cut(media.events(), 0));
        expect_clean(after);
    }
}

TEST_CASE("mkfs: any write that the medium does not store is an error") {
    for (const auto flavour : {test::SimMedia::Flavour::dax, test::SimMedia::Flavour::image})
        for (std::size_t nth = 0;; ++nth) {
            CAPTURE(nth);
            test::SimMedia media(flavour, test::MediaImage(std::vector<std::byte>(4 * kMiB)));
            media.plant(test::Plant::fail_writes, nth);
            const auto made = mkfs::make(media, {});
            if (!media.plant_is_spent()) {
                CHECK(nth > 10);
                break;
            }
            CHECK(!made.ok());
        }
}

TEST_CASE("superblock: each thing that can be wrong with it has its own error") {
    const auto region = pm::memory_region(8 * kMiB);
    REQUIRE(region.ok());
    REQUIRE(mkfs::make(*region.value(), {}).ok());
    const Superblock good = *reinterpret_cast<const Superblock *>(region.value()->data());
    const auto error = [&](auto change, bool seal = true, std::uint64_t size = 8 * kMiB) {
        Superblock sb = good;
        change(sb);
        if (seal) seal_block(sb);
        const auto read = read_superblock(bytes_of(sb), 0, size);
        return read.ok() ? 0 : read.error().errno_value();
    };
    CHECK(error([](auto &) {}) == 0);
    CHECK(error([](auto &sb) { sb.header.magic.set(1); }) == EINVAL);
    CHECK(error([](auto &sb) { sb.label[0] ^= 1; }, false) == EUCLEAN);
    CHECK(error([](auto &sb) { sb.version_major.set(3); }) == ENOTSUP);
    CHECK(error([](auto &sb) { sb.version_major.set(1); }) == ENOTSUP);
    CHECK(error([](auto &sb) { sb.version_major.set(0); }) == EUCLEAN);
    CHECK(error([](auto &sb) { sb.version_minor.set(7); }) == 0);
    CHECK(error([](auto &sb) { sb.features_incompat.set(1); }) == ENOTSUP);
    CHECK(error([](auto &sb) { sb.features_ro_compat.set(1); }) == 0);
    CHECK(error([](auto &sb) { sb.features_compat.set(1); }) == 0);
    CHECK(error([](auto &sb) { sb.header.self.set(5); }) == EUCLEAN);
    CHECK(error([](auto &) {}, true, 8 * kMiB - 1) == EINVAL);
    CHECK(error([](auto &sb) { sb.block_count.set(0); }) == EUCLEAN);
    CHECK(error([](auto &sb) { sb.block_count.set(~std::uint64_t{0}); }) == EUCLEAN);
    CHECK(error([](auto &sb) { sb.block_count.set(1025); }) == EUCLEAN);
    CHECK(error([](auto &sb) { sb.journal_blocks.set(~std::uint64_t{0}); }) == EUCLEAN);
    CHECK(error([](auto &sb) { sb.journal_start.set(0); }) == EUCLEAN);
    CHECK(error([](auto &sb) { sb.root_block.set(0); }) == EUCLEAN);
    CHECK(error([](auto &sb) { sb.root_block.set(sb.root_block.get() + 1); }) == EUCLEAN);
    CHECK(error([](auto &sb) { sb.root_reserve.set(5000); }) == 0);
    CHECK(error([](auto &sb) { sb.root_reserve.set(5001); }) == EUCLEAN);
    CHECK(error([](auto &sb) { sb.mapping_unit.set(0); }) == EUCLEAN);
    CHECK(error([](auto &sb) { sb.mapping_unit.set(5000); }) == EUCLEAN);
    // Its copy is at the end of a chunk behind the journal: of any, for a volume may have grown.
    CHECK(error([](auto &sb) { sb.copy_block.set(0); }) == 0);
    CHECK(error([](auto &sb) { sb.copy_block.set(1023); }) == 0);
    CHECK(error([](auto &sb) { sb.copy_block.set(1024); }) == EUCLEAN);
    CHECK(error([](auto &sb) { sb.copy_block.set(2047 + 512); }) == EUCLEAN);
    CHECK(error([](auto &sb) { sb.copy_block.set(~std::uint64_t{0}); }) == EUCLEAN);
    Superblock read_only = good;
    read_only.features_ro_compat.set(4);
    CHECK(must_mount_read_only(read_only));
    CHECK(!must_mount_read_only(good));
}
