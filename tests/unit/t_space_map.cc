// The allocator, compared with a model that keeps one state for each block.
#include <doctest/doctest.h>
#include <sys/stat.h>

#include <cstring>
#include <random>
#include <set>

#include "core/alloc.h"
#include "core/change.h"
#include "core/inode.h"
#include "journal/journal.h"
#include "media/geometry.h"
#include "mkfs/make.h"
#include "support/sim_media.h"
#include "unit/files.h"

using namespace pmfs;
using namespace pmfs::test;
using core::Bits;
using core::Run;
using core::Side;
using media::ChunkKind;

namespace {

using media::kChunkBlocks;

enum class State : std::uint8_t { free, data, meta, fixed };

class Tested {
public:
    Tested(std::uint64_t size, bool image) {
        auto region = std::move(pm::memory_region(size)).take();
        mkfs::MakeOptions make;
        make.journal_size = media::kJournalSizeMin;
        REQUIRE(mkfs::make(*region, make).ok());
        media_ = std::make_unique<test::SimMedia>(
            image ? test::SimMedia::Flavour::image : test::SimMedia::Flavour::dax,
            test::MediaImage(std::vector<std::byte>(region->meta(), region->meta() + size)));
        region_ = media_->lend();
        std::memcpy(static_cast<void *>(&superblock), region_->data(), sizeof superblock);
        auto opened = journal::Journal::open(*region_, superblock, journal::current_boot_id(),
                                             journal::Journal::Use::write);
        REQUIRE(opened.ok());
        journal = std::move(opened).take();
        auto allocated = core::Allocator::open(*journal, superblock);
        REQUIRE(allocated.ok());
        allocator = std::move(allocated).take();
        core.emplace(core::Core{*journal, superblock, *allocator});
        model.resize(superblock.block_count.get());
        for (ChunkNo c; c < map().end_chunk(); ++c)
            for (unsigned i = 0; i < kChunkBlocks; ++i)
                if (!core::bit_at(available(c), i))
                    state_of(media::first_block(c) + i) = State::fixed;
    }
    core::SpaceMap &map() { return allocator->map(); }
    State &state_of(BlockNo block) { return model[block.value()]; }
    Bits available(ChunkNo chunk) {
        const auto bits = map().available(nullptr, chunk);
        REQUIRE(bits.ok());
        return bits.value();
    }
    void checkpoint() {
        REQUIRE(journal->group_commit(true).ok());
        allocator->release_held();
        freed.clear();
        freed_meta.clear();
    }
    void mark(Run run, State state) {
        for (BlockNo b = run.start; b < run.end(); ++b) state_of(b) = state;
    }
    // What was just allocated had no owner.
    void given(Run run, bool data) {
        REQUIRE(run.blocks != 0);
        for (BlockNo b = run.start; b < run.end(); ++b) {
            REQUIRE(b.value() < model.size());
            CHECK(state_of(b) == State::free);
            CHECK(!reserved.contains(b));
            CHECK(!freed.contains(b));
            if (data) CHECK(!freed_meta.contains(b));
        }
    }
    // The index says what the model says, after a commit or an abort.
    void compare(bool image) {
        std::uint64_t free_total = 0;
        std::array<std::array<bool, core::kRunClasses>, core::kSides> there{};
        bool whole = false;
        for (ChunkNo c; c < map().end_chunk(); ++c) {
            unsigned free = 0, data = 0, meta = 0;
            Bits bits{};
            for (unsigned i = 0; i < kChunkBlocks; ++i) {
                const BlockNo b = media::first_block(c) + i;
                free += state_of(b) == State::free;
                data += state_of(b) == State::data;
                meta += state_of(b) == State::meta || state_of(b) == State::fixed;
                core::set_bit(bits, i,
                              state_of(b) == State::free && !reserved.contains(b) &&
                                  !(image && freed.contains(b)));
            }
            free_total += free;
            const auto found = map().chunk(c);
            REQUIRE(found.ok());
            const core::SpaceMap::Chunk &chunk = *found.value();
            CAPTURE(c.value());
            CHECK(chunk.free == free);
            CHECK(chunk.kind == (free == kChunkBlocks ? ChunkKind::free
                                 : meta == 0          ? ChunkKind::data
                                 : data == 0          ? ChunkKind::meta
                                                      : ChunkKind::mixed));
            CHECK((available(c) == bits));
            const unsigned longest = core::fitting_run(bits, core::kBits + 1).length;
            CHECK(chunk.longest == longest);
            if (longest == 0 || kept.contains(c) || chunk.reserved) continue;
            if (free == kChunkBlocks) {
                whole |= longest == kChunkBlocks;
                continue;
            }
            const bool copy = c == media::chunk_of(BlockNo(superblock.copy_block.get()));
            const Side side = chunk.inodes                             ? Side::inode
                              : chunk.kind == ChunkKind::meta && !copy ? Side::meta
                                                                       : Side::data;
            there[static_cast<unsigned>(side)]
                 [static_cast<unsigned>(std::bit_width(std::min(longest, 511u)) - 1)] = true;
        }
        CHECK(map().free_blocks() == free_total);
        CHECK(map().held_blocks() == reserved.size() + (image ? freed.size() : 0));
        for (unsigned s = 0; s < core::kSides; ++s)
            for (unsigned k = 0; k < core::kRunClasses; ++k)
                CHECK(
                    map().find_run(static_cast<Side>(s), k, GroupNo(0), false).take().has_value() ==
                    there[s][k]);
        CHECK(map().find_free(GroupNo(0), 1, 1, false).take().has_value() == whole);
    }

