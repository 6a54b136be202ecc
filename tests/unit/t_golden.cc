// The format does not change unnoticed: volumes of which every byte is known.
//
// A golden image is a recipe (fixed identities and clock, then the builder) and the digest of its
// blocks, class by class; no binary is kept.  A change of the format is one commit with a version,
// a new file in tests/golden and a row in docs/format.md.
//
// Holds docs/man/pmfs.5.
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

constexpr char kGolden_2_0[] =
#include "golden/format_2_0.txt"
    ;

const char *class_of(ConstBytes block) {
    switch (Magic{load<le32>(block).get()}) {
        case Magic::superblock:
            return "superblock";
        case Magic::summary:
            return "summary";
        case Magic::bitmap:
            return "bitmap";
        case Magic::inode_map:
            return "inode_map";
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

TEST_CASE("format: golden volumes have the bytes that version 2.0 gave them") {
    std::string text = "\n";
    text += digests("empty-4m", *test::fixed_volume(4 * kMiB));
    text += digests("empty-1g-4m", *test::fixed_volume(kGiB + 4 * kMiB));
    test::Populated populated;
    text += digests("populated-8m", populated.b.region());
    INFO("if the format was meant to change, this is what tests/golden wants:", text);
    CHECK(text == kGolden_2_0);
}

TEST_CASE("format: golden volumes are clean") {
    CHECK(fsck::check(*test::fixed_volume(4 * kMiB)).value_or({.found = 1}).clean());
    test::Populated populated;
    const auto report = fsck::check(populated.b.region());
    REQUIRE(report.ok());
    CHECK(report.value().clean());
    CHECK(report.value().grants == 3);
}

TEST_CASE("format: a golden volume mounts, is written to, and is clean after it") {
    test::Populated populated;
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
    CHECK(report.value().was_clean);
}
