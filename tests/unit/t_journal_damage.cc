// A journal that was damaged after it was written: what counts and is not whole is never taken for
// a torn end.
//
// Holds docs/persistence.md "The journal".
#include <doctest/doctest.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>

#include "base/bytes.h"
#include "fsck/check.h"
#include "fsck/print.h"
#include "journal/journal.h"
#include "journal/replay.h"
#include "journal/tx.h"
#include "media/geometry.h"
#include "media/verify.h"
#include "mkfs/make.h"
#include "support/sim_media.h"
#include "volume/volume.h"

using namespace pmfs;
using namespace pmfs::media;
using test::MediaImage;
using test::SimMedia;

namespace {

using Flavour = SimMedia::Flavour;
using Names = std::vector<std::string>;
constexpr Caller kUser{1000, 1000, 1};
constexpr journal::BootId kBootA{0xa}, kBootB{0xb};
const InodeNo kRoot(kRootIno);

MountOptions mount_options(const journal::BootId &boot, bool read_only = false) {
    MountOptions options;
    options.no_background = true;
    options.boot_id = boot;
    options.read_only = read_only;
    return options;
}

struct Record {
    std::uint64_t seq, offset, size, covers;  // offset in the region
    bool mark;
};

// What a server leaves that was killed: on an image with files that were synced, one by one.
struct Killed {
    explicit Killed(Flavour f, unsigned files = 6) : flavour(f) {
        SimMedia media(f, MediaImage(std::vector<std::byte>(4 << 20)));
        mkfs::MakeOptions make;
        make.journal_size = 256 << 10;  // no checkpoint comes between
        make.mapping_unit = 4096;
        REQUIRE(mkfs::make(*media.lend(), make).ok());
        auto volume = Volume::open(media.lend(), mount_options(kBootA)).take();
        for (unsigned i = 0; i < files; ++i) {
            const auto made =
                volume->make(kRoot, "file" + std::to_string(i), S_IFREG | 0644, 0, kUser);
            REQUIRE(made.ok());
            const std::string text(100, static_cast<char>('a' + i));
            REQUIRE(volume->write(made.value().ino, 0, std::as_bytes(std::span(text)), false, kUser)
                        .ok());
            bool synced = false;
            volume->fsync(made.value().ino, [&](Result<> done) { synced = done.ok(); });
            REQUIRE(synced);
        }
        bytes = media.after_kill().bytes();
        volume.reset();
        look();
    }

    const Superblock &sb() const { return *reinterpret_cast<const Superblock *>(bytes.data()); }
    void look() {
        SimMedia media(flavour, MediaImage(bytes));
        const auto place = journal::ring_place(sb());
        const auto ring = journal::read_ring_header(media, sb());
        REQUIRE(ring.ok());
        std::vector<std::byte> buffer(kRecordSizeMax);
        journal::ChainReader reader(media, place, ring.value().secret, ring.value().tail_seq,
                                    ring.value().tail_offset, buffer);
        for (;;) {
            const std::uint64_t offset = reader.offset(), seq = reader.seq();
            const auto record = reader.next();
            if (record.empty()) break;
            const auto header = load<RecordHeader>(record);
            REQUIRE(offset + record.size() <= place.size);  // none goes round the end
            records.push_back({seq, place.start + offset, record.size(), header.covers.get(),
                               RecordKind{header.kind.get()} == RecordKind::mark});
        }
    }

