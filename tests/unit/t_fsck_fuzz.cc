// fsck on arbitrary bytes: it ends, and stays inside the region.  Run it under ASan.
#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <set>

#include "base/clock.h"
#include "fsck/check.h"
#include "fsck/print.h"
#include "fsck/repair.h"
#include "media/geometry.h"
#include "media/verify.h"
#include "support/builder.h"

using namespace pmfs;
using namespace pmfs::media;
using test::Populated;

namespace {

using Random = std::mt19937_64;

// More rounds by PMFS_FUZZ_ROUNDS; another start by PMFS_FUZZ_SEED.
std::uint64_t number_from(const char *name, std::uint64_t otherwise) {
    const char *text = std::getenv(name);
    return text != nullptr ? std::strtoull(text, nullptr, 0) : otherwise;
}

// The numbers that break things.
std::uint64_t awkward(Random &random) {
    switch (random() % 8) {
        case 0:
            return 0;
        case 1:
            return ~std::uint64_t{0};
        case 2:
            return std::uint64_t{1} << (random() % 64);
        case 3:
            return (std::uint64_t{1} << (random() % 64)) - 1;
        case 4:
            return random() % 32;
        case 5:
            return random() % 2048;  // a block of the volume, or just past it
        case 6:
            return kDonorBase + random() % 64;
        default:
            return random();
    }
}

// A copy of a region on the heap, where ASan sees a read that leaves it.
class HeapRegion final : public pm::Region {
public:
    explicit HeapRegion(const pm::Region &from) : bytes_(new std::byte[from.size()]) {
        size_ = from.size();
        std::memcpy(bytes_.get(), from.data(), size_);
        meta_ = data_ = bytes_.get();
    }
    std::byte *block(std::uint64_t number) { return bytes_.get() + number * kBlockSize; }
    void let_write(bool may) { may_write_ = may; }
    Result<> sync() override { return {}; }
    void store_home(std::uint64_t offset, ConstBytes bytes) override { put(offset, bytes); }
    void drop_private(std::uint64_t) override {}
    bool lost(std::uint64_t, std::uint64_t) const override { return false; }

protected:
    void do_write(std::uint64_t offset, ConstBytes bytes) override { put(offset, bytes); }
    void do_zero(std::uint64_t offset, std::uint64_t size) override {
        put(offset, std::vector<std::byte>(size));
    }
    void do_store_meta(std::uint64_t offset, ConstBytes bytes) override { put(offset, bytes); }
    void do_fence() override {}
    void do_fence_everywhere() override {}

private:
    void put(std::uint64_t offset, ConstBytes bytes) {
        if (!may_write_) FAIL("a check wrote to the volume");
        PMFS_ASSERT(offset <= size_ && bytes.size() <= size_ - offset);
        std::memcpy(bytes_.get() + offset, bytes.data(), bytes.size());
    }
    std::unique_ptr<std::byte[]> bytes_;
    bool may_write_ = false;
};

class Fuzzer {
public:
    explicit Fuzzer(std::uint64_t seed) : region_(p_.b.region()), random_(seed) {
        for (std::uint64_t block = 0; block < p_.b.block_count(); ++block)
            if (p_.b.marked(block)) blocks_.push_back(block);
    }

