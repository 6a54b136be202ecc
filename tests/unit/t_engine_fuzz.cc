// The engine on volumes with arbitrary contents and correct checksums: every operation ends, with
// success or with an error, and the server lives.  Run it under ASan.
#include <doctest/doctest.h>
#include <linux/falloc.h>
#include <sys/stat.h>

#include <cstdlib>
#include <cstring>
#include <random>

#include "base/clock.h"
#include "media/geometry.h"
#include "media/verify.h"
#include "support/builder.h"
#include "volume/volume.h"

using namespace pmfs;
using namespace pmfs::media;
using test::Populated;

namespace {

using Random = std::mt19937_64;
constexpr Caller kUser{0, 0, 1};
const InodeNo kRoot(kRootIno);

std::uint64_t number_from(const char *name, std::uint64_t otherwise) {
    const char *text = std::getenv(name);
    return text != nullptr ? std::strtoull(text, nullptr, 0) : otherwise;
}

class Fuzzer {
public:
    explicit Fuzzer(std::uint64_t seed) : random_(seed) {
        const std::byte *bytes = populated_.b.region().data();
        sound_.assign(bytes, bytes + populated_.b.region().size());
        for (std::uint64_t block = 1; block < sound_.size() / kBlockSize; ++block) {
            const auto magic = Magic{load<le32>(ConstBytes(sound_), block * kBlockSize).get()};
            if (magic == Magic::node || magic == Magic::inode || magic == Magic::inode_map ||
                magic == Magic::bitmap || magic == Magic::summary)
                blocks_.push_back(block);
        }
    }