    Flavour flavour;
    std::vector<std::byte> bytes;
    std::vector<Record> records;
};

struct Outcome {
    int mount = 0;
    Names names;
    bool written = false;  // by the mount or by fsck
    std::string problems;
};

Names names_of(Volume &volume) {
    Names names;
    REQUIRE(volume
                .readdir(kRoot, 2,
                         [&](const DirEntry &e) {
                             names.emplace_back(e.name);
                             return true;
                         })
                .ok());
    std::ranges::sort(names);
    return names;
}

std::string check(SimMedia &media, const journal::BootId &boot) {
    const auto region = media.lend();
    fsck::Report report;
    REQUIRE(fsck::replay_journal(*region, boot, true, &report).ok());
    std::string text;
    for (const auto &problem : report.problems) text += fsck::text_of(problem) + "\n";
    const auto rest = fsck::check(*region);
    REQUIRE(rest.ok());
    for (const auto &problem : rest.value().problems) text += fsck::text_of(problem) + "\n";
    return text;
}

Outcome mount(const Killed &killed, const journal::BootId &boot) {
    Outcome out;
    {
        SimMedia media(killed.flavour, MediaImage(killed.bytes));
        const std::size_t syncs = killed.flavour == Flavour::image ? 1 : 0;  // before it is read
        auto volume = Volume::open(media.lend(), mount_options(boot));
        if (volume.ok()) {
            out.names = names_of(*volume.value());
            REQUIRE(volume.value()->close().ok());
        } else {
            out.mount = volume.error().errno_value();
            out.written = media.events() != syncs;
            CHECK(!Volume::open(media.lend(), mount_options(boot, true)).ok());
        }
    }
    SimMedia media(killed.flavour, MediaImage(killed.bytes));
    out.problems = check(media, boot);
    if (!out.problems.empty()) out.written |= media.events() != 0;
    return out;
}

// Each byte of the header and of the table, and one in each line behind it.
std::vector<std::uint64_t> positions(const Record &record) {
    std::vector<std::uint64_t> at;
    for (std::uint64_t i = 0; i < record.size; i += i < 2 * kLineSize ? 3 : kLineSize + 1)
        at.push_back(record.offset + i);
    return at;
}

}  // namespace

TEST_CASE(
    "journal: one flipped bit in a record other than the last one is damage, and nothing is "
    "written") {
    for (const Flavour flavour : {Flavour::dax, Flavour::image}) {
        Killed killed(flavour);
        REQUIRE(killed.records.size() > 10);
        const Outcome sound = mount(killed, kBootA);
        REQUIRE(sound.mount == 0);
        REQUIRE(sound.names.size() == 6);
        REQUIRE(sound.problems.empty());
        for (const Record &record : std::span(killed.records).first(killed.records.size() - 1))
            for (const std::uint64_t at : positions(record)) {
                CAPTURE(static_cast<int>(flavour));
                CAPTURE(record.seq);
                CAPTURE(at - record.offset);
                const auto bit = std::byte(1 << at % 8);
                killed.bytes[at] ^= bit;
                const Outcome found = mount(killed, kBootA);
                killed.bytes[at] ^= bit;
                CHECK(found.mount == EUCLEAN);
                CHECK(found.problems.find("PM0204") == 0);
                CHECK_FALSE(found.written);
            }
    }
}

TEST_CASE("journal: the last record may be torn, unless its lines are home already") {
    for (const Flavour flavour : {Flavour::dax, Flavour::image}) {
        Killed killed(flavour);
        // On an image two marks stand behind it, and nothing is home.
        while (killed.records.back().mark) {
            std::memset(&killed.bytes[killed.records.back().offset], 0, kLineSize);
            killed.records.pop_back();
        }
        const Record last = killed.records.back();
        for (const std::uint64_t at : positions(last)) {
            CAPTURE(static_cast<int>(flavour));
            CAPTURE(at - last.offset);
            killed.bytes[at] ^= std::byte{4};
            const Outcome found = mount(killed, kBootA);
            killed.bytes[at] ^= std::byte{4};
            CHECK(found.mount == (flavour == Flavour::dax ? EUCLEAN : 0));
            CHECK(found.problems.empty() == (flavour == Flavour::image));
            CHECK(found.names.size() == (flavour == Flavour::dax ? 0 : 6));
            CHECK_FALSE(found.written);
        }
    }
}