    void round() {
        saved_.clear();
        const std::uint64_t faults = 1 + random_() % 4;
        for (std::uint64_t i = 0; i < faults; ++i) change(blocks_[random_() % blocks_.size()]);
        check();
    }
    // In grant records only, and what they claim: random blocks are seldom those.
    void round_of_grants() {
        saved_.clear();
        const std::uint64_t faults = 1 + random_() % 4;
        for (std::uint64_t i = 0; i < faults; ++i) {
            if (random_() % 4 == 0)
                change(grant_nodes_[random_() % grant_nodes_.size()]);
            else
                change_grant(grants_[random_() % grants_.size()]);
        }
        check();
    }
    bool clean() { return fsck::check(region_).value_or({}).clean(); }
    std::uint64_t rounds_with(fsck::Code code) const {
        const auto found = seen_.find(code);
        return found == seen_.end() ? 0 : found->second;
    }

private:
    void check() {
        const std::uint64_t start = monotonic_ns();
        const auto report = fsck::check(region_);
        CHECK(monotonic_ns() - start < 5'000'000'000);
        if (report.ok()) {
            std::set<fsck::Code> codes;
            for (const fsck::Problem &problem : report.value().problems) codes.insert(problem.code);
            for (const fsck::Code code : codes) ++seen_[code];
            const std::string text = fsck::text_of(report.value(), "fuzz");
            CHECK(text.size() > 10);
            CHECK(fsck::json_of(report.value(), "fuzz").size() > 10);
            if (++checks_ % 4 == 0) repair(report.value());
        }
        for (auto saved = saved_.rbegin(); saved != saved_.rend(); ++saved)
            std::memcpy(region_.block(saved->first), saved->second.data(), kBlockSize);
    }
    // A repair ends, and finds nothing new but what damage had hidden.
    void repair(fsck::Report report) {
        const std::vector<std::byte> before(region_.block(0), region_.block(0) + region_.size());
        std::set<fsck::Code> known;
        for (const fsck::Problem &problem : report.problems) known.insert(problem.code);
        const bool hidden = report.unjudged;
        region_.let_write(true);
        const auto done = fsck::repair(region_, report, {});
        region_.let_write(false);
        CHECK_MESSAGE(done.ok(), std::string(done.ok() ? "" : done.error().what()));
        const auto after = fsck::check(region_);
        REQUIRE(after.ok());
        INFO(fsck::text_of(report, "before"), fsck::text_of(after.value(), "after"));
        CHECK(after.value().found == report.found - report.repaired);
        if (!hidden)
            for (const fsck::Problem &problem : after.value().problems)
                CHECK(known.contains(problem.code));
        std::memcpy(region_.block(0), before.data(), before.size());
    }
    void save(std::uint64_t block) {
        const std::byte *bytes = region_.block(block);
        saved_.emplace_back(block, std::vector<std::byte>(bytes, bytes + kBlockSize));
    }
    // One field that matters to a record, in place; its checksum is right.
    void change_grant(std::uint64_t number) {
        const auto at = static_cast<std::uint64_t>(
            reinterpret_cast<const std::byte *>(&p_.b.inode(number)) - p_.b.region().data());
        save(at / kBlockSize);
        auto &record = *reinterpret_cast<Inode *>(region_.block(at / kBlockSize) + at % kBlockSize);
        auto &extent = reinterpret_cast<InlineExtent *>(record.inline_bytes)[random_() % 3];
        switch (random_() % 8) {
            case 0:
                return set(record, &record.parent, any_inode());
            case 1:
                return set(record, &record.entries, awkward(random_));
            case 2:
                return set(record, &record.next, any_inode());
            case 3:
                return set(record, &record.map_root, awkward(random_));
            case 4:
                record.inline_count.set(static_cast<std::uint32_t>(random_() % 4));
                break;
            case 5:
                extent.blocks.set(static_cast<std::uint32_t>(awkward(random_)));
                break;
            case 6:
                record.flags.set(record.flags.get() ^ 1U << (random_() % 6));
                break;
            default:
                extent.start.set(awkward(random_));
                extent.file_block = extent.start;
                if (random_() % 2 == 0)
                    extent.blocks.set(static_cast<std::uint32_t>(random_() % 2048));
        }
        seal_block(record);
    }
    // In use, free, or where none is.
    std::uint64_t any_inode() {
        return random_() % 8 == 0 ? random_() % 16
                                  : p_.grant_tree / kInodesPerBlock * kInodesPerBlock -
                                        3 * kInodesPerBlock + random_() % (5 * kInodesPerBlock);
    }
    static void set(Inode &record, le64 *field, std::uint64_t value) {
        field->set(value);
        seal_block(record);
    }
    void change(std::uint64_t block) {
        save(block);
        std::byte *bytes = region_.block(block);
        const Magic magic{load<le32>(ConstBytes(bytes, kBlockSize)).get()};
        switch (random_() % 5) {
            case 0:  // one byte
                bytes[random_() % kBlockSize] = std::byte(random_());
                break;
            case 1: {  // one field
                const std::uint64_t value = awkward(random_);
                const std::size_t size = std::size_t{1} << (random_() % 4);
                const std::size_t at = random_() % (kBlockSize / size) * size;
                std::memcpy(bytes + at, &value, size);
                break;
            }
            case 2: {  // one field of a header, where all the numbers are
                const std::uint64_t value = awkward(random_);
                const std::size_t size = std::size_t{1} << (random_() % 4);
                std::memcpy(bytes + random_() % (256 / size) * size, &value, size);
                break;
            }
            case 3:  // a line
                for (std::size_t i = 0; i < kLineSize; i += 8) {
                    const std::uint64_t value = awkward(random_);
                    std::memcpy(bytes + random_() % kLinesPerBlock * kLineSize + i, &value, 8);
                }
                break;
            default:  // another block's content, in this one's place
                std::memmove(bytes, region_.block(blocks_[random_() % blocks_.size()]), kBlockSize);
                if (random_() % 2 == 0) reinterpret_cast<BlockHeader *>(bytes)->self.set(block);
        }
        if (random_() % 8 == 0) return;  // leave the checksum wrong
        if (magic != Magic::inode) return seal_block(Bytes(bytes, kBlockSize));
        for (std::size_t slot = 0; slot < kInodesPerBlock; ++slot)
            seal_block(Bytes(bytes + slot * kInodeSize, kInodeSize));
    }

    Populated p_;
    HeapRegion region_;
    Random random_;
    std::vector<std::uint64_t> blocks_;
    const std::vector<std::uint64_t> grants_ = {p_.grant, p_.grant_again, p_.grant_tree};
    const std::vector<std::uint64_t> grant_nodes_ = {p_.grant_root, p_.grant_leaf};
    std::map<fsck::Code, std::uint64_t> seen_;  // in how many rounds
    std::uint64_t checks_ = 0;
    std::vector<std::pair<std::uint64_t, std::vector<std::byte>>> saved_;
};

}  // namespace

TEST_CASE("fsck: ends on any damage, checksums right or wrong, and reads nothing outside") {
    const std::uint64_t seed = number_from("PMFS_FUZZ_SEED", 1);
    const std::uint64_t rounds = number_from("PMFS_FUZZ_ROUNDS", 2000);
    Fuzzer fuzzer(seed);
    for (std::uint64_t i = 0; i < rounds; ++i) {
        CAPTURE(seed);
        CAPTURE(i);
        fuzzer.round();
    }
    CHECK(fuzzer.clean());
}

TEST_CASE("fsck: ends on any damage to grant records, and finds each kind of it") {
    const std::uint64_t seed = number_from("PMFS_FUZZ_SEED", 1);
    const std::uint64_t rounds = number_from("PMFS_FUZZ_ROUNDS", 2000);
    Fuzzer fuzzer(seed);
    for (std::uint64_t i = 0; i < rounds; ++i) {
        CAPTURE(seed);
        CAPTURE(i);
        fuzzer.round_of_grants();
    }
    CHECK(fuzzer.clean());
    if (rounds < 2000) return;
    using fsck::Code;
    for (const Code code :
         {Code::grant_list_wrong_inode, Code::grant_list_links, Code::grant_not_listed,
          Code::grant_record_not_bare, Code::grant_file_impossible, Code::grant_of_anothers_block,
          Code::block_leaked, Code::block_marked_free}) {
        CAPTURE(fsck::id_of(code));
        CHECK(fuzzer.rounds_with(code) != 0);
    }
}

TEST_CASE("fsck: random bytes are not a volume") {
    Random random(number_from("PMFS_FUZZ_SEED", 1));
    for (const std::uint64_t size : {std::uint64_t{4096}, 4 * kMiB, 4 * kMiB + 4096, 6 * kMiB}) {
        const auto region = pm::memory_region(size);
        REQUIRE(region.ok());
        auto *bytes = const_cast<std::byte *>(region.value()->data());
        const auto zeroes = fsck::check(*region.value());
        REQUIRE(!zeroes.ok());
        CHECK(zeroes.error().errno_value() == EINVAL);
        for (std::uint64_t at = 0; at + 8 <= size; at += 8) {
            const std::uint64_t value = random();
            std::memcpy(bytes + at, &value, 8);
        }
        const auto noise = fsck::check(*region.value());
        REQUIRE(!noise.ok());
        CHECK(noise.error().errno_value() == EINVAL);
    }
}

TEST_CASE("fsck: a volume on a shorter region is refused, whatever is missing") {
    const auto whole = test::fixed_volume(8 * kMiB);
    for (const std::uint64_t size : {4 * kMiB, 6 * kMiB, 8 * kMiB - 4096}) {
        const auto region = pm::memory_region(size);
        REQUIRE(region.ok());
        std::memcpy(const_cast<std::byte *>(region.value()->data()), whole->data(), size);
        const auto report = fsck::check(*region.value());
        REQUIRE(!report.ok());
        CHECK(report.error().errno_value() == EINVAL);
        CHECK(std::string(report.error().what()).find("larger") != std::string::npos);
    }
}

TEST_CASE("fsck: pages that cannot be read count as zeroes, and the report says so") {
    Populated p;
    // The second half goes; the journal, the inodes and most nodes stay.
    REQUIRE(::ftruncate(p.b.region().mapping_fd(), 2 * kMiB + 64 * kKiB) == 0);
    const auto report = fsck::check(p.b.region());
    REQUIRE(report.ok());
    CHECK(report.value().medium_failed);
    CHECK(report.value().found != 0);
    CHECK_FALSE(pm::take_fault());
}

TEST_CASE("fsck: a small volume is checked in well under 2 ms") {
    Populated p;
    std::uint64_t best_us = ~std::uint64_t{0};  // the machine may be busy
    for (unsigned i = 0; i < 50; ++i) {
        const std::uint64_t start = monotonic_ns();
        (void)fsck::check(p.b.region()).ok();
        best_us = std::min(best_us, (monotonic_ns() - start) / 1000);
    }
    MESSAGE("a check took ", best_us, " us");
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    CHECK(best_us < 2000);
#endif
}
