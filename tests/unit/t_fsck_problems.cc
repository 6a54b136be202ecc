// Every problem that fsck knows: one fault is planted, and exactly its code is expected.
//
// Holds docs/fsck.md "The problems".
#include <doctest/doctest.h>

#include <sys/stat.h>

#include <cstring>
#include <set>
#include <string>

#include "base/crc32c.h"
#include "fsck/check.h"
#include "fsck/names.h"
#include "fsck/print.h"
#include "media/geometry.h"
#include "unit/fsck_plants.h"

using namespace pmfs;
using namespace pmfs::media;
using fsck::Code;
using test::Builder;
using test::Planted;
using test::Populated;

namespace {

std::string codes_of(const fsck::Report &report) {
    std::set<std::string> codes;
    for (const fsck::Problem &problem : report.problems) codes.insert(fsck::text_of(problem));
    std::string text;
    for (const std::string &code : codes) text += code + "\n";
    return text;
}

void expect_exactly(pm::Region &region, Code code) {
    const auto report = fsck::check(region);
    REQUIRE(report.ok());
    INFO(codes_of(report.value()));
    CHECK(report.value().found != 0);
    for (const fsck::Problem &problem : report.value().problems)
        CHECK(fsck::id_of(problem.code) == fsck::id_of(code));
}

void append(Builder &b, std::uint64_t block, std::uint64_t lines) {
    // A record whose one entry names `block`, with as many lines as `lines` has bits, all zero.
    const std::uint64_t journal = b.sb().journal_start.get();
    auto &ring = b.block<RingHeader>(journal);
    ring.boot_id[0] = 1;
    b.seal(journal);
    auto *record = reinterpret_cast<RecordHeader *>(b.bytes(journal + kRingHeaders));
    *record = {};
    record->magic.set(static_cast<std::uint32_t>(Magic::record));
    record->seq = ring.tail_seq;
    record->size.set(3 * kLineSize);
    record->kind.set(static_cast<std::uint32_t>(RecordKind::transaction));
    record->entries.set(1);
    const RecordEntry entry{le64(block), le64(lines)};
    std::memset(static_cast<void *>(record + 1), 0, 2 * kLineSize);
    std::memcpy(static_cast<void *>(record + 1), &entry, sizeof entry);
    const std::uint32_t secret = crc32c(0, std::as_bytes(std::span(ring.secret)));
    record->crc32c.set(crc32c(secret, {reinterpret_cast<std::byte *>(record), 3 * kLineSize}));
}

}  // namespace

TEST_CASE("fsck: a volume with one of everything is clean") {
    for (const std::uint64_t unit : {4096, 16384}) {
        Populated p(unit);
        const auto report = fsck::check(p.b.region());
        REQUIRE(report.ok());
        INFO(codes_of(report.value()));
        CHECK(report.value().clean());
        CHECK(report.value().was_clean);
        CHECK_FALSE(report.value().unjudged);
        CHECK(report.value().directories == 4);
        CHECK(report.value().orphans == 2);
        CHECK(report.value().sealed == 2);
        CHECK(report.value().grants == 3);
    }
}

TEST_CASE(
    "fsck: access control lists that agree with the mode, and chattr's flags, are no problem") {
    Populated p;
    p.b.add_xattrs(p.many_links, {{"system.posix_acl_access", test::list_of_0644()}});
    p.b.add_xattrs(p.directory, {{"system.posix_acl_default", test::list_of_0644()}});
    p.b.inode(p.many_links).flags.set(kImmutable | kNoDump);
    p.b.inode(p.directory).flags.set(kAppendOnly | kNoAccessTime);
    p.b.finish();
    const auto report = fsck::check(p.b.region());
    REQUIRE(report.ok());
    INFO(codes_of(report.value()));
    CHECK(report.value().clean());
}

TEST_CASE("fsck: a planted fault is found, and nothing that only follows from it") {
    for (const auto &plants : test::all_plants())
        for (const Planted &plant : plants) {
            INFO(std::string(fsck::info_of(plant.code).name), ", ", std::string(plant.how));
            Populated p(plant.mapping_unit);
            plant.plant(p);
            if (plant.finish) p.b.finish();
            expect_exactly(p.b.region(), plant.code);
        }
}