TEST_CASE(
    "journal: after a power cut records that a mark covers must be whole, and later ones need "
    "not") {
    Killed killed(Flavour::image);
    std::uint64_t covered = 0;
    for (const Record &record : killed.records) covered = std::max(covered, record.covers);
    for (const Record &record : killed.records) {
        CAPTURE(record.seq);
        killed.bytes[record.offset + record.size - 9] ^= std::byte{1};
        const Outcome found = mount(killed, kBootB);
        killed.bytes[record.offset + record.size - 9] ^= std::byte{1};
        CHECK(found.mount == (record.seq <= covered ? EUCLEAN : 0));
        CHECK(found.names.size() == (record.seq <= covered ? 0 : 6));
        CHECK(found.problems.empty() == (record.seq > covered));
        CHECK_FALSE(found.written);
    }
}

TEST_CASE(
    "journal: after a failed sync, or if the disk has been away, only what a mark covers counts") {
    for (const bool fails : {true, false}) {
        CAPTURE(fails);
        const Killed killed(Flavour::image);
        SimMedia media(Flavour::image, MediaImage(killed.bytes));
        media.lie_on_disk(7);
        auto volume = Volume::open(media.lend(), mount_options(kBootA)).take();
        REQUIRE(volume->commit_group().ok());
        REQUIRE(volume->make(kRoot, "late", S_IFREG | 0644, 0, kUser).ok());
        if (fails) {
            media.plant(test::Plant::fail_syncs);
            CHECK_FALSE(volume->commit_group().ok());
        }
        const MediaImage left = media.after_kill();
        volume.reset();
        for (const std::uint64_t disk : {7, 8, 0}) {  // 0: no sysfs tells
            CAPTURE(disk);
            SimMedia found(Flavour::image, left);
            found.lie_on_disk(disk);
            volume = Volume::open(found.lend(), mount_options(kBootA)).take();
            const bool whole = !fails && disk != 8;
            CHECK(names_of(*volume).size() == (whole ? 7 : 6));
        }
        // Pages that the kernel could not write meanwhile: it tells the next mount, and no later
        // one.
        volume.reset();
        SimMedia told(Flavour::image, left);
        told.lie_on_disk(7);
        told.plant(test::Plant::fail_syncs, 0);
        CHECK_FALSE(Volume::open(told.lend(), mount_options(kBootA)).ok());
        SimMedia found(Flavour::image, told.after_kill());
        found.lie_on_disk(7);
        volume = Volume::open(found.lend(), mount_options(kBootA)).take();
        CHECK(names_of(*volume).size() == 6);
    }
}

TEST_CASE(
    "journal: power that fails while records are replayed leaves all of them or those before") {
    Killed killed(Flavour::image);
    {
        SimMedia media(Flavour::image, MediaImage(killed.bytes));
        auto volume = Volume::open(media.lend(), mount_options(kBootA)).take();
        REQUIRE(volume->commit_group().ok());
        for (const char *name : {"late", "later", "latest"})  // no mark covers these
            REQUIRE(volume->make(kRoot, name, S_IFDIR | 0755, 0, kUser).ok());
        killed.bytes = media.after_kill().bytes();
        volume.reset();
    }
    SimMedia media(Flavour::image, MediaImage(killed.bytes));
    REQUIRE(Volume::open(media.lend(), mount_options(kBootA)).ok());
    for (std::size_t cut = 0; cut <= media.events(); ++cut)
        for (unsigned seed = 0; seed < 16; ++seed) {
            CAPTURE(media.describe(cut, seed));
            killed.bytes = media.after_power_cut(cut, seed).bytes();
            const Outcome found = mount(killed, kBootB);
            CHECK(found.mount == 0);
            CHECK((found.names.size() == 6 || found.names.size() == 9));
            CHECK(found.problems.empty());
        }
}

