// What grant records claim, against a model that goes block by block: random files, records of them
// and of files that are gone, all in one small volume.
#include <doctest/doctest.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "fsck/check.h"
#include "fsck/print.h"
#include "media/format.h"
#include "support/builder.h"

using namespace pmfs;
using namespace pmfs::media;
using test::Builder;

namespace {

using Random = std::mt19937_64;

std::uint64_t number_from(const char *name, std::uint64_t otherwise) {
    const char *text = std::getenv(name);
    return text != nullptr ? std::strtoull(text, nullptr, 0) : otherwise;
}

struct Record {
    std::uint64_t inode, file, generation;
    std::vector<InlineExtent> extents;
};

InlineExtent extent(std::uint64_t at, std::uint64_t start, std::uint64_t blocks) {
    return {le64(at), le64(start), le32(static_cast<std::uint32_t>(blocks)), le32(0)};
}

constexpr std::uint64_t kAreaBlocks = 120;  // so small that much meets

class World {
public:
    explicit World(std::uint64_t seed) : random_(seed), b_(8 * kMiB) {
        area_ = b_.take(ChunkKind::data, kAreaBlocks);
        b_.release(area_, kAreaBlocks);
        make_files();
        make_records();
        b_.finish();
    }
    pm::Region &region() { return b_.region(); }

    // By record: how many of its blocks have another owner.
    std::map<std::uint64_t, std::uint64_t> expected() const { return expected_; }

private:
    void make_files();
    void make_records();
    void keep(const std::vector<Record> &records);
    bool may_claim(const Record &record, std::uint64_t start, std::uint64_t blocks);
    bool claims(const Record &record, std::uint64_t block, std::uint64_t *start) const;

