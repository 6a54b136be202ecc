// Chunks made whole by moving other files' data out of them: nothing is lost, what must not move
// does not, and what is free can be had.
#include <doctest/doctest.h>
#include <linux/falloc.h>
#include <sys/stat.h>

#include <atomic>
#include <map>
#include <random>
#include <thread>

#include "fsck/check.h"
#include "mkfs/make.h"
#include "support/sim_media.h"
#include "volume/volume.h"

using namespace pmfs;

namespace {

const InodeNo kRoot(media::kRootIno);
constexpr std::uint64_t kBlock = media::kBlockSize, kChunk = media::kChunkSize;
constexpr Caller kUser{1000, 1000, 1}, kAdmin{0, 0, 1};

template <class T>
int errno_of(const Result<T> &result) {
    return result.ok() ? 0 : result.error().errno_value();
}

SetAttr size_of(std::uint64_t size) {
    SetAttr set;
    set.size = size;
    return set;
}

// A volume, on memory or on an image, and what its files hold.
class World {
public:
    explicit World(std::uint64_t size, bool image = false) {
        auto region = std::move(pm::memory_region(size)).take();
        mkfs::MakeOptions make;
        make.journal_size = media::kJournalSizeMin;
        REQUIRE(mkfs::make(*region, make).ok());
        MountOptions mount;
        mount.no_background = true;
        media_ = std::make_unique<test::SimMedia>(
            image ? test::SimMedia::Flavour::image : test::SimMedia::Flavour::dax,
            test::MediaImage(std::vector<std::byte>(region->meta(), region->meta() + size)));
        auto opened = Volume::open(media_->lend(), mount);
        REQUIRE(opened.ok());
        volume_ = std::move(opened).take();
    }
    Volume *operator->() { return volume_.get(); }

    template <class F>
    auto retry(F operation, int most = 2000) {
        auto done = operation();
        for (; most > 0 && !done.ok() && must_park(done.error()); --most) {
            REQUIRE(volume_->commit_group().ok());
            volume_->tend(0);
            done = operation();
        }
        return done;
    }
    InodeNo make(const std::string &name) {
        const auto made =
            retry([&] { return volume_->make(kRoot, name, S_IFREG | 0644, 0, kUser); });
        REQUIRE(made.ok());
        return made.value().ino;
    }
    // Each block says whose it is.
    bool write(InodeNo ino, std::uint64_t block, std::uint64_t blocks) {
        std::string text(blocks * kBlock, 0);
        ++writes_;
        for (std::uint64_t i = 0; i < blocks; ++i) {
            const std::string word = std::to_string(ino.value()) + "/" + std::to_string(block + i) +
                                     "#" + std::to_string(writes_) + ";";
            text.replace(i * kBlock, word.size(), word);
        }
        Progress place;
        Caller caller = kUser;
        caller.progress = &place;
        const auto done = retry([&] {
            return volume_->write(ino, block * kBlock, std::as_bytes(std::span(text)), false,
                                  caller);
        });
        if (!done.ok()) {
            REQUIRE(errno_of(done) == ENOSPC);
            return false;
        }
        auto &file = files_[ino.value()];
        const std::uint64_t written = done.value() / kBlock;
        for (std::uint64_t i = 0; i < written; ++i)
            file[block + i] = text.substr(i * kBlock, kBlock);
        return written == blocks;
    }
    void punch(InodeNo ino, std::uint64_t block, std::uint64_t blocks) {
        REQUIRE(retry([&] {
                    return volume_->fallocate(0, ino, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                              block * kBlock, blocks * kBlock, kUser);
                }).ok());
        for (std::uint64_t i = 0; i < blocks; ++i) files_[ino.value()].erase(block + i);
    }
    void remove(const std::string &name, InodeNo ino) {
        REQUIRE(retry([&] { return volume_->unlink(kRoot, name); }).ok());
        volume_->forget(ino, 1);
        files_.erase(ino.value());
    }
    std::string read(InodeNo ino, std::uint64_t offset, std::uint64_t size) {
        std::string found;
        REQUIRE(volume_
                    ->read(ino, offset, size,
                           [&](auto pieces) {
                               for (const iovec &p : pieces)
                                   found.append(static_cast<char *>(p.iov_base), p.iov_len);
                           })
                    .ok());
        return found;
    }
    // All files read what was written to them.
    void look() {
        for (const auto &[number, blocks] : files_)
            for (const auto &[block, text] : blocks)
                CHECK((read(InodeNo(number), block * kBlock, kBlock) == text));
    }
    void check() {
        look();
        REQUIRE(volume_->close().ok());
        const auto region = media_->lend();
        const auto report = fsck::check(*region);
        REQUIRE(report.ok());
        for (const auto &p : report.value().problems)
            MESSAGE(fsck::id_of(p.code), " ", fsck::info_of(p.code).sentence, " ", p.detail);
        CHECK(report.value().clean());
    }
    Result<> prepare(InodeNo ino, const Caller &who = kUser, std::uint64_t unit = kChunk) {
        Progress place;
        Caller caller = who;
        caller.progress = &place;
        return retry([&] { return volume_->prepare(ino, 0, 0, unit, caller); });
    }
    std::vector<ChunkInfo> chunks() {
        std::vector<ChunkInfo> all(volume_->info().chunks);
        REQUIRE(volume_->chunks(0, all).ok());
        return all;
    }
    std::uint64_t free_chunks() {
        const auto all = chunks();
        return static_cast<std::uint64_t>(
            std::count_if(all.begin(), all.end(), [](const auto &c) { return c.kind == 0; }));
    }
    Compacted compact() {
        Compacted sum;
        for (std::uint64_t from = 0, calls = 0;; ++calls) {
            REQUIRE(calls < 1000);
            Progress place;
            Caller caller = kAdmin;
            caller.progress = &place;
            const auto done = retry([&] { return volume_->compact(from, caller); });
            REQUIRE(done.ok());
            sum.chunks += done.value().chunks;
            sum.moved += done.value().moved;
            if (!done.value().more) return sum;
            from = done.value().next;
        }
    }
    Extent extent_at(InodeNo ino, std::uint64_t block) {
        Extent e{};
        REQUIRE(volume_->extents(ino, block, std::span(&e, 1)).take() == 1);
        return e;
    }
    // Small files in all chunks, of which those that `keep` says stay.
    std::vector<InodeNo> broken(std::uint64_t blocks, const std::function<bool(unsigned)> &keep) {
        std::vector<InodeNo> all, kept;
        for (unsigned i = 0;; ++i) {
            all.push_back(make("s" + std::to_string(i)));
            if (!write(all.back(), 0, blocks)) break;
        }
        remove("s" + std::to_string(all.size() - 1), all.back());
        for (unsigned i = 0; i + 1 < all.size(); ++i) {
            if (keep(i))
                kept.push_back(all[i]);
            else
                remove("s" + std::to_string(i), all[i]);
        }
        REQUIRE(volume_->commit_group().ok());
        REQUIRE(volume_->commit_group().ok());
        return kept;
    }
    InodeNo sized(const std::string &name, std::uint64_t size) {
        const InodeNo ino = make(name);
        REQUIRE(retry([&] { return volume_->setattr(ino, size_of(size), kUser); }).ok());
        return ino;
    }

private:
    std::unique_ptr<test::SimMedia> media_;
    std::unique_ptr<Volume> volume_;
    std::map<std::uint64_t, std::map<std::uint64_t, std::string>> files_;
    unsigned writes_ = 0;
};

}  // namespace