TEST_CASE("journal: a mount that a failed sync stops leaves the next one everything") {
    const Killed killed(Flavour::image);
    std::size_t failed = 0;
    for (std::size_t nth = 0;; ++nth) {
        CAPTURE(nth);
        SimMedia media(Flavour::image, MediaImage(killed.bytes));
        media.plant(test::Plant::fail_syncs, nth);
        const bool mounted = Volume::open(media.lend(), mount_options(kBootA)).ok();
        if (!media.plant_is_spent()) break;
        failed += !mounted;
        for (const journal::BootId &boot : {kBootA, kBootB}) {
            SimMedia found(Flavour::image, media.after_kill());
            const auto volume = Volume::open(found.lend(), mount_options(boot));
            REQUIRE(volume.ok());
            CHECK(names_of(*volume.value()).size() == 6);
            CHECK(volume.value()->make(kRoot, "more", S_IFREG | 0644, 0, kUser).ok());
            REQUIRE(volume.value()->close().ok());
            CHECK(check(found, boot).empty());
        }
    }
    CHECK(failed > 1);
}

TEST_CASE("journal: damage to either of its headers, at rest or in use, hides nothing") {
    for (const Flavour flavour : {Flavour::dax, Flavour::image})
        for (unsigned slot = 0; slot < 2; ++slot) {
            Killed killed(flavour);
            const std::uint64_t at = (killed.sb().journal_start.get() + slot) * kBlockSize;
            killed.bytes[at + 70] ^= std::byte{1};  // of the secret
            const Outcome found = mount(killed, kBootA);
            CHECK(found.mount == 0);
            CHECK(found.names.size() == 6);
            CHECK(found.problems.empty());
        }
}

TEST_CASE("journal: a record with impossible contents stops a replay before its first line") {
    for (const Flavour flavour : {Flavour::dax, Flavour::image}) {
        Killed killed(flavour);
        SimMedia media(flavour, MediaImage(killed.bytes));
        const auto secret = journal::read_ring_header(media, killed.sb()).take().secret;
        const Record *last = nullptr;
        for (const Record &record : killed.records)
            if (!record.mark) last = &record;
        auto &header = *reinterpret_cast<RecordHeader *>(&killed.bytes[last->offset]);
        auto &entry = *reinterpret_cast<RecordEntry *>(&header + 1);
        const std::uint64_t journal = killed.sb().journal_start.get();
        for (const std::uint64_t block :
             {std::uint64_t{0}, journal, journal + 5, killed.sb().block_count.get()}) {
            CAPTURE(block);
            entry.block.set(block);
            header.crc32c.set(journal::record_checksum(
                secret, ConstBytes(&killed.bytes[last->offset], last->size)));
            const Outcome found = mount(killed, kBootA);
            CHECK(found.mount == EUCLEAN);
            CHECK(found.problems.find("PM0203") == 0);
            CHECK_FALSE(found.written);
        }
    }
}

TEST_CASE("journal: a ring full of forged headers is searched once, not for ever") {
    Killed killed(Flavour::dax);
    const auto place = journal::ring_place(killed.sb());
    const Record last = killed.records.back();
    for (std::uint64_t at = last.offset + last.size; at < place.start + place.size;
         at += kLineSize) {
        RecordHeader forged{};
        forged.magic.set(static_cast<std::uint32_t>(Magic::record));
        forged.seq.set(1u << 30);
        forged.size.set(align_down(kRecordSizeMax, kLineSize));
        std::memcpy(&killed.bytes[at], &forged, sizeof forged);
    }
    CHECK(mount(killed, kBootA).mount == EUCLEAN);
}