    media::Superblock superblock;
    std::unique_ptr<journal::Journal> journal;
    std::unique_ptr<core::Allocator> allocator;
    std::optional<core::Core> core;
    std::vector<State> model;
    std::set<BlockNo> reserved, freed, freed_meta;
    std::set<ChunkNo> kept;

private:
    std::unique_ptr<test::SimMedia> media_;
    std::unique_ptr<pm::Region> region_;
};

struct Owned {
    Run run;
    bool meta;
};

// Takes and gives at random, in transactions that commit or do not.
class Player {
public:
    Player(unsigned seed, bool image) : image_(image), random_(seed), t_(24 << 20, image) {}

    void play(unsigned transactions) {
        for (unsigned n = 0; n < transactions; ++n) {
            if (dice(8) == 0) outside();
            const auto model = t_.model;
            const auto owned = owned_;
            const auto freed = t_.freed, freed_meta = t_.freed_meta, reserved = t_.reserved;
            const auto places = places_;
            core::Change change(*t_.core);
            if (const auto begun = change.begin(); !begun.ok()) {
                REQUIRE(must_park(begun.error()));
                t_.checkpoint();
                continue;
            }
            for (unsigned i = dice(3); i < 3; ++i) act(change);
            if (dice(4) != 0 && change.commit().ok()) {
                if (!image_) t_.freed.clear();
                continue;
            }
            t_.model = model;
            owned_ = owned;
            t_.freed = freed;
            t_.freed_meta = freed_meta;
            t_.reserved = reserved;
            places_ = places;
        }
    }
    Tested &tested() { return t_; }

private:
    unsigned dice(unsigned n) { return static_cast<unsigned>(random_() % n); }
    core::Goal goal() {
        core::Goal goal;
        if (dice(3) == 0 && !owned_.empty()) {
            const Run run = owned_[dice(static_cast<unsigned>(owned_.size()))].run;
            goal.near = run.end();
        }
        goal.large = dice(6) == 0;
        goal.file_block = FileBlock(goal.large ? 512 + dice(512) : dice(64));
        goal.owner = dice(4) == 0 ? 1 + dice(3) : 0;
        goal.privileged = dice(2) == 0;
        goal.broken = dice(4) == 0;
        return goal;
    }
    std::uint64_t length() { return 1 + dice(dice(4) == 0 ? 600 : 12); }

    // What needs no transaction.
    void outside() {
        switch (dice(5)) {
            case 0: {
                const auto run = t_.allocator->reserve_data(goal(), length());
                if (!run.ok()) break;
                t_.given(run.value(), true);
                for (std::uint64_t i = 0; i < run.value().blocks; ++i)
                    t_.reserved.insert(run.value().start + i);
                places_.push_back(run.value());
                break;
            }
            case 1: {
                if (places_.empty()) break;
                const Run run = places_.back();
                places_.pop_back();
                t_.allocator->cancel_reserved(run);
                for (std::uint64_t i = 0; i < run.blocks; ++i) t_.reserved.erase(run.start + i);
                break;
            }
            case 2: {
                const ChunkNo chunk(dice(static_cast<unsigned>(t_.map().chunk_count())));
                if (t_.kept.contains(chunk) || t_.map().chunk(chunk).take()->reserved) break;
                t_.allocator->keep_chunks(chunk, 1);
                t_.kept.insert(chunk);
                if (t_.kept.size() < 3) break;
                t_.allocator->free_chunks(*t_.kept.begin(), 1);
                t_.kept.erase(t_.kept.begin());
                break;
            }
            case 3:
                t_.allocator->release_reservation(1 + dice(3));
                break;
            default:
                t_.checkpoint();
        }
        t_.compare(image_);
    }

