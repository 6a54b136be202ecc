// The format holds still: volumes whose every byte is known.
//
// A golden image is a recipe (fixed identities and clock, then the builder) and the digest of its
// blocks, class by class; no binary is kept.  A change of the format is one commit with a version,
// a new file in tests/golden and a row in docs/format.md.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sodium.h>
#include <sys/stat.h>

#include <map>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "fsck/check.h"
#include "fsck/print.h"
#include "media/format.h"
#include "support/builder.h"
#include "volume/volume.h"

using namespace pmfs;
using namespace pmfs::media;

namespace {

constexpr char kGolden_1_0[] =
#include "golden/format_1_0.txt"
    ;
constexpr char kGolden_1_1[] =
#include "golden/format_1_1.txt"
    ;
constexpr char kGolden_1_2[] =
#include "golden/format_1_2.txt"
    ;

const char *class_of(ConstBytes block) {
    switch (Magic{load<le32>(block).get()}) {
        case Magic::superblock:
            return "superblock";
        case Magic::state:
            return "state";
        case Magic::summary:
            return "summary";
        case Magic::bitmap:
            return "bitmap";
        case Magic::node:
            return "node";
        case Magic::inode:
            return "inode";
        case Magic::blob:
            return "blob";
        case Magic::ring_header:
            return "ring_header";
        case Magic::making:
        case Magic::record:
            break;
    }
    return nullptr;
}

// One line a class: volume, class, number of blocks, BLAKE2b-256 of their numbers and bytes.
std::string digests(const std::string &volume, const pm::Region &region) {
    std::map<std::string, std::pair<crypto_generichash_state, unsigned>> classes;
    for (std::uint64_t at = 0; at < region.size(); at += kBlockSize) {
        const char *name = class_of({region.data() + at, kBlockSize});
        if (name == nullptr) continue;
        const auto [found, fresh] = classes.try_emplace(name);
        auto &[state, count] = found->second;
        if (fresh) crypto_generichash_init(&state, nullptr, 0, 32);
        const le64 number(at / kBlockSize);
        crypto_generichash_update(&state, reinterpret_cast<const unsigned char *>(&number),
                                  sizeof number);
        crypto_generichash_update(
            &state, reinterpret_cast<const unsigned char *>(region.data() + at), kBlockSize);
        ++count;
    }
    std::string text;
    for (auto &[name, entry] : classes) {
        unsigned char digest[32];
        crypto_generichash_final(&entry.first, digest, sizeof digest);
        text += fmt::format("{} {} {} ", volume, name, entry.second);
        for (const unsigned char byte : digest) text += fmt::format("{:02x}", byte);
        text += "\n";
    }
    return text;
}

}  // namespace

namespace {

std::string all_digests(std::uint32_t minor) {
    std::string text = "\n";
    text += digests("empty-4m", *test::fixed_volume(4 * kMiB, 4096, minor));
    text += digests("empty-1g-4m", *test::fixed_volume(kGiB + 4 * kMiB, 4096, minor));
    test::Populated populated(4096, minor);
    return text + digests("populated-8m", populated.b.region());
}

}  // namespace

TEST_CASE("format: golden volumes have the bytes that version 1.2 gave them") {
    const std::string text = all_digests(2);
    INFO("if the format was meant to change, this is what tests/golden wants:", text);
    CHECK(text == kGolden_1_2);
}

TEST_CASE("format: what older versions wrote has the bytes that it had") {
    CHECK(all_digests(0) == kGolden_1_0);
    CHECK(all_digests(1) == kGolden_1_1);
}

TEST_CASE("format: golden volumes are clean") {
    for (const std::uint32_t minor : {0, 1, 2}) {
        CHECK(fsck::check(*test::fixed_volume(4 * kMiB, 4096, minor)).value_or({}).clean());
        test::Populated populated(4096, minor);
        const auto report = fsck::check(populated.b.region());
        REQUIRE(report.ok());
        CHECK(report.value().clean());
        CHECK(report.value().grants == (minor == 0 ? 0 : 3));
    }
}

TEST_CASE("format: a volume of an older version mounts, is written to, and is clean after it") {
    std::uint32_t minor = 0;
    SUBCASE("1.0") {
        minor = 0;
    }
    SUBCASE("1.1") {
        minor = 1;
    }
    test::Populated populated(4096, minor);
    pm::OpenOptions again;
    again.exclusive = false;
    auto same = pm::open_region(
        "/proc/self/fd/" + std::to_string(populated.b.region().mapping_fd()), again);
    REQUIRE(same.ok());
    {
        auto volume = Volume::open(std::move(same).take(), {});
        REQUIRE(volume.ok());
        REQUIRE(volume.value()->make(InodeNo(kRootIno), "new", S_IFREG | 0644, 0, {}).ok());
        REQUIRE(volume.value()->close().ok());
    }
    const auto report = fsck::check(populated.b.region());
    REQUIRE(report.ok());
    INFO(fsck::text_of(report.value(), "volume"));
    CHECK(report.value().clean());
    CHECK(populated.b.sb().version_minor.get() == minor);
}