TEST_CASE("journal: what a user stores never looks like a record, and comes back as it was") {
    constexpr auto kMagic = static_cast<std::uint32_t>(Magic::record);
    for (const Flavour flavour : {Flavour::dax, Flavour::image}) {
        Killed killed(flavour, 1);
        SimMedia media(flavour, MediaImage(killed.bytes));
        auto volume = Volume::open(media.lend(), mount_options(kBootA)).take();
        const InodeNo ino = volume->lookup(kRoot, "file0").take().ino;
        // Whatever mask a record may get from a small number, one of its words would be the magic.
        std::vector<std::vector<le32>> values;
        for (const std::uint32_t masks : {1, 2, 40}) {
            std::vector<le32> value(201);
            for (std::uint32_t i = 0; i < value.size(); ++i)
                value[i].set(kMagic ^ (i / 16 % masks));
            for (unsigned shift = 0; shift < 4; ++shift) {  // the magic on any byte of a line
                const auto bytes = std::as_bytes(std::span(value)).subspan(shift, 800);
                REQUIRE(volume->setxattr(ino, "user.x", bytes, 0, kUser).ok());
            }
            values.push_back(value);
        }
        killed.bytes = media.after_kill().bytes();
        volume.reset();
        killed.records.clear();
        killed.look();
        const auto place = journal::ring_place(killed.sb());
        std::size_t looks_like_one = 0;
        const std::uint64_t end = killed.records.back().offset + killed.records.back().size;
        for (std::uint64_t at = place.start; at < end; at += kLineSize)
            looks_like_one += load<le32>(ConstBytes(&killed.bytes[at], 4)).get() == kMagic;
        CHECK(looks_like_one == killed.records.size());

        SimMedia found(flavour, MediaImage(killed.bytes));
        volume = Volume::open(found.lend(), mount_options(kBootA)).take();
        CHECK(std::ranges::equal(volume->getxattr(ino, "user.x").take(),
                                 std::as_bytes(std::span(values.back())).subspan(3, 800)));
    }
}

TEST_CASE("journal: a user's bytes in a block that is about to be metadata are no later home") {
    Killed killed(Flavour::image);
    const BlockNo leaf = [&] {  // the root's: no checkpoint has stored it
        for (const Record &record : killed.records) {
            const auto entries =
                load<RecordHeader>(ConstBytes(&killed.bytes[record.offset], 64)).entries;
            for (std::uint32_t i = 0; i < entries.get(); ++i) {
                const auto entry = load<RecordEntry>(ConstBytes(
                    &killed.bytes[record.offset + kLineSize + i * sizeof(RecordEntry)], 16));
                if (entry.lines.get() == ~std::uint64_t{0}) return BlockNo(entry.block.get());
            }
        }
        return BlockNo(0);
    }();
    REQUIRE(leaf.value() != 0);
    auto &forged = *reinterpret_cast<NodeHeader *>(&killed.bytes[byte_of(leaf)]);
    forged.header = header_of(Magic::node, killed.sb().header.fsid.get(), leaf.value(), 1u << 30);
    seal_block(std::span(&killed.bytes[byte_of(leaf)], kBlockSize));
    for (const bool class_is_home : {false, true}) {  // a checkpoint was cut between the two homes
        CAPTURE(class_is_home);
        if (class_is_home) {
            const ChunkNo chunk = chunk_of(leaf);
            const BlockNo classes = bitmap_of(chunk, layout_of(group_of(leaf)).classes);
            auto &bitmap = *reinterpret_cast<BitmapBlock *>(&killed.bytes[byte_of(classes)]);
            le64 &word = bitmap.bits[bitmap_row(chunk)][index_in_chunk(leaf) / 64];
            word.set(word.get() | std::uint64_t{1} << index_in_chunk(leaf) % 64);
            seal_block(bitmap);
        }
        const Outcome found = mount(killed, kBootA);
        CHECK(found.mount == 0);
        CHECK(found.names.size() == 6);
        CHECK(found.problems.empty());
    }
}