    void act(core::Change &change) {
        if (!change.has_room(4)) return;
        const unsigned what = dice(8);
        if (what < 3) {
            const auto run = t_.allocator->take_data(change, goal(), length());
            if (run.ok()) took(run.value(), false);
        } else if (what < 4) {
            const auto run =
                t_.allocator->take_meta(change, BlockNo(0), 1 + dice(3), core::Need::essential);
            if (run.ok()) took(run.value(), true);
        } else if (what < 5 && !places_.empty()) {
            const Run run = places_.back();
            if (!t_.allocator->take_reserved(change, run).ok()) return;
            places_.pop_back();
            for (std::uint64_t i = 0; i < run.blocks; ++i) t_.reserved.erase(run.start + i);
            owned_.push_back({run, false});
            t_.mark(run, State::data);
        } else if (!owned_.empty()) {
            give(change);
        }
    }
    void took(Run run, bool meta) {
        t_.given(run, !meta);
        for (BlockNo b = run.start; b < run.end(); ++b)
            CHECK(!t_.kept.contains(media::chunk_of(b)));
        owned_.push_back({run, meta});
        t_.mark(run, meta ? State::meta : State::data);
    }
    // A part of what is owned.
    void give(core::Change &change) {
        const unsigned at = dice(static_cast<unsigned>(owned_.size()));
        Owned &one = owned_[at];
        const Run piece = t_.allocator->piece(one.run);
        const Run gone{piece.start, dice(2) == 0 ? piece.blocks : 1 + random_() % piece.blocks};
        REQUIRE(t_.allocator->give_back(change, gone).ok());
        t_.mark(gone, State::free);
        for (BlockNo b = gone.start; b < gone.end(); ++b) {
            t_.freed.insert(b);
            if (one.meta && image_) t_.freed_meta.insert(b);
        }
        one.run = {gone.end(), one.run.blocks - gone.blocks};
        if (one.run.blocks == 0) owned_.erase(owned_.begin() + at);
    }

    const bool image_;
    std::mt19937 random_;
    Tested t_;
    std::vector<Owned> owned_;
    std::vector<Run> places_;  // reserved
};

}  // namespace

TEST_CASE("geometry: blocks, chunks and groups lead to each other, and to their bytes") {
    using namespace media;
    constexpr BlockNo block(2 * kGroupBlocks + 5 * kChunkBlocks + 7);
    static_assert(chunk_of(block) == ChunkNo(2 * kGroupChunks + 5));
    static_assert(group_of(block) == GroupNo(2) && group_of(chunk_of(block)) == GroupNo(2));
    static_assert(index_in_chunk(block) == 7 && index_in_group(chunk_of(block)) == 5);
    static_assert(first_block(chunk_of(block)) + 7 == block);
    static_assert(first_chunk(GroupNo(2)) + 5 == chunk_of(block));
    static_assert(first_block(GroupNo(2)) == first_block(first_chunk(GroupNo(2))));
    static_assert(layout_of(GroupNo(2)).end.value() == layout_of(2).end);
    static_assert(block_of(byte_of(block) + 4095) == block);
    static_assert(file_block_of(byte_of(FileBlock(3)) + 1) == FileBlock(3));
    static_assert(file_block_from(byte_of(FileBlock(3)) + 1) == FileBlock(4));
    static_assert(unit_down(FileBlock(7), 4) == FileBlock(4));
    static_assert(unit_up(FileBlock(7), 4) == FileBlock(8));
    static_assert(unit_up(FileBlock(8), 4) == FileBlock(8));
    // Also when the block of the region comes before the one of the file.
    static_assert(congruent(BlockNo(5), FileBlock(517), kChunkBlocks));
    static_assert(!congruent(BlockNo(5), FileBlock(518), kChunkBlocks));
}

TEST_CASE(
    "space map: after any sequence of changes the index and the counts agree with the bitmaps") {
    for (unsigned seed = 1; seed <= 10; ++seed)
        for (const bool image : {false, true}) {
            CAPTURE(seed);
            CAPTURE(image);
            Player player(seed, image);
            for (int i = 0; i < 20; ++i) {
                player.play(40);
                player.tested().compare(image);
            }
        }
}

