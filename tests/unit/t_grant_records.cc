// Grant records that the engine did not write, as it meets them at a mount: whole ones, which were
// built by hand, and damaged ones.
#include <dirent.h>
#include <doctest/doctest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <cstring>
#include <random>
#include <set>
#include <string>

#include "base/clock.h"
#include "fsck/check.h"
#include "fsck/print.h"
#include "media/verify.h"
#include "support/builder.h"
#include "volume/volume.h"

using namespace pmfs;
using namespace pmfs::media;
using test::Populated;

namespace {

using Random = std::mt19937_64;

std::uint64_t number_from(const char *name, std::uint64_t otherwise) {
    const char *text = std::getenv(name);
    return text != nullptr ? std::strtoull(text, nullptr, 0) : otherwise;
}

// As the one that the records' holders lived in.  unknown: the server has no /proc.
enum class Boot { same, another, unknown };

Result<std::unique_ptr<Volume>> mount(const pm::Region &region, Boot boot) {
    pm::OpenOptions again;
    again.exclusive = false;
    auto same = pm::open_region("/proc/self/fd/" + std::to_string(region.mapping_fd()), again);
    REQUIRE(same.ok());
    MountOptions options;
    options.no_background = true;
    options.boot_id.emplace();
    for (std::uint8_t i = 0; i < 16; ++i)
        (*options.boot_id)[i] = static_cast<std::uint8_t>((boot == Boot::same ? 0x30 : 0x60) + i);
    if (boot == Boot::unknown) options.boot_id->fill(0xff);
    options.processes.life = [](const Process &) { return Life::unknown; };
    return Volume::open(std::move(same).take(), options);
}

std::string problems_of(const pm::Region &region, fsck::Report *report) {
    auto checked = fsck::check(const_cast<pm::Region &>(region));
    REQUIRE(checked.ok());
    *report = checked.value();
    return fsck::text_of(*report, "volume");
}

// Whatever may go wrong in it is an answer.
void use(Volume &volume, const Populated &p) {
    SetAttr set;
    set.size = 0;
    (void)volume.setattr(InodeNo(p.file), set, {}).ok();
    (void)volume.unlink(InodeNo(p.directory), "tree file").ok();
    const auto made = volume.make(InodeNo(kRootIno), "new", S_IFREG | 0644, 0, {});
    const std::vector<std::byte> bytes(100 * kBlockSize, std::byte{1});
    if (made.ok()) (void)volume.write(made.value().ino, 0, bytes, false, {}).ok();
    const auto all = volume.quarantine();
    if (!all.ok()) return;
    for (const Quarantined &one : all.value()) (void)volume.release_quarantine(one.id, {}).ok();
}

InlineExtent &extent_of(Populated &p, std::uint64_t record) {
    return reinterpret_cast<InlineExtent *>(p.b.inode(record).inline_bytes)[0];
}

}  // namespace

TEST_CASE(
    "grant records: those of another boot are removed at the mount, and their blocks become free") {
    Populated p;
    auto volume = mount(p.b.region(), Boot::another);
    REQUIRE(volume.ok());
    CHECK(volume.value()->quarantine().take().empty());
    REQUIRE(volume.value()->close().ok());
    volume.value().reset();
    fsck::Report report;
    const std::string text = problems_of(p.b.region(), &report);
    INFO(text);
    CHECK(report.clean());
    CHECK(report.grants == 0);
    CHECK_FALSE(p.b.marked(p.kept));
    CHECK_FALSE(p.b.marked(p.kept + 2));
    CHECK(p.b.marked(extent_of(p, p.file).start.get()));  // the file's own
}

TEST_CASE(
    "grant records: their inode numbers cannot be looked up, nor can the table or an orphan") {
    Populated p;
    auto volume = mount(p.b.region(), Boot::same);
    REQUIRE(volume.ok());
    Volume &v = *volume.value();
    // One that is open, and whose lookup was given back.
    const auto made = v.make(InodeNo(kRootIno), "gone", S_IFREG | 0644, 0, {});
    REQUIRE(made.ok());
    const InodeNo gone = made.value().ino;
    REQUIRE(v.open_file(gone, {}).ok());
    REQUIRE(v.unlink(InodeNo(kRootIno), "gone").ok());
    CHECK(v.lookup(gone, ".").ok());
    v.forget(gone, 2);

    std::set<std::uint64_t> named{kRootIno}, found;
    std::vector<std::uint64_t> directories{kRootIno};
    while (!directories.empty()) {
        const InodeNo directory(directories.back());
        directories.pop_back();
        REQUIRE(v.readdir(directory, 2, [&](const DirEntry &e) {
                     if (named.insert(e.ino.value()).second && e.type == DT_DIR)
                         directories.push_back(e.ino.value());
                     return true;
                 }).ok());
    }
    for (std::uint64_t number = 0; number < p.b.block_count() * kInodesPerBlock; ++number) {
        const auto attr = v.lookup(InodeNo(number), ".");
        if (attr.ok())
            found.insert(number);
        else
            CHECK(attr.error().errno_value() == ESTALE);
    }
    CHECK(found == named);
    for (const std::uint64_t number : {std::uint64_t{1} << 32, ~std::uint64_t{0}})
        CHECK_FALSE(v.lookup(InodeNo(number), ".").ok());
}