TEST_CASE("journal: a checkpoint that meets a damaged record stores nothing home") {
    SimMedia media(Flavour::image, MediaImage(std::vector<std::byte>(4 << 20)));
    REQUIRE(mkfs::make(*media.lend(), {}).ok());
    const auto sb = load<Superblock>(ConstBytes(media.data(), kBlockSize));
    auto volume = Volume::open(media.lend(), mount_options(kBootA)).take();
    for (unsigned i = 0; i < 5; ++i)
        REQUIRE(volume->make(kRoot, std::to_string(i), S_IFREG | 0644, 0, kUser).ok());
    // Record 3 of 5: the first line of each is in its header.
    const auto place = journal::ring_place(sb);
    std::uint64_t at = place.start;
    for (unsigned i = 0; i < 2; ++i)
        at += load<RecordHeader>(ConstBytes(media.data() + at, kLineSize)).size.get();
    const std::byte flipped = media.data()[at + kLineSize] ^ std::byte{1};
    media.store_direct(at + kLineSize, std::span(&flipped, 1));
    const std::vector<std::byte> homes(media.data(), media.data() + place.headers);
    const auto done = volume->commit_group();
    REQUIRE(!done.ok());
    CHECK(done.error().errno_value() == EIO);
    CHECK(std::memcmp(homes.data(), media.data(), homes.size()) == 0);
    CHECK(volume->info().read_only);
    const auto made = volume->make(kRoot, "late", S_IFREG | 0644, 0, kUser);
    CHECK((!made.ok() && made.error().errno_value() == EROFS));
}

TEST_CASE("journal: a medium that drops stores is noticed before the first request") {
    for (const Flavour flavour : {Flavour::dax, Flavour::image})
        for (const bool crashed : {false, true}) {
            Killed killed(flavour);
            if (!crashed) {
                SimMedia media(flavour, MediaImage(killed.bytes));
                REQUIRE(Volume::open(media.lend(), mount_options(kBootA)).take()->close().ok());
                killed.bytes = media.after_kill().bytes();
            }
            SimMedia media(flavour, MediaImage(killed.bytes));
            media.plant(test::Plant::drop_stores);
            const auto mounted = Volume::open(media.lend(), mount_options(kBootA));
            REQUIRE(!mounted.ok());
            CHECK(mounted.error().errno_value() == EROFS);
            fsck::Report report;
            const auto replayed = fsck::replay_journal(*media.lend(), kBootA, true, &report);
            CHECK(replayed.ok() != crashed);
            const auto made = mkfs::make(*media.lend(), {});
            REQUIRE(!made.ok());
            CHECK(made.error().errno_value() == EROFS);
        }
}

TEST_CASE("journal: what could not be stored home stays in the ring for the next mount") {
    SimMedia media(Flavour::dax, MediaImage(std::vector<std::byte>(4 << 20)));
    mkfs::MakeOptions make;
    make.mapping_unit = 4096;
    REQUIRE(mkfs::make(*media.lend(), make).ok());
    const auto open = [](pm::Region &region, Superblock &sb) {
        std::memcpy(static_cast<void *>(&sb), region.data(), sizeof sb);
        return journal::Journal::open(region, sb, kBootA, journal::Journal::Use::write).take();
    };
    const std::uint64_t block = layout_of(0).summary_b;
    const auto orphans = [](const pm::Region &region) {
        Summary summary;
        std::memcpy(static_cast<void *>(&summary), region.data() + block * kBlockSize,
                    sizeof summary);
        return summary.orphan_head.get();
    };
    Superblock sb;
    const auto region = media.lend();
    const auto journal = open(*region, sb);
    {
        journal::Tx tx(*journal);
        REQUIRE(tx.begin().ok());
        tx.edit<Summary>(BlockNo(block), Magic::summary).take()->orphan_head.set(4711);
        media.plant(test::Plant::fail_writes, 1);  // behind the record
        REQUIRE(tx.commit().ok());
    }
    CHECK(journal->failed());
    CHECK(orphans(*region) != 4711);
    journal->settle_tail();
    SimMedia left(Flavour::dax, media.after_kill());
    const auto again = left.lend();
    Superblock same;
    (void)open(*again, same);
    CHECK(orphans(*again) == 4711);
}
