// The superblock and its copies: one damaged block never makes a volume unusable, and no leftover
// is taken for a copy.
#include <doctest/doctest.h>
#include <sys/stat.h>

#include <cstring>
#include <random>

#include "base/bytes.h"
#include "fsck/check.h"
#include "fsck/repair.h"
#include "media/geometry.h"
#include "media/verify.h"
#include "mkfs/make.h"
#include "support/builder.h"
#include "volume/volume.h"

using namespace pmfs;
using namespace pmfs::media;

namespace {

// A volume whose bytes can be changed between mounts.
struct Bench {
    explicit Bench(std::uint64_t size, std::uint64_t volume_size = 0) {
        region = pm::memory_region(size).take();
        if (volume_size == 0) {
            REQUIRE(mkfs::make(*region, {}).ok());
        } else {
            const auto smaller = pm::memory_region(volume_size).take();
            REQUIRE(mkfs::make(*smaller, {}).ok());
            copy_from(*smaller);
        }
        saved.assign(bytes(), bytes() + kBlockSize);
    }
    void copy_from(const pm::Region &other) { std::memcpy(bytes(), other.data(), other.size()); }
    std::byte *bytes(std::uint64_t block = 0) {
        return const_cast<std::byte *>(region->data()) + block * kBlockSize;
    }
    Superblock &sb(std::uint64_t block = 0) {
        return *reinterpret_cast<Superblock *>(bytes(block));
    }
    void restore() { std::memcpy(bytes(), saved.data(), kBlockSize); }
    Result<FoundSuperblock> find() { return find_superblock({bytes(), region->size()}); }
    int error() {
        const auto found = find();
        return found.ok() ? 0 : found.error().errno_value();
    }
    std::unique_ptr<pm::Region> again() {
        pm::OpenOptions options;
        options.exclusive = false;
        return pm::open_region("/proc/self/fd/" + std::to_string(region->mapping_fd()), options)
            .take();
    }

    std::unique_ptr<pm::Region> region;
    std::vector<std::byte> saved;
};

constexpr std::uint64_t kSizes[] = {4 * kMiB, 64 * kMiB, kGiB, kGiB + 4 * kMiB};

}  // namespace

TEST_CASE("superblock: every volume has a copy, and a single flipped bit makes it be used") {
    for (const std::uint64_t size : kSizes) {
        CAPTURE(size);
        Bench bench(size);
        const std::uint64_t copy =
            size > kGiB ? kGroupBlocks : bench.region->size() / kBlockSize - 1;
        for (std::uint64_t at = 0; at < kBlockSize; at += at < 256 ? 1 : 61) {
            CAPTURE(at);
            bench.bytes()[at] ^= std::byte(1 << at % 8);
            const auto found = bench.find();
            bench.restore();
            REQUIRE(found.ok());
            CHECK(found.value().block == copy);
            CHECK(std::memcmp(found.value().sb.uuid, bench.sb().uuid, 16) == 0);
        }
        CHECK(bench.find().value_or({}).block == 0);
    }
}

TEST_CASE("superblock: block 0 may be lost altogether") {
    for (const std::uint64_t size : kSizes)
        for (const int fill : {0, 0xff, 0x55, -1}) {
            Bench bench(size);
            std::memset(bench.bytes(), fill, kBlockSize);
            std::mt19937 random(static_cast<unsigned>(size));
            if (fill < 0)
                for (std::size_t i = 0; i < kBlockSize; ++i)
                    bench.bytes()[i] = static_cast<std::byte>(random());
            CHECK(bench.find().value_or({}).block != 0);
        }
}

TEST_CASE("superblock: a copy is found on a device that is larger than the volume") {
    for (const std::uint64_t size : {6 * kMiB, 100 * kMiB, 3 * kGiB})
        for (const std::uint64_t volume : {4 * kMiB, 62 * kMiB}) {
            if (volume >= size) continue;
            CAPTURE(size);
            CAPTURE(volume);
            Bench bench(size, volume);
            bench.bytes()[1000] ^= std::byte{1};
            const auto found = bench.find();
            REQUIRE(found.ok());
            CHECK(found.value().block == volume / kBlockSize - 1);
        }
}