TEST_CASE(
    "fsck: copies of the superblock are compared, and one is used when the first is damaged") {
    const auto region = test::fixed_volume(kGiB + 4 * kMiB);
    const auto at = [&](std::uint64_t block) {
        return reinterpret_cast<Superblock *>(const_cast<std::byte *>(region->data()) +
                                              block * kBlockSize);
    };
    REQUIRE(fsck::check(*region).value_or({}).clean());
    Superblock saved = *at(0);
    at(0)->label[0] ^= 1;
    expect_exactly(*region, Code::superblock_damaged);
    std::memset(static_cast<void *>(at(0)), 0x55, sizeof saved);
    expect_exactly(*region, Code::superblock_damaged);
    *at(0) = saved;

    saved = *at(kGroupBlocks);
    at(kGroupBlocks)->label[0] ^= 1;
    expect_exactly(*region, Code::superblock_copy_damaged);
    seal_block(*at(kGroupBlocks));
    expect_exactly(*region, Code::superblock_copy_differs);
    *at(kGroupBlocks) = saved;

    // An interrupted mkfs: whole copies, and no superblock.
    std::memset(static_cast<void *>(at(0)), 0, sizeof saved);
    at(0)->header = header_of(Magic::making, at(kGroupBlocks)->header.fsid.get(), 0, 0);
    const auto torn = fsck::check(*region);
    REQUIRE(!torn.ok());
    CHECK(torn.error().errno_value() == EINVAL);
}

TEST_CASE("fsck: a volume that was growing when the power was cut is sound, and block 0 counts") {
    const auto region = test::fixed_volume(kGiB + 4 * kMiB);
    auto &copy = *reinterpret_cast<Superblock *>(const_cast<std::byte *>(region->data()) +
                                                 kGroupBlocks * kBlockSize);
    const std::uint64_t blocks = copy.block_count.get();
    copy.block_count.set(blocks + kChunkBlocks);
    seal_block(copy);
    CHECK(fsck::check(*region).value_or({.found = 1}).clean());
    copy.block_count.set(blocks - kChunkBlocks);
    seal_block(copy);
    expect_exactly(*region, Code::superblock_copy_differs);
}

TEST_CASE("fsck: inodes in every group are found, and no list leaves its group") {
    constexpr std::uint64_t kOther = kGroupChunks + 1;  // a chunk of group 1
    for (const bool astray : {false, true}) {
        Builder b(kGiB + 4 * kMiB);
        const std::uint64_t here = b.make(S_IFREG | 0600), there = b.make(S_IFREG | 0600, kOther);
        const std::uint64_t named = b.make(S_IFREG | 0600, kGroupChunks);
        b.set_entries(kRootIno, {{"in another group", named}});
        if (astray) {
            b.set_orphans({here, there});
        } else {
            b.set_orphans({here});
            b.summary(1).orphan_head.set(there);
        }
        b.finish();
        const auto report = fsck::check(b.region());
        REQUIRE(report.ok());
        INFO(codes_of(report.value()));
        CHECK(report.value().inodes == 4);
        CHECK(report.value().orphans == 2);
        if (!astray) {
            CHECK(report.value().clean());
            continue;
        }
        // The list of group 1, which has no head, lacks it: that is the same fault seen from there.
        std::set<Code> codes;
        for (const fsck::Problem &problem : report.value().problems) codes.insert(problem.code);
        CHECK(codes == std::set{Code::list_leaves_group, Code::orphan_not_listed});
    }
}

TEST_CASE("fsck: a grant record outlives its file, the file's slot and the slot's block") {
    Populated p;
    const auto expect_clean = [&](std::uint64_t file) {
        p.b.inode(p.grant_tree).parent.set(file);
        p.b.finish();
        const auto report = fsck::check(p.b.region());
        REQUIRE(report.ok());
        INFO(codes_of(report.value()));
        CHECK(report.value().clean());
        CHECK_FALSE(report.value().unjudged);
    };
    REQUIRE(p.b.inode(p.freed).generation.get() == 1);
    expect_clean(p.freed);
    p.b.inode(p.freed).generation.set(0);  // its block was free meanwhile, and made anew
    expect_clean(p.freed);
    expect_clean(p.free_chunk * kInodesPerBlock + 5);
    expect_clean(p.free_data * kInodesPerBlock);
}