TEST_CASE("evacuation: a chunk is made of broken ones, on memory and on an image") {
    for (const bool image : {false, true}) {
        CAPTURE(image);
        World world(32 << 20, image);
        world.broken(8, [](unsigned i) { return i % 2 == 0; });
        CHECK(world.free_chunks() == 0);
        const InodeNo big = world.sized("big", 2 * kChunk);
        CHECK(world.prepare(big).ok());
        Extent e[3];
        CHECK(world->extents(big, 0, e).take() <= 2);
        for (int i = 0; i < 2; ++i)
            CHECK(world.extent_at(big, static_cast<unsigned>(i) * 512).start % 512 ==
                  (world.extent_at(big, static_cast<unsigned>(i) * 512).file_block) % 512);
        world.check();
    }
}

// prepare() succeeds until bytes are short, whatever has become of the volume before.
TEST_CASE("evacuation: what is free can be had as whole chunks, however old the volume is") {
    for (unsigned seed = 1; seed <= 12; ++seed) {
        const bool image = seed % 3 == 0;
        CAPTURE(seed);
        World world((16u << 20) << seed % 3, image);
        std::mt19937 random(seed);
        const auto dice = [&](unsigned n) { return random() % n; };
        std::map<std::string, InodeNo> files;
        unsigned number = 0;
        for (int round = 0; round < 1200; ++round) {
            const unsigned what = dice(10);
            if (what < 5 || files.empty()) {
                const std::string name = "f" + std::to_string(number++);
                files[name] = world.make(name);
                world.write(files[name], dice(4), 1 + dice(dice(8) == 0 ? 300 : 30));
            } else {
                auto one = files.begin();
                std::advance(one, dice(static_cast<unsigned>(files.size())));
                if (what < 7) {
                    world.remove(one->first, one->second);
                    files.erase(one);
                } else if (what < 9) {
                    world.punch(one->second, dice(20), 1 + dice(10));
                } else {
                    world.write(one->second, dice(600), 1 + dice(20));
                }
            }
        }
        // Half of the files go, so that there is something to be had.
        for (auto one = files.begin(); one != files.end();) {
            if (dice(2) == 0) {
                ++one;
                continue;
            }
            world.remove(one->first, one->second);
            one = files.erase(one);
        }
        REQUIRE(world->commit_group().ok());
        REQUIRE(world->commit_group().ok());
        unsigned prepared = 0;
        for (;; ++prepared) {
            const std::uint64_t chunks = 1 + dice(2);
            const InodeNo ino = world.sized("p" + std::to_string(prepared), chunks * kChunk);
            const std::uint64_t available = world->info().blocks_available;
            const auto done = world.prepare(ino);
            if (done.ok()) continue;
            CHECK(errno_of(done) == ENOSPC);
            // A few blocks of metadata come with it; what is in a chunk with metadata stays.
            std::uint64_t stays = 0;
            for (const ChunkInfo &c : world.chunks())
                if (c.kind == 1 || c.kind == 3) stays += 512u - c.used_blocks;
            CAPTURE(available);
            CAPTURE(stays);
            CHECK(available < chunks * 512 + stays + 16);
            break;
        }
        CAPTURE(prepared);
        world.check();
    }
}