    void round() {
        bytes_ = sound_;
        const std::uint64_t faults = 1 + random_() % 3;
        for (std::uint64_t i = 0; i < faults; ++i) {
            if (random_() % 3 == 0)
                call_free(blocks_[random_() % blocks_.size()]);
            else
                change(blocks_[random_() % blocks_.size()]);
        }
        auto region = pm::memory_region(bytes_.size()).take();
        region->fence(region->write(0, bytes_));
        auto opened = Volume::open(std::move(region), {});
        if (!opened.ok()) return;
        const std::uint64_t start = monotonic_ns();
        use(*opened.value());
        (void)opened.value()->close().ok();
        CHECK(monotonic_ns() - start < 10'000'000'000);
    }

private:
    std::byte *block(std::uint64_t number) { return bytes_.data() + number * kBlockSize; }

    void seal(std::uint64_t number) {
        const auto magic = Magic{load<le32>(ConstBytes(bytes_), number * kBlockSize).get()};
        if (magic == Magic::inode) {
            for (std::uint64_t i = 0; i < kInodesPerBlock; ++i)
                seal_block(Bytes(block(number) + i * kInodeSize, kInodeSize));
            return;
        }
        seal_block(Bytes(block(number), kBlockSize));
    }

    // A field behind the header becomes another number: most fields are where a struct has them.
    void change(std::uint64_t number) {
        const auto magic = Magic{load<le32>(ConstBytes(bytes_), number * kBlockSize).get()};
        const std::uint64_t piece = magic == Magic::inode ? random_() % 8 * kInodeSize : 0;
        const std::uint64_t reach = random_() % 2 == 0 ? 64 : magic == Magic::inode ? 480 : 4060;
        const std::uint64_t width = std::uint64_t{1} << (random_() % 4);
        const std::uint64_t at = piece + 32 + random_() % reach / width * width;
        std::uint64_t value = 0;
        switch (random_() % 5) {
            case 0:
                value = blocks_[random_() % blocks_.size()];
                break;
            case 1:
                value = random_() % 64;
                break;
            case 2:
                value = std::uint64_t{1} << random_() % 64;
                break;
            case 3:
                value = ~std::uint64_t{0} >> random_() % 64;
                break;
            default:
                value = random_();
        }
        std::memcpy(block(number) + at, &value, width);
        seal(number);
        if (magic == Magic::summary) mirror(number);
    }

    // Both copies say the same: else the sound one is used.
    void mirror(std::uint64_t number) {
        const GroupLayout layout = layout_of(0);
        const std::uint64_t other =
            number == layout.summary_a ? layout.summary_b : layout.summary_a;
        const std::size_t head = sizeof(BlockHeader);
        std::memcpy(block(other) + head, block(number) + head, kBlockSize - head);
        seal(other);
    }

    // A block in use is called free, and the summaries agree.
    void call_free(std::uint64_t number) {
        const GroupLayout layout = layout_of(0);
        const std::uint64_t chunk = number / kChunkBlocks;
        const std::uint64_t bit = std::uint64_t{1} << (number % 64);
        bool was_used = false;
        for (const std::uint64_t first : {layout.bitmaps, layout.classes}) {
            const std::uint64_t bitmap = first + bitmap_index(chunk);
            le64 &word = reinterpret_cast<BitmapBlock *>(block(bitmap))
                             ->bits[bitmap_row(chunk)][number % kChunkBlocks / 64];
            was_used |= (word.get() & bit) != 0;
            word.set(word.get() & ~bit);
            seal(bitmap);
        }
        if (!was_used) return;
        auto *summary = reinterpret_cast<Summary *>(block(layout.summary_a));
        summary->partial_free.set(summary->partial_free.get() + 1);
        seal(layout.summary_a);
        mirror(layout.summary_a);
    }

    void look(Volume &v, InodeNo ino) {
        (void)v.getattr(ino).ok();
        (void)v.read(ino, 0, 1 << 20, [](auto) {}).ok();
        (void)v.readlink(ino).ok();
        (void)v.file_info(ino).ok();
        if (const auto names = v.listxattr(ino); names.ok())
            for (std::size_t at = 0; at < names.value().size();) {
                const std::string name(names.value().c_str() + at);
                at += name.size() + 1;
                (void)v.getxattr(ino, name).ok();
            }
    }

    // What an operation does to a file that any number may lead to.
    void change_file(Volume &v, InodeNo ino) {
        const std::vector<std::byte> piece(20000, std::byte{'p'});
        std::uint64_t bad = 0;
        SetAttr set;
        set.size = random_() % 500000;
        (void)v.write(ino, random_() % 300000, piece, true, kUser).ok();
        (void)v.setattr(ino, set, kUser).ok();
        (void)v.fallocate(0, ino, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 50000, kUser)
            .ok();
        (void)v.fallocate(0, ino, 0, 0, 100000, kUser).ok();
        (void)v.setxattr(ino, "user.fuzz", std::span(piece).first(random_() % 9000), 0, kUser).ok();
        (void)v.removexattr(ino, "user.small", kUser).ok();
        (void)v.prepare(ino, 0, 0, 0, kUser).ok();
        (void)v.prepare_contiguous(ino, 0, 0, kUser).ok();
        (void)v.seal(ino, SealLevel::as_is, kUser, true, &bad).ok();
        (void)v.unseal(ino, kUser, true).ok();
    }

    void use(Volume &v) {
        std::vector<std::pair<InodeNo, std::string>> directories = {{kRoot, ""}}, names;
        for (std::size_t i = 0; i < directories.size() && i < 20; ++i) {
            const InodeNo dir = directories[i].first;
            (void)
                v.readdir(dir, 2, [&](const DirEntry &e) {
                     names.emplace_back(dir, e.name);
                     return names.size() < 200;
                 }).ok();
        }
        for (const auto &[dir, name] : names)
            if (const auto found = v.lookup(dir, name); found.ok()) look(v, found.value().ino);
        for (std::uint64_t ino = 1; ino < 24; ++ino) change_file(v, InodeNo(ino));
        for (unsigned i = 0; i < 12; ++i) {
            const std::string name = std::string(100, 'n') + std::to_string(i);
            (void)v.make(kRoot, name, S_IFREG | 0644, 0, kUser).ok();
            (void)v.symlink(kRoot, name + "s", std::string(400, 's'), kUser).ok();
        }
        for (const auto &[dir, name] : names) {
            (void)v.rename(dir, name, kRoot, "moved", 0).ok();
            (void)v.unlink(dir, name).ok();
            (void)v.rmdir(dir, name).ok();
        }
        for (std::uint64_t ino = 1; ino < 24; ++ino) v.forget(InodeNo(ino), 1000);
    }

    Populated populated_;
    std::vector<std::byte> sound_, bytes_;
    std::vector<std::uint64_t> blocks_;
    Random random_;
};

}  // namespace

TEST_CASE("hostile: every operation ends on any damage whose checksums are right") {
    const std::uint64_t seed = number_from("PMFS_FUZZ_SEED", 1);
    const std::uint64_t rounds = number_from("PMFS_FUZZ_ROUNDS", 150);
    Fuzzer fuzzer(seed);
    for (std::uint64_t i = 0; i < rounds; ++i) {
        CAPTURE(seed);
        CAPTURE(i);
        fuzzer.round();
    }
}