TEST_CASE("fsck: a lost summary hides the inodes of its group, and the others are checked") {
    Builder b(kGiB + 4 * kMiB);
    const std::uint64_t hidden = b.make(S_IFREG | 0600, kGroupChunks);
    const std::uint64_t pipe = b.make(S_IFIFO | 0600);
    b.set_entries(kRootIno, {{"hidden", hidden}, {"pipe", pipe}});
    b.inode(pipe).size.set(5);
    b.finish();
    const GroupLayout layout = layout_of(1);
    b.bytes(layout.summary_a)[100] ^= std::byte{1};
    b.bytes(layout.summary_b)[100] ^= std::byte{1};
    const auto report = fsck::check(b.region());
    REQUIRE(report.ok());
    INFO(codes_of(report.value()));
    std::set<Code> codes;
    for (const fsck::Problem &problem : report.value().problems) codes.insert(problem.code);
    CHECK(codes == std::set{Code::summary_lost, Code::size_wrong});
    CHECK(report.value().unjudged);
}

TEST_CASE("fsck: a record with a right checksum and impossible content is a problem") {
    Builder b(4 * kMiB);
    append(b, 5000, 1);
    fsck::Report report;
    REQUIRE(fsck::replay_journal(b.region(), {}, true, &report).ok());
    REQUIRE(report.found == 1);
    CHECK(report.problems[0].code == Code::record_damaged);
}

TEST_CASE("fsck: a journal is replayed once, and then the volume is clean") {
    Builder b(4 * kMiB);
    const std::uint64_t unused = b.take(ChunkKind::meta);
    b.release(unused, 1);
    std::memset(b.bytes(unused), 0xee, kBlockSize);
    append(b, unused, 2);
    fsck::Report report;
    const auto replayed = fsck::replay_journal(b.region(), {}, true, &report);
    REQUIRE(replayed.ok());
    CHECK(replayed.value() == 1);
    CHECK(b.bytes(unused)[63] == std::byte{0xee});
    CHECK(b.bytes(unused)[64] == std::byte{0});
    CHECK(b.bytes(unused)[127] == std::byte{0});
    CHECK(b.bytes(unused)[128] == std::byte{0xee});
    CHECK(fsck::replay_journal(b.region(), {}, true, &report).value_or(9) == 0);
    const auto after = fsck::check(b.region());
    REQUIRE(after.ok());
    CHECK(after.value().clean());
    CHECK(after.value().was_clean);
}

TEST_CASE("fsck: every code has its plant, and its own number, name and sentence") {
    std::set<Code> planted = {Code::superblock_damaged,      Code::superblock_copy_damaged,
                              Code::superblock_copy_differs, Code::record_damaged,
                              Code::record_broken,       // t_journal_damage.cc
                              Code::list_leaves_group};  // above
    for (const auto &plants : test::all_plants())
        for (const Planted &plant : plants) planted.insert(plant.code);
    std::set<std::string> names, ids, sentences;
    for (const fsck::CodeInfo &info : fsck::all_codes()) {
        INFO(std::string(info.name));
        CHECK(planted.count(info.code) == 1);
        CHECK(names.insert(info.name).second);
        CHECK(ids.insert(fsck::id_of(info.code)).second);
        CHECK(sentences.insert(info.sentence).second);
    }
    CHECK(planted.size() == fsck::all_codes().size());
}

TEST_CASE("fsck: a report says how many problems it leaves out, and when it gave up") {
    fsck::Report report;
    report.blocks = 1024;
    for (std::uint64_t block = 0; block < 5; ++block)
        report.add({.code = Code::extents_overlap, .block = block}, 2);
    report.gave_up = report.medium_failed = true;
    const std::string text = fsck::text_of(report, "dev\nice");
    CHECK(text.find("... and 3 more\n") != std::string::npos);
    CHECK(text.find("there are too many problems: the rest was not checked\n") !=
          std::string::npos);
    CHECK(text.find("the medium returned errors") != std::string::npos);
    CHECK(text.find("5 problems; ") != std::string::npos);
    CHECK(text.find("dev\nice") == std::string::npos);  // no line of its own
    report.repaired = 4;
    CHECK(fsck::text_of(report, "d").find("5 problems, 4 repaired; ") != std::string::npos);
    report.repaired = 5;
    CHECK(fsck::text_of(report, "d").find("5 problems, repaired; ") != std::string::npos);
}

TEST_CASE("fsck: a name in a report cannot end its quotes") {
    CHECK(fsck::in_quotes("plain") == "\"plain\"");
    CHECK(fsck::in_quotes("a\"b\\c") == "\"a\\x22b\\x5cc\"");
}