    Random random_;
    Builder b_;
    std::uint64_t area_ = 0;
    std::vector<std::uint64_t> files_;
    std::map<std::uint64_t, std::uint64_t> mapped_by_;                            // block -> file
    std::map<std::uint64_t, std::tuple<std::uint64_t, std::uint64_t>> kept_for_;  // by the polite
    std::map<std::uint64_t, std::uint64_t> expected_;
};

// Each block of the area goes to one file or to none, in runs.
void World::make_files() {
    std::vector<std::vector<InlineExtent>> maps(4);
    for (std::uint64_t at = 0; at < kAreaBlocks;) {
        const std::uint64_t blocks = std::min(1 + random_() % 8, kAreaBlocks - at);
        auto &map = maps[random_() % maps.size()];
        if (random_() % 3 != 0 && map.size() < kInlineExtents)
            map.push_back(extent(100 * map.size(), area_ + at, blocks));
        at += blocks;
    }
    std::vector<std::pair<std::string, std::uint64_t>> names;
    for (auto &map : maps) {
        const std::uint64_t file = b_.make(S_IFREG | 0644);
        files_.push_back(file);
        names.emplace_back("file " + std::to_string(file), file);
        std::ranges::shuffle(map, random_);  // a file's order is not the device's
        for (std::size_t i = 0; i < map.size(); ++i) {
            map[i].file_block.set(100 * i);
            b_.mark(map[i].start.get(), map[i].blocks.get(), true);
            for (std::uint64_t j = 0; j < map[i].blocks.get(); ++j)
                mapped_by_[map[i].start.get() + j] = file;
        }
        b_.set_inline(file, map);
        b_.inode(file).generation.set(3);
    }
    b_.set_entries(kRootIno, names);
}

void World::make_records() {
    const bool polite = random_() % 2 == 0;
    std::vector<Record> records;
    std::vector<std::uint64_t> numbers;
    for (std::uint64_t left = 1 + random_() % 6; left != 0; --left) {
        const std::uint64_t generation = random_() % 3 == 0 ? 2 : 3;
        Record record{0, files_[random_() % files_.size()], generation, {}};
        for (std::uint64_t at = random_() % 30; record.extents.size() < kInlineExtents;) {
            const std::uint64_t blocks = 1 + random_() % 12;
            if (at + blocks > kAreaBlocks) break;
            if (!polite || may_claim(record, area_ + at, blocks))
                record.extents.push_back(extent(area_ + at, area_ + at, blocks));
            at += blocks + random_() % 20;
        }
        record.inode = b_.make_grant(record.file, kGrantStores);
        b_.inode(record.inode).entries.set(record.generation);
        b_.set_inline(record.inode, record.extents);
        records.push_back(record);
        numbers.push_back(record.inode);
    }
    b_.set_grants(numbers);
    keep(records);
}

// True when they have no other owner; then the record owns them.
bool World::may_claim(const Record &record, std::uint64_t start, std::uint64_t blocks) {
    const auto of = std::tuple(record.file, record.generation);
    for (std::uint64_t block = start; block < start + blocks; ++block) {
        const auto owner = mapped_by_.find(block);
        if (owner != mapped_by_.end() && of != std::tuple(owner->second, std::uint64_t{3}))
            return false;
        const auto kept = kept_for_.find(block);
        if (kept != kept_for_.end() && kept->second != of) return false;
    }
    for (std::uint64_t block = start; block < start + blocks; ++block) kept_for_[block] = of;
    return true;
}

bool World::claims(const Record &record, std::uint64_t block, std::uint64_t *start) const {
    for (const InlineExtent &extent : record.extents)
        if (block >= extent.start.get() && block - extent.start.get() < extent.blocks.get()) {
            *start = extent.start.get();
            return true;
        }
    return false;
}

// fsck goes by files in the order of (number, generation): who comes first has a block, and within
// a file it is put to the claim that starts first.
void World::keep(const std::vector<Record> &records) {
    for (std::uint64_t block = area_; block < area_ + kAreaBlocks; ++block) {
        std::map<std::tuple<std::uint64_t, std::uint64_t>, std::pair<std::uint64_t, std::uint64_t>>
            claims_of;  // file, generation -> start, record
        for (const Record &record : records) {
            std::uint64_t start = 0;
            if (!claims(record, block, &start)) continue;
            const auto [found, fresh] = claims_of.try_emplace({record.file, record.generation},
                                                              std::pair(start, record.inode));
            if (!fresh) found->second = std::min(found->second, std::pair(start, record.inode));
        }
        const auto owner = mapped_by_.find(block);
        bool taken = owner != mapped_by_.end();
        for (const auto &[file, claim] : claims_of) {
            const bool own =
                owner != mapped_by_.end() && file == std::tuple(owner->second, std::uint64_t{3});
            if (own) continue;
            if (taken) ++expected_[claim.second];
            taken = true;
        }
        if (taken) b_.mark(block, 1, true);
    }
}

}  // namespace

TEST_CASE("fsck: what grant records claim is judged as block by block") {
    const std::uint64_t rounds = number_from("PMFS_FUZZ_ROUNDS", 300);
    std::uint64_t at_fault = 0, clean = 0;
    for (std::uint64_t i = 0; i < rounds; ++i) {
        const std::uint64_t seed = number_from("PMFS_FUZZ_SEED", 1) * 1'000'000 + i;
        CAPTURE(seed);
        World world(seed);
        const auto report = fsck::check(world.region());
        REQUIRE(report.ok());
        INFO(fsck::text_of(report.value(), "volume"));
        std::map<std::uint64_t, std::uint64_t> found;
        for (const fsck::Problem &problem : report.value().problems) {
            REQUIRE(fsck::id_of(problem.code) == fsck::id_of(fsck::Code::grant_of_anothers_block));
            // "and N more"
            found[problem.inode] =
                problem.detail.empty() ? 1 : 1 + std::stoull(problem.detail.substr(4));
        }
        REQUIRE(found == world.expected());
        (found.empty() ? clean : at_fault) += 1;
    }
    CHECK(at_fault > rounds / 10);
    CHECK(clean > rounds / 10);
}