TEST_CASE("superblock: leftovers of an older mkfs do not count as copies") {
    Bench bench(16 * kMiB, 8 * kMiB);
    const std::uint64_t old = 8 * kMiB / kBlockSize - 1, now = 16 * kMiB / kBlockSize - 1;
    REQUIRE(mkfs::make(*bench.region, {}).ok());
    REQUIRE(read_superblock({bench.bytes(old), kBlockSize}, old, 16 * kMiB).ok());
    bench.bytes()[90] ^= std::byte{1};
    CHECK(bench.find().value_or({}).block == now);
    bench.bytes(now)[90] ^= std::byte{1};
    CHECK(bench.error() == EUCLEAN);
}

TEST_CASE("superblock: a forged copy among a file's bytes does not come before the real one") {
    Bench bench(16 * kMiB);
    const std::uint64_t forged = 8 * kMiB / kBlockSize - 1;
    bench.sb(forged) = bench.sb();
    bench.sb(forged).header.self.set(forged);
    bench.sb(forged).block_count.set(forged + 1);
    bench.sb(forged).copy_block.set(forged);
    seal_block(bench.sb(forged));
    bench.bytes()[90] ^= std::byte{1};
    CHECK(bench.find().value_or({}).block == 16 * kMiB / kBlockSize - 1);
}

TEST_CASE("superblock: after growing, no copy that a file holds comes before the real one") {
    Bench bench(16 * kMiB, 8 * kMiB);
    const std::uint64_t real = 8 * kMiB / kBlockSize - 1, end = 16 * kMiB / kBlockSize;
    REQUIRE(bench.sb().copy_block.get() == real);
    for (const std::uint64_t at : {std::uint64_t{0}, real}) {
        bench.sb(at).block_count.set(end);
        seal_block(bench.sb(at));
    }
    CHECK(bench.error() == 0);
    CHECK(fsck::check(*bench.region).take().clean());
    const std::uint64_t forged = end - 1;
    bench.sb(forged) = bench.sb(real);
    bench.sb(forged).header.self.set(forged);
    bench.sb(forged).copy_block.set(forged);
    seal_block(bench.sb(forged));
    bench.bytes()[90] ^= std::byte{1};
    CHECK(bench.find().value_or({}).block == real);
}

TEST_CASE("superblock: a copy may have the new size if growing was interrupted") {
    Bench bench(16 * kMiB, 8 * kMiB);
    const std::uint64_t copy = 8 * kMiB / kBlockSize - 1;
    bench.sb(copy).block_count.set(16 * kMiB / kBlockSize);
    seal_block(bench.sb(copy));
    CHECK(bench.find().value_or({}).sb.block_count.get() == 8 * kMiB / kBlockSize);
    CHECK(fsck::check(*bench.region).take().clean());
    bench.bytes()[90] ^= std::byte{1};
    CHECK(bench.find().value_or({}).sb.block_count.get() == 16 * kMiB / kBlockSize);
    auto report = fsck::check(*bench.region).take();
    CHECK(report.found == 1);
    REQUIRE(fsck::repair(*bench.region, report).ok());
    CHECK(fsck::check(*bench.region).take().clean());
}

TEST_CASE("superblock: a volume of format 1 is refused, with a sentence that says what to do") {
    Bench bench(4 * kMiB);
    bench.sb().version_major.set(1);
    seal_block(bench.sb());
    const auto found = bench.find();
    REQUIRE(!found.ok());
    CHECK(found.error().errno_value() == ENOTSUP);
    const std::string what = found.error().what();
    CHECK(what.find("format 1") != what.npos);
    CHECK(what.find("mkfs.pmfs") != what.npos);
    CHECK(!fsck::check(*bench.region).ok());
    CHECK(looks_like_superblock({bench.bytes(), kBlockSize}));
}