TEST_CASE("grant records: those of this boot keep their blocks while their holders may live") {
    Populated p;
    const std::uint64_t start = extent_of(p, p.file).start.get();
    auto volume = mount(p.b.region(), Boot::same);
    REQUIRE(volume.ok());
    CHECK(volume.value()->quarantine().take().size() == 3);
    SetAttr set;
    set.size = 0;
    REQUIRE(volume.value()->setattr(InodeNo(p.file), set, {}).ok());
    for (const std::uint64_t block : {start, start + 1, p.kept, p.kept + 1, p.kept + 2})
        CHECK(p.b.marked(block));
    fsck::Report report;
    std::string text = problems_of(p.b.region(), &report);
    CAPTURE(text);
    CHECK(report.clean());
    CHECK(report.grants == 3);
    for (const Quarantined &one : volume.value()->quarantine().take())
        REQUIRE(volume.value()->release_quarantine(one.id, {}).ok());
    REQUIRE(volume.value()->close().ok());
    volume.value().reset();
    text = problems_of(p.b.region(), &report);
    CHECK(report.clean());
    CHECK(report.grants == 0);
    for (const std::uint64_t block : {start, start + 1, p.kept, p.kept + 1, p.kept + 2})
        CHECK_FALSE(p.b.marked(block));
}

TEST_CASE("grant records: a file that is an older copy of itself does not fail the mount") {
    for (const Boot boot : {Boot::same, Boot::another})
        for (const bool in_use : {false, true}) {
            Populated p;
            std::vector<std::uint64_t> blocks;
            for (std::uint64_t block = 0; block < p.b.block_count(); ++block)
                if (p.b.marked(block)) blocks.push_back(block);
            // As a write that was lost leaves it: whole, and of an earlier life.
            Inode &file = p.b.inode(p.file);
            file.generation.set(0);
            if (!in_use) file.mode.set(0);
            p.b.seal_inode(p.file);
            auto volume = mount(p.b.region(), boot);
            REQUIRE(volume.ok());
            CHECK_FALSE(volume.value()->info().read_only);
            const auto held = volume.value()->quarantine();
            REQUIRE(held.ok());
            if (boot == Boot::same) CHECK(held.value().size() == 3);
            // What cannot be known stays held, also when its holder is gone.
            for (const Quarantined &one : held.value())
                (void)volume.value()->release_quarantine(one.id, {}).ok();
            const auto made = volume.value()->make(InodeNo(kRootIno), "new", S_IFREG | 0644, 0, {});
            REQUIRE(made.ok());
            REQUIRE(volume.value()->close().ok());
            volume.value().reset();
            for (const std::uint64_t claimed : {p.kept, p.kept + 1, p.kept + 2})
                CHECK(p.b.marked(claimed));
            for (std::uint32_t i = 0; i < extent_of(p, p.file).blocks.get(); ++i)
                CHECK(p.b.marked(extent_of(p, p.file).start.get() + i));
        }
}

TEST_CASE("grant records: a server that does not know which boot it lives in keeps all of them") {
    Populated p;
    auto volume = mount(p.b.region(), Boot::unknown);
    REQUIRE(volume.ok());
    CHECK(volume.value()->quarantine().take().size() == 3);
}

namespace {

// One field of a record, its checksum right.
void damage(Populated &p, Random &random) {
    const std::uint64_t records[] = {p.grant, p.grant_again, p.grant_tree};
    const std::uint64_t number = records[random() % 3];
    Inode &record = p.b.inode(number);
    InlineExtent &extent = reinterpret_cast<InlineExtent *>(record.inline_bytes)[random() % 2];
    const std::uint64_t odd[] = {0,
                                 1,
                                 511,
                                 2047,
                                 2048,
                                 p.map_root,
                                 std::uint64_t{1} << 40,
                                 ~std::uint64_t{0},
                                 random() % 2048};
    const std::uint64_t value = odd[random() % std::size(odd)];
    const std::uint64_t other = random() % 24;
    switch (random() % 10) {
        case 0:
            record.next.set(other);
            break;
        case 1:
            record.prev.set(other);
            break;
        case 2:
            record.parent.set(other);
            break;
        case 3:
            record.entries.set(value);
            break;
        case 4:
            record.map_root.set(value);
            break;
        case 5:
            record.inline_count.set(static_cast<std::uint32_t>(value));
            break;
        case 6:
            record.flags.set(record.flags.get() ^ 1U << (random() % 6));
            break;
        case 7:
            record.blocks.set(value);
            break;
        case 8:
            p.b.summary().grant_head.set(other);
            break;
        default:
            extent.start.set(value);
            if (random() % 4 != 0) extent.file_block.set(value);
            if (random() % 2 == 0) extent.blocks.set(static_cast<std::uint32_t>(value));
    }
}

}  // namespace

TEST_CASE("grant records: damaged ones are an error or are ignored, and never crash the server") {
    const std::uint64_t seed = number_from("PMFS_FUZZ_SEED", 1);
    const std::uint64_t rounds = number_from("PMFS_FUZZ_ROUNDS", 400);
    Random random(seed);
    std::uint64_t mounted = 0;
    for (std::uint64_t i = 0; i < rounds; ++i) {
        CAPTURE(seed);
        CAPTURE(i);
        Populated p;
        for (std::uint64_t faults = 1 + random() % 3; faults != 0; --faults) damage(p, random);
        p.b.finish();
        const std::uint64_t start = monotonic_ns();
        auto volume = mount(p.b.region(), random() % 2 == 0 ? Boot::same : Boot::another);
        if (volume.ok()) {
            ++mounted;
            use(*volume.value(), p);
            (void)volume.value()->close().ok();
        }
        CHECK(monotonic_ns() - start < 10'000'000'000);
    }
    CHECK(mounted > rounds / 2);
}
