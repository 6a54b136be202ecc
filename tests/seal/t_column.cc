// The P column of docs/seal.md, row by row: what each operation does to a file under a persistent
// seal, whichever interface made the seal, on both kinds of media.
//
// Holds docs/seal.md "The promise", "What a sealed file allows".
#include <doctest/doctest.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/stat.h>

#include "fixture.h"

using namespace pmfs;
using namespace pmfs::test;

namespace {

constexpr std::uint64_t kWritten = 16 * kBlock;    // [0, here): written
constexpr std::uint64_t kHole = 24 * kBlock;       // as-is: [kWritten, here): a hole
constexpr std::uint64_t kUnwritten = 32 * kBlock;  // as-is: [kHole, here): unwritten
constexpr std::uint64_t kSize = 40 * kBlock - 100;

// A file for the level: with everything that a full seal refuses, or with nothing of it.
OpenFile make_file(Wire &wire, const std::string &name, unsigned level) {
    const OpenFile file = wire.create(name);
    REQUIRE(file.error == 0);
    REQUIRE(wire.write(file, 0, pattern(kWritten, 1)) == 0);
    REQUIRE(wire.write(file, kUnwritten, pattern(kSize - kUnwritten, 2)) == 0);
    REQUIRE(wire.fallocate(file, 0, kHole, kUnwritten - kHole) == 0);
    if (level == PMFS_SEAL_FULL) REQUIRE(prepare_ioctl(wire, file) == 0);
    // As a program does that wants to write to what it sealed: past the page cache.
    const OpenFile direct = wire.open(file.node, O_RDWR | O_DIRECT);
    REQUIRE(direct.error == 0);
    wire.release(file);
    return direct;
}

class Column {
public:
    Column(Wire &wire, const std::string &interface, unsigned level, const OpenFile &file,
           std::string name)
        : wire_(wire),
          title_(interface + (level == PMFS_SEAL_FULL ? ", full: " : ", as-is: ")),
          level_(level),
          file_(file),
          name_(std::move(name)),
          sealed_(look(wire, file)) {}

    void data();
    void sizes();
    void allocation();
    void attributes_and_names();
    void seals_again();
    void opens();

private:
    // An operation that may not change anything, whatever it gives.
    void refused(const std::string &what, int error, int expected = ETXTBSY) {
        cell(title_ + what, error == expected);
        CHECK(error == expected);
        cell(title_ + what + ": nothing has changed", look(wire_, file_) == sealed_);
    }
    // One that succeeds; bytes and map stay.
    void allowed(const std::string &what, int error) { refused(what, error, 0); }