TEST_CASE("space map: the shortest run that is long enough is taken, and whole chunks stay whole") {
    Tested t(64 << 20, false);
    core::Change change(*t.core);
    REQUIRE(change.begin().ok());
    // Gaps of 5, 9 and 40 blocks in one chunk.
    const Run all = t.allocator->take_chunks(change, 1, kChunkBlocks, true).take();
    for (const Run gap :
         {Run{all.start + 10, 40}, Run{all.start + 100, 5}, Run{all.start + 200, 9}})
        REQUIRE(t.allocator->give_back(change, gap).ok());
    REQUIRE(change.commit().ok());
    core::Change again(*t.core);
    REQUIRE(again.begin().ok());
    const std::uint64_t whole = t.map().free_chunks();
    CHECK(t.allocator->take_data(again, {}, 9).take().start == all.start + 200);
    CHECK(t.allocator->take_data(again, {}, 5).take().start == all.start + 100);
    CHECK(t.allocator->take_data(again, {}, 6).take().start == all.start + 10);
    CHECK(t.map().free_chunks() == whole);
}

TEST_CASE("space map: metadata uses data's chunks when there is no other room, and these recover") {
    for (const bool image : {false, true}) {
        Tested t(16 << 20, image);
        std::vector<Run> data, meta;
        const auto act = [&](auto what) {
            core::Change change(*t.core);
            auto begun = change.begin();
            if (!begun.ok()) {
                t.checkpoint();
                begun = change.begin();
            }
            REQUIRE(begun.ok());
            const bool more = what(change);
            REQUIRE(change.commit().ok());
            return more;
        };
        core::Goal root;
        root.privileged = true;
        while (act([&](core::Change &change) {
            const auto run = t.allocator->take_data(change, root, 64);
            if (run.ok()) data.push_back(run.value());
            return run.ok();
        })) {
        }
        // A gap in a chunk of data; then metadata takes all that is left.
        const auto kind_of = [&](const Run &run) {
            return t.map().chunk(media::chunk_of(run.start)).take()->kind;
        };
        const auto gap = std::find_if(data.begin(), data.end(), [&](const Run &run) {
            return kind_of(run) == ChunkKind::data;
        });
        REQUIRE(gap != data.end());
        act([&](core::Change &change) {
            REQUIRE(t.allocator->give_back(change, *gap).ok());
            return true;
        });
        t.checkpoint();
        while (act([&](core::Change &change) {
            const auto run = t.allocator->take_meta(change, BlockNo(0), 1, core::Need::essential);
            if (run.ok()) meta.push_back(run.value());
            return run.ok();
        })) {
        }
        CHECK(t.map().free_blocks() == 0);
        CHECK(kind_of(*gap) == ChunkKind::mixed);
        for (const Run &run : meta)
            act([&](core::Change &change) {
                REQUIRE(t.allocator->give_back(change, run).ok());
                return true;
            });
        CHECK(kind_of(*gap) == ChunkKind::data);
        // On an image it is no place for data before a checkpoint: a record may be replayed there.
        const auto fits = [&] {
            return act(
                [&](core::Change &change) { return t.allocator->take_data(change, root, 1).ok(); });
        };
        if (image) {
            REQUIRE(t.journal->group_commit(false).ok());
            t.allocator->release_held();
            CHECK_FALSE(fits());
        }
        t.checkpoint();
        CHECK(fits());
    }
}

TEST_CASE("space map: each need leaves the reserve of the next one") {
    Tested t(16 << 20, false);
    core::Change change(*t.core);
    REQUIRE(change.begin().ok());
    const std::uint64_t free = t.map().free_blocks();
    const std::uint64_t user = t.allocator->available_blocks(false);
    const std::uint64_t root = t.allocator->available_blocks(true);
    CHECK(user < root);
    CHECK(root < free);
    CHECK(t.allocator->check_space(user, core::Need::user).ok());
    CHECK(errno_of(t.allocator->check_space(user + 1, core::Need::user)) == ENOSPC);
    CHECK(t.allocator->check_space(root, core::Need::root).ok());
    CHECK(errno_of(t.allocator->check_space(root + 1, core::Need::root)) == ENOSPC);
    CHECK(t.allocator->check_space(root + 1, core::Need::growth).ok());
    CHECK(errno_of(t.allocator->check_space(free, core::Need::growth)) == ENOSPC);
    CHECK(t.allocator->check_space(free, core::Need::essential).ok());
    CHECK(errno_of(t.allocator->check_space(free + 1, core::Need::essential)) == ENOSPC);
}