TEST_CASE("superblock: block 0 of another program is not treated as damage") {
    for (const auto &[at, text] : {std::pair{std::size_t{0}, "XFSB"},
                                   {1080, "\x53\xef"},
                                   {4086, "SWAPSPACE2"},
                                   {510, "\x55\xaa"}}) {
        Bench bench(4 * kMiB);
        std::memset(bench.bytes(), 0, kBlockSize);
        std::memcpy(bench.bytes() + at, text, std::strlen(text));
        CHECK(bench.error() == EINVAL);
    }
}

TEST_CASE("superblock: a copy with other features than block 0 is compared, too") {
    Bench bench(4 * kMiB);
    bench.sb().features_incompat.set(1ull << 40);  // sound, and newer than this program
    seal_block(bench.sb());
    CHECK(bench.error() == ENOTSUP);
}

TEST_CASE(
    "superblock: a volume whose block 0 is damaged mounts with a warning, and fsck repairs it") {
    for (const std::uint64_t size : {4 * kMiB, kGiB + 4 * kMiB}) {
        Bench bench(size);
        bench.bytes()[2000] ^= std::byte{8};  // a reserved byte
        {
            auto volume = Volume::open(bench.again(), {});
            REQUIRE(volume.ok());
            CHECK(volume.value()->info().superblock_from != BlockNo(0));
            REQUIRE(
                volume.value()->make(InodeNo(kRootIno), "new", S_IFREG | 0644, 0, Caller{}).ok());
            REQUIRE(volume.value()->close().ok());
        }
        CHECK(bench.bytes()[2000] == std::byte{8});  // a mount never writes it
        auto report = fsck::check(*bench.region).take();
        REQUIRE(report.found == 1);
        CHECK(fsck::id_of(report.problems[0].code) == "PM0101");
        REQUIRE(fsck::repair(*bench.region, report).ok());
        CHECK(report.repaired == 1);
        CHECK(std::memcmp(bench.bytes(), bench.saved.data(), kBlockSize) == 0);
        CHECK(fsck::check(*bench.region).take().clean());
        auto volume = Volume::open(bench.again(), {});
        REQUIRE(volume.ok());
        CHECK(volume.value()->info().superblock_from == BlockNo(0));
    }
}

TEST_CASE("superblock: a copy that is damaged or differs is repaired from block 0") {
    for (const std::uint64_t size : {4 * kMiB, kGiB + 4 * kMiB})
        for (const bool sealed : {false, true}) {
            Bench bench(size);
            std::uint64_t copy = 0;
            for_each_copy(bench.sb(), [&](std::uint64_t block) { copy = block; });
            bench.sb(copy).label[0] ^= 1;
            if (sealed) seal_block(bench.sb(copy));
            auto report = fsck::check(*bench.region).take();
            REQUIRE(report.found == 1);
            CHECK(fsck::id_of(report.problems[0].code) == (sealed ? "PM0103" : "PM0102"));
            REQUIRE(fsck::repair(*bench.region, report).ok());
            CHECK(fsck::check(*bench.region).take().clean());
        }
}

TEST_CASE("superblock: its copy's block is never given to a file") {
    Bench bench(4 * kMiB);
    const std::uint64_t copy = bench.sb().copy_block.get();
    {
        auto volume = Volume::open(bench.again(), {}).take();
        const auto made = volume->make(InodeNo(kRootIno), "f", S_IFREG | 0644, 0, Caller{});
        REQUIRE(made.ok());
        const std::vector<std::byte> piece(64 * kKiB, std::byte{0xab});
        for (std::uint64_t at = 0;; at += piece.size())
            if (const auto n = volume->write(made.value().ino, at, piece, false, Caller{});
                !n.ok() || n.value() < piece.size())
                break;
        REQUIRE(volume->close().ok());
    }
    CHECK(read_superblock({bench.bytes(copy), kBlockSize}, copy, 4 * kMiB).ok());
    CHECK(fsck::check(*bench.region).take().clean());
}