    Wire &wire_;
    const std::string title_;
    const unsigned level_;
    const OpenFile file_;
    const std::string name_;
    Snapshot sealed_;
};

void Column::data() {
    const Reply read = wire_.read(file_, 5000, 100);
    cell(title_ + "read", read.error == 0 && read.text() == sealed_.data.substr(5000, 100));

    const std::string fresh = pattern(9000, 77);
    cell(title_ + "write in place", wire_.write(file_, 5000, fresh) == 0);
    sealed_.data.replace(5000, fresh.size(), fresh);
    allowed("write in place keeps the map", 0);
    const std::string tail = pattern(100, 78);
    cell(title_ + "write in place up to the end", wire_.write(file_, kSize - 100, tail) == 0);
    sealed_.data.replace(kSize - 100, 100, tail);
    allowed("write in place up to the end keeps the map", 0);
    allowed("write of no bytes", wire_.write(file_, 5000, ""));
    allowed("write of no bytes past the end", wire_.write(file_, kSize + 5000, ""));

    refused("write past the end", wire_.write(file_, kSize + kBlock, "x"));
    refused("append", wire_.write(file_, kSize, "x"));
    refused("write across the end, all or nothing", wire_.write(file_, kSize - 10, pattern(20, 3)));
    refused("write far past the end", wire_.write(file_, std::uint64_t{1} << 40, "x"));
    if (level_ == PMFS_SEAL_FULL) return;
    refused("write into a hole", wire_.write(file_, kWritten + 10, "x"));
    refused("write into an unwritten block", wire_.write(file_, kHole + 10, "x"));
    refused("write from written blocks into a hole, all or nothing",
            wire_.write(file_, kWritten - 10, pattern(20, 4)));
    refused("write from unwritten blocks into written ones, all or nothing",
            wire_.write(file_, kUnwritten - 10, pattern(20, 5)));
    refused("write back of a page over a hole",
            wire_.write_back(file_.node, file_.handle, kWritten, pattern(kBlock, 6)));
}

void Column::sizes() {
    refused("truncate to less", wire_.truncate(file_.node, kSize - 1));
    refused("truncate to a whole block less", wire_.truncate(file_.node, kBlock));
    refused("truncate to nothing", wire_.truncate(file_.node, 0));
    refused("truncate to more", wire_.truncate(file_.node, kSize + 1));
    refused("truncate to more within the last block", wire_.truncate(file_.node, kSize + 50));
    allowed("truncate to the same size", wire_.truncate(file_.node, kSize));
    const OpenFile opened = wire_.open(file_.node, O_RDWR | O_TRUNC);
    refused("open with O_TRUNC", opened.error);
    if (opened.error == 0) wire_.release(opened);
    fuse_setattr_in both{};
    both.valid = FATTR_SIZE | FATTR_MODE;
    both.size = 10;
    both.mode = S_IFREG | 0600;
    refused("truncate and chmod in one", wire_.setattr(file_.node, both));
    cell(title_ + "truncate and chmod in one: neither happened",
         (wire_.getattr(file_.node).mode & 07777) == 0644);
}

void Column::allocation() {
    struct Mode {
        const char *name;
        unsigned bits;
    };
    static constexpr Mode kModes[] = {
        {"allocate", 0},
        {"allocate, keep size", FALLOC_FL_KEEP_SIZE},
        {"punch", FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE},
        {"zero", FALLOC_FL_ZERO_RANGE},
        {"zero, keep size", FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE},
    };
    struct Range {
        const char *name;
        std::uint64_t offset, length;
    };
    static constexpr Range kRanges[] = {{"inside", kBlock, 2 * kBlock},
                                        {"bytes", kBlock + 10, 20},
                                        {"past the end", 64 * kBlock, kBlock}};
    for (const Mode &mode : kModes)
        for (const Range &range : kRanges) {
            // Punching past the end changes nothing in any state.
            if ((mode.bits & FALLOC_FL_PUNCH_HOLE) != 0 && range.offset > kSize) continue;
            refused("fallocate, " + std::string(mode.name) + ", " + range.name,
                    wire_.fallocate(file_, mode.bits, range.offset, range.length));
        }
    // No stock VFS sends these; where a transport does, the seal's answer comes first.
    refused("collapse", wire_.fallocate(file_, FALLOC_FL_COLLAPSE_RANGE, 0, kBlock));
    refused("insert", wire_.fallocate(file_, FALLOC_FL_INSERT_RANGE, 0, kBlock));
    refused("unshare", wire_.fallocate(file_, FALLOC_FL_UNSHARE_RANGE, 0, kBlock));
    // Relocation.  Where there is nothing to do, nothing is refused.
    const int prepared = prepare_ioctl(wire_, file_);
    if (level_ == PMFS_SEAL_FULL)
        allowed("prepare of what is prepared", prepared);
    else
        refused("prepare", prepared == EINVAL ? ETXTBSY : prepared);
}

void Column::attributes_and_names() {
    fuse_setattr_in in{};
    in.valid = FATTR_MODE;
    in.mode = S_IFREG | 0600;
    allowed("chmod", wire_.setattr(file_.node, in));
    in = {};
    in.valid = FATTR_UID | FATTR_GID;
    in.uid = 7;
    in.gid = 8;
    allowed("chown", wire_.setattr(file_.node, in));
    in = {};
    in.valid = FATTR_ATIME | FATTR_MTIME;
    in.atime = in.mtime = 1234567;
    allowed("utimes", wire_.setattr(file_.node, in));
    cell(title_ + "utimes took effect", wire_.getattr(file_.node).mtime == 1234567);
    allowed("setxattr", wire_.setxattr(file_.node, "user.color", "blue"));
    cell(title_ + "getxattr", wire_.getxattr(file_.node, "user.color").text() == "blue");
    allowed("setxattr of a large value",
            wire_.setxattr(file_.node, "user.large", pattern(9000, 9)));
    allowed("removexattr", wire_.removexattr(file_.node, "user.color"));
    allowed("removexattr of a large value", wire_.removexattr(file_.node, "user.large"));
    allowed("link", wire_.link(file_.node, name_ + ".second"));
    allowed("rename", wire_.rename(name_, name_ + ".first"));
    allowed("unlink of one of two names", wire_.unlink(name_ + ".first"));
    allowed("rename back", wire_.rename(name_ + ".second", name_));
}

void Column::seals_again() {
    allowed("SEAL as-is again", seal_ioctl(wire_, file_, PMFS_SEAL_AS_IS));
    cell(title_ + "SEAL as-is keeps the level", info_of(wire_, file_).seal == level_);
    const int full = seal_ioctl(wire_, file_, PMFS_SEAL_FULL);
    if (level_ == PMFS_SEAL_FULL)
        allowed("SEAL full again", full);
    else
        refused("SEAL full of what has a hole", full, EINVAL);
    cell(title_ + "SEAL full keeps the level", info_of(wire_, file_).seal == level_);
    const std::string word = level_ == PMFS_SEAL_FULL ? "full" : "as-is";
    const std::string text = wire_.getxattr(file_.node, "user.pmfs.seal").text();
    cell(title_ + "the state can be read as text", text.substr(0, word.size()) == word);
    cell(title_ + "and is not listed",
         wire_.listxattr(file_.node).find("pmfs.seal") == std::string::npos);
}

void Column::opens() {
    const OpenFile reader = wire_.open(file_.node, O_RDONLY);
    const OpenFile writer = wire_.open(file_.node, O_RDWR);
    cell(title_ + "open for reading is cached", reader.error == 0 && !reader.direct());
    cell(title_ + "open for writing is direct", writer.error == 0 && writer.direct());
    wire_.release(reader);
    wire_.release(writer);
    allowed("holder closes", 0);
    cell(title_ + "holder closes: stays sealed", info_of(wire_, file_).seal == level_);
}

void check_column(Medium medium, Interface interface, unsigned level, bool writeback = false) {
    MountOptions options;
    options.owner_may_seal = true;  // for user.pmfs.seal
    front::DispatchOptions dispatch;
    options.writeback = dispatch.writeback = writeback;
    Mounted mounted(medium, options, dispatch);
    Wire &wire = mounted.wire();
    OpenFile file = make_file(wire, "f", level);
    const Snapshot before = look(wire, file);
    INFO(name_of(interface));
    cell(std::string(name_of(interface)) + " seals", seal_by(interface, wire, file, level) == 0);
    REQUIRE(info_of(wire, file).seal == level);
    cell(std::string(name_of(interface)) + ": sealing changes nothing", look(wire, file) == before);

    Column column(wire, std::string(name_of(medium)) + ", " + name_of(interface), level, file, "f");
    column.data();
    column.sizes();
    column.allocation();
    column.attributes_and_names();
    column.seals_again();
    column.opens();

    const Snapshot sealed = look(wire, file);
    mounted.crash();
    Wire &after = mounted.wire();
    file = after.open(after.lookup("f"), O_RDWR | O_DIRECT);
    REQUIRE(file.error == 0);
    cell("server crash: stays sealed", info_of(after, file).seal == level);
    cell("server crash: same map, same bytes", look(after, file) == sealed);
    cell("server crash: and still refuses", after.truncate(file.node, 0) == ETXTBSY);

    cell(std::string(name_of(interface)) + " unseals", unseal_by(interface, after, file) == 0);
    cell("unsealed: truncate works", after.truncate(file.node, 100) == 0);
    cell(std::string(name_of(interface)) + ": unsealing twice is 0",
         unseal_by(interface, after, file) == 0);
    after.release(file);
}

}  // namespace

