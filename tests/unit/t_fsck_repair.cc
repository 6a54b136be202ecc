// What fsck repairs; and that a repair, also one that the power cuts, makes nothing worse.
//
// Holds docs/fsck.md "Repairs".
#include <doctest/doctest.h>

#include <cstring>
#include <set>
#include <string>
#include <vector>

#include "fsck/check.h"
#include "fsck/repair.h"
#include "support/sim_media.h"
#include "unit/fsck_plants.h"

using namespace pmfs;
using namespace pmfs::media;
using fsck::Code;
using test::Planted;
using test::Populated;

namespace {

// What follows from the rest of the volume, and is always repaired.
const std::set<Code> kAlways = {Code::inode_map_count_wrong,
                                Code::inodes_used_wrong,
                                Code::inodes_made_wrong,
                                Code::inode_marked_free,
                                Code::free_inode_marked_used,
                                Code::orphan_list_wrong_inode,
                                Code::orphan_list_links,
                                Code::orphan_not_listed,
                                Code::stray_list_links,
                                Code::grant_list_wrong_inode,
                                Code::grant_list_links,
                                Code::grant_not_listed,
                                Code::summary_damaged,
                                Code::summaries_differ,
                                Code::bitmap_damaged,
                                Code::summary_count_wrong,
                                Code::chunk_kind_unknown,
                                Code::block_leaked,
                                Code::data_marked_metadata,
                                Code::chunk_kind_wrong,
                                Code::bits_past_end,
                                Code::summary_group_wrong,
                                Code::free_block_marked_metadata,
                                Code::blocks_wrong,
                                Code::parent_wrong,
                                Code::entries_wrong};
// And that is repaired unless it hides what belongs to whom.
const std::set<Code> kSometimes = {Code::inode_map_damaged, Code::block_marked_free,
                                   Code::metadata_marked_data, Code::link_count_wrong};

std::set<Code> codes_of(const fsck::Report &report) {
    std::set<Code> codes;
    for (const fsck::Problem &problem : report.problems) codes.insert(problem.code);
    return codes;
}

}  // namespace

TEST_CASE(
    "repair: what follows from the rest of the volume is repaired, and nothing else changes") {
    std::set<Code> repaired;
    for (const auto &plants : test::all_plants())
        for (const Planted &plant : plants) {
            INFO(std::string(fsck::info_of(plant.code).name), ", ", std::string(plant.how));
            Populated p(plant.mapping_unit);
            plant.plant(p);
            if (plant.finish) p.b.finish();
            const std::vector<std::byte> before(p.b.bytes(0), p.b.bytes(0) + p.b.region().size());
            auto report = fsck::check(p.b.region()).take();
            REQUIRE(fsck::repair(p.b.region(), report, {}).ok());
            const auto after = fsck::check(p.b.region()).take();
            CHECK(after.found == report.found - report.repaired);
            CHECK(after.found <= 1 + (plant.code == Code::blob_misplaced));
            if (after.clean()) repaired.insert(plant.code);
            if (kAlways.contains(plant.code)) CHECK(after.clean());
            if (!kAlways.contains(plant.code) && !kSometimes.contains(plant.code)) {
                CHECK(report.repaired == 0);
                CHECK(std::memcmp(before.data(), p.b.bytes(0), before.size()) == 0);
            }
        }
    for (const auto &codes : {kAlways, kSometimes})
        for (const Code code : codes) {
            INFO(fsck::id_of(code));
            CHECK(repaired.contains(code));
        }
}

TEST_CASE("repair: several faults at once") {
    Populated p;
    p.b.finish();
    damage(p, test::kMap);
    damage(p, test::kSummaryA);
    damage(p, test::kClasses + 8);
    auto &inode = p.b.inode(p.many_links);
    inode.nlink.set(inode.nlink.get() + 3);
    p.b.seal_inode(p.many_links);
    auto report = fsck::check(p.b.region()).take();
    REQUIRE(fsck::repair(p.b.region(), report, {}).ok());
    CHECK(report.found == 4);
    CHECK(fsck::check(p.b.region()).take().found == report.found - report.repaired);
}

TEST_CASE("repair: a power cut leaves each block as it was, or repaired") {
    using Flavour = test::SimMedia::Flavour;
    constexpr journal::BootId kBootA{0xa}, kBootB{0xb};
    Populated p;
    p.b.finish();
    damage(p, test::kMap);
    damage(p, test::kSummaryB);
    damage(p, test::kBitmap + 8);
    p.b.inode(p.many_links).blocks.set(77);
    p.b.seal_inode(p.many_links);
    p.b.inode(p.orphan).prev.set(p.many_links);
    p.b.seal_inode(p.orphan);
    const test::MediaImage broken(
        std::vector<std::byte>(p.b.bytes(0), p.b.bytes(0) + p.b.region().size()));
    for (const Flavour flavour : {Flavour::dax, Flavour::image}) {
        test::SimMedia media(flavour, broken);
        auto report = fsck::check(media).take();
        const std::set<Code> planted = codes_of(report);
        REQUIRE(planted.size() >= 5);
        REQUIRE(fsck::repair(media, report, kBootA).ok());
        REQUIRE(report.repaired == report.found);
        std::set<std::size_t> left;  // how many kinds of problems, after the cuts
        for (std::size_t cut = 0; cut <= media.events(); ++cut)
            for (unsigned seed = 0; seed < 6; ++seed) {
                CAPTURE(media.describe(cut, seed));
                test::SimMedia found(flavour, media.after_power_cut(cut, seed));
                fsck::Report damaged;
                REQUIRE(fsck::replay_journal(found, kBootB, true, &damaged).ok());
                CHECK(damaged.clean());
                auto again = fsck::check(found).take();
                for (const Code code : codes_of(again)) CHECK(planted.contains(code));
                left.insert(codes_of(again).size());
                REQUIRE(fsck::repair(found, again, kBootB).ok());
                CHECK(again.repaired == again.found);
                CHECK(fsck::check(found).take().clean());
            }
        // None, all, and on DAX media, where each transaction is durable at once, some.
        CHECK(left.size() >= (flavour == Flavour::dax ? 3 : 2));
    }
}
