// A volume whose space is broken into pieces, and what its files hold: what tests of evacuation
// play in.
#pragma once
#include <linux/falloc.h>

#include <algorithm>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "media/geometry.h"
#include "unit/small_volume.h"

namespace pmfs::test {

// A volume, on memory or on an image, and what its files hold.
class SpaceWorld : public SmallVolume {
public:
    explicit SpaceWorld(std::uint64_t size, bool image = false)
        : SmallVolume(size, image ? SimMedia::Flavour::image : SimMedia::Flavour::dax) {}

    InodeNo make(const std::string &name) {
        const InodeNo ino = try_make(name);
        REQUIRE(ino != InodeNo());
        return ino;
    }
    InodeNo try_make(const std::string &name) {  // none: the volume is full
        const auto made =
            retry([&] { return volume()->make(kRoot, name, S_IFREG | 0644, 0, kUser); });
        if (!made.ok()) REQUIRE(errno_of(made) == ENOSPC);
        return made.ok() ? made.value().ino : InodeNo();
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
        const auto done = retry(
            [&] { return volume()->write(ino, block * kBlock, bytes_of(text), false, caller); });
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
                    return volume()->fallocate(0, ino, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                               block * kBlock, blocks * kBlock, kUser);
                }).ok());
        for (std::uint64_t i = 0; i < blocks; ++i) files_[ino.value()].erase(block + i);
    }
    void remove(const std::string &name, InodeNo ino) {
        REQUIRE(retry([&] { return volume()->unlink(kRoot, name); }).ok());
        volume()->forget(ino, 1);
        files_.erase(ino.value());
    }
    std::string read(InodeNo ino, std::uint64_t offset, std::uint64_t size) {
        return read_at(**this, ino, offset, size);
    }
    void forget_content(InodeNo ino) { files_.erase(ino.value()); }
    // All files read what was written to them.
    void look() {
        for (const auto &[number, blocks] : files_)
            for (const auto &[block, text] : blocks)
                CHECK((read(InodeNo(number), block * kBlock, kBlock) == text));
    }
    void check() {
        look();
        SmallVolume::check();
    }
    Result<> prepare(InodeNo ino, const Caller &who = kUser, std::uint64_t unit = kChunk) {
        Progress place;
        Caller caller = who;
        caller.progress = &place;
        return retry([&] { return volume()->prepare(ino, 0, 0, unit, caller); });
    }
    std::vector<ChunkInfo> chunks() {
        std::vector<ChunkInfo> all(volume()->info().chunks);
        REQUIRE(volume()->chunks(ChunkNo(0), all).ok());
        return all;
    }
    std::uint64_t free_chunks() {
        const auto all = chunks();
        return static_cast<std::uint64_t>(
            std::count_if(all.begin(), all.end(), [](const auto &c) { return c.kind == 0; }));
    }
    Compacted compact() {
        Compacted sum;
        GroupNo from;
        for (unsigned calls = 0;; ++calls) {
            REQUIRE(calls < 1000);
            Progress place;
            Caller caller = kAdmin;
            caller.progress = &place;
            const auto done = retry([&] { return volume()->compact(from, caller); });
            REQUIRE(done.ok());
            sum.chunks += done.value().chunks;
            sum.moved += done.value().moved;
            if (!done.value().more) return sum;
            from = done.value().next;
        }
    }
    Extent extent_at(InodeNo ino, std::uint64_t block) {
        Extent e{};
        REQUIRE(volume()->extents(ino, FileBlock(block), std::span(&e, 1)).take() == 1);
        return e;
    }
    // Small files in all chunks, of which those that `keep` says stay.
    std::vector<InodeNo> broken(std::uint64_t blocks, const std::function<bool(unsigned)> &keep) {
        std::vector<InodeNo> all, kept;
        for (unsigned i = 0;; ++i) {
            all.push_back(try_make("s" + std::to_string(i)));
            if (all.back() == InodeNo() || !write(all.back(), 0, blocks)) break;
        }
        if (all.back() != InodeNo()) remove("s" + std::to_string(all.size() - 1), all.back());
        for (unsigned i = 0; i + 1 < all.size(); ++i) {
            if (keep(i))
                kept.push_back(all[i]);
            else
                remove("s" + std::to_string(i), all[i]);
        }
        REQUIRE(volume()->commit_group().ok());
        REQUIRE(volume()->commit_group().ok());
        return kept;
    }
    InodeNo sized(const std::string &name, std::uint64_t size) {
        const InodeNo ino = make(name);
        REQUIRE(retry([&] { return volume()->setattr(ino, size_of(size), kUser); }).ok());
        return ino;
    }
    // Its blocks stand still: by a seal (way 0), a temporary grant, a pin, a lease, or what is
    // quarantined of a grant that was lost (4).
    void keep_in_place(InodeNo ino, unsigned way) {
        std::uint64_t bad = 0;
        if (way == 0) {
            REQUIRE(retry([&] {
                        return volume()->seal(ino, SealLevel::as_is, kUser, true, &bad);
                    }).ok());
            return;
        }
        OpenRequest open;
        open.write = open.direct = true;
        open.caller = kUser;
        const auto opened = volume()->open_file(ino, open);
        REQUIRE(opened.ok());
        GrantRequest request;
        request.kind = way == 2   ? GrantKind::pin
                       : way == 3 ? GrantKind::breakable
                                  : GrantKind::temporary;
        request.may_store = request.maps = way != 2;
        if (way == 2) request.length = kBlock;
        const auto taken = retry(
            [&] { return volume()->take_grant(opened.value().handle, request, kUser, &bad); });
        REQUIRE(taken.ok());
        if (way != 4) return;
        volume()->lose_grant(opened.value().handle, taken.value());
        REQUIRE(volume()->commit_group().ok());
        volume()->tend(0);
        CHECK(volume()->quarantine().take().size() != 0);
    }

private:
    Volume *volume() { return SmallVolume::operator->(); }
    std::map<std::uint64_t, std::map<std::uint64_t, std::string>> files_;
    unsigned writes_ = 0;
};

}  // namespace pmfs::test