TEST_CASE("seal: the P column holds by every interface, on memory") {
    for (const Interface interface : kInterfaces)
        for (const unsigned level : {PMFS_SEAL_AS_IS, PMFS_SEAL_FULL})
            if (has_level(interface, level)) check_column(Medium::memory, interface, level);
}

TEST_CASE("seal: the P column holds by every interface, on an image file") {
    for (const Interface interface : kInterfaces)
        for (const unsigned level : {PMFS_SEAL_AS_IS, PMFS_SEAL_FULL})
            if (has_level(interface, level)) check_column(Medium::image, interface, level);
}

TEST_CASE("seal: the P column holds by every interface with -o writeback") {
    for (const Interface interface : kInterfaces)
        for (const unsigned level : {PMFS_SEAL_AS_IS, PMFS_SEAL_FULL})
            if (has_level(interface, level)) check_column(Medium::image, interface, level, true);
}

TEST_CASE("seal: unlink of the last name is allowed, and an open handle keeps the blocks") {
    for (const Medium medium : {Medium::memory, Medium::image}) {
        Mounted mounted(medium);
        Wire &wire = mounted.wire();
        const OpenFile file = make_file(wire, "f", PMFS_SEAL_FULL);
        REQUIRE(seal_ioctl(wire, file, PMFS_SEAL_FULL) == 0);
        const Snapshot sealed = look(wire, file);
        cell("unlink of the last name", wire.unlink("f") == 0);
        cell("the open handle still reads the same map", look(wire, file) == sealed);
        cell("and it is still sealed", wire.truncate(file.node, 0) == ETXTBSY);
        wire.release(file);
        cell("the name is gone", wire.lookup("f") == 0);
    }
}

TEST_CASE("seal: rename over a sealed file is unlink of that file") {
    Mounted mounted(Medium::memory);
    Wire &wire = mounted.wire();
    const OpenFile sealed = make_file(wire, "sealed", PMFS_SEAL_FULL);
    REQUIRE(seal_ioctl(wire, sealed, PMFS_SEAL_FULL) == 0);
    const Snapshot before = look(wire, sealed);
    const OpenFile other = wire.create("other");
    cell("rename over a sealed file", wire.rename("other", "sealed") == 0);
    cell("the sealed one is unchanged while it is open", look(wire, sealed) == before);
    cell("the name is the other's", wire.lookup("sealed") == other.node);
    wire.release(sealed);
    wire.release(other);
}