namespace {

std::unique_ptr<Volume> volume_of(std::uint64_t size) {
    auto region = std::move(pm::memory_region(size)).take();
    REQUIRE(mkfs::make(*region, {}).ok());
    auto opened = Volume::open(std::move(region), {});
    REQUIRE(opened.ok());
    return std::move(opened).take();
}

std::string name_of(std::uint64_t n) {
    const std::string digits = std::to_string(n);
    return std::string(8 - digits.size(), '0') + digits;
}

}  // namespace

TEST_CASE("space map: with the last inode of a chunk its inode blocks become free space") {
    const auto volume = volume_of(64 << 20);
    const auto kinds = [&] {
        std::vector<ChunkInfo> chunks(volume->info().chunks);
        REQUIRE(volume->chunks(ChunkNo(0), chunks).ok());
        std::array<unsigned, 4> count{};
        for (const ChunkInfo &c : chunks) ++count[c.kind];
        return count;
    };
    const auto before = kinds();
    const std::uint64_t free = volume->info().blocks_free;
    std::vector<InodeNo> all;
    for (std::uint64_t n = 0; n < 20000; ++n)
        all.push_back(volume->make(kRoot, name_of(n), S_IFREG | 0644, 0, kUser).take().ino);
    CHECK(kinds()[1] > before[1]);
    for (std::uint64_t n = 0; n < all.size(); ++n) {
        REQUIRE(volume->unlink(kRoot, name_of(n)).ok());
        volume->forget(all[n], 1);
    }
    CHECK((kinds() == before));
    CHECK(volume->info().blocks_free + 2 >= free);
}

TEST_CASE("space map: the numbers of possible files and of free data blocks are exact within 1 %") {
    for (const std::uint64_t size : {8u << 20, 64u << 20}) {
        CAPTURE(size);
        const auto volume = volume_of(size);
        const std::uint64_t said = volume->info().inodes_available;
        std::uint64_t made = 0;
        while (volume->make(kRoot, name_of(made), S_IFREG | 0644, 0, kUser).ok()) ++made;
        CAPTURE(made);
        CAPTURE(said);
        CHECK(made * 100 >= said * 99);
        CHECK(made * 99 <= said * 100);
    }
    for (const std::uint64_t size : {8u << 20, 64u << 20, 512u << 20}) {
        CAPTURE(size);
        const auto volume = volume_of(size);
        const InodeNo ino = volume->make(kRoot, "f", S_IFREG | 0644, 0, kUser).take().ino;
        const std::uint64_t said = volume->info().blocks_available;
        const std::uint64_t block = media::kBlockSize;
        std::uint64_t had = 0;
        for (std::uint64_t step = 4096; step != 0; step /= 2)
            while (volume->fallocate(0, ino, 0, had * block, step * block, kUser).ok()) had += step;
        CHECK(had <= said);
        CHECK(had * 100 >= said * 99);
    }
}

TEST_CASE("space map: a group whose list of orphans has become empty is not searched any more") {
    Tested t(64 << 20, false);
    REQUIRE(core::ensure_free_inode(*t.core, GroupNo(0), core::Need::name).ok());
    const auto listed = [&] { return t.map().listed(true).has(GroupNo(0)); };
    CHECK(!listed());
    InodeNo ino;
    {
        core::Change change(*t.core);
        REQUIRE(change.begin().ok());
        const auto made = core::take_inode(change, GroupNo(0)).take();
        ino = made.ino;
        made.inode->mode.set(S_IFREG);
        REQUIRE(core::add_orphan(change, ino, made.inode).ok());
        REQUIRE(change.commit().ok());
    }
    CHECK(listed());
    const auto take_off = [&](bool put_back, bool commit) {
        core::Change change(*t.core);
        REQUIRE(change.begin().ok());
        media::Inode *inode = core::edit_inode(change, ino).take();
        REQUIRE(core::remove_orphan(change, ino, inode).ok());
        if (put_back) REQUIRE(core::add_orphan(change, ino, inode).ok());
        if (commit) REQUIRE(change.commit().ok());
    };
    take_off(false, false);
    CHECK(listed());  // it did not happen
    take_off(true, true);
    CHECK(listed());
    take_off(false, true);
    CHECK(!listed());
    {
        core::Change change(*t.core);  // nor did this
        REQUIRE(change.begin().ok());
        REQUIRE(core::add_orphan(change, ino, core::edit_inode(change, ino).take()).ok());
        CHECK(listed());
    }
    CHECK(!listed());
}
