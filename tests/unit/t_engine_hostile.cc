// Volumes whose checksums are right and whose content is not: whatever an operation meets there is
// an error for the one who asked, never the end of the server and never a loop.
#include <dirent.h>
#include <doctest/doctest.h>
#include <sys/stat.h>

#include <cstring>

#include "base/bytes.h"
#include "core/dir.h"
#include "journal/replay.h"
#include "media/geometry.h"
#include "media/verify.h"
#include "mkfs/make.h"
#include "unit/files.h"
#include "unit/tampered.h"

using namespace pmfs;
using namespace pmfs::test;

namespace {

media::InlineExtent *extents_of(media::Inode &inode) {
    return reinterpret_cast<media::InlineExtent *>(inode.inline_bytes);
}

void write(Volume &v, InodeNo ino, std::uint64_t offset, const std::string &text) {
    REQUIRE(v.write(ino, offset, std::as_bytes(std::span(text)), false, kUser).ok());
}
int truncate(Volume &v, InodeNo ino, std::uint64_t size) {
    return errno_of(v.setattr(ino, size_of(size), kUser));
}

// An entry of a node, by slot.
std::byte *entry(media::NodeHeader &node, unsigned slot) {
    auto *bytes = reinterpret_cast<std::byte *>(&node);
    media::le16 at;
    std::memcpy(&at, bytes + sizeof node + slot * 2, 2);
    return bytes + at.get();
}

}  // namespace

TEST_CASE("hostile: growing a file with a damaged map is an error, and does not end the server") {
    Tampered volume;
    const InodeNo ino = make_file(*volume, "f");
    write(*volume, ino, 0, std::string(4096, 'a'));
    write(*volume, ino, 8192, std::string(4096, 'a'));
    volume.close();
    media::Inode &inode = volume.inode(ino);
    inode.size.set(100);  // both blocks hold bytes behind the end
    extents_of(inode)[1].start.set(1ull << 60);
    media::seal_block(inode);
    REQUIRE(volume.reopen().ok());
    CHECK(truncate(*volume, ino, 16384) == EUCLEAN);
}

TEST_CASE("hostile: a journal whose second record is nonsense fails the mount, not the server") {
    Tampered volume;
    volume.close();
    const std::uint64_t start = volume.sb().journal_start.get();
    for (unsigned slot = 0; slot < 2; ++slot) {
        auto &header = volume.block<media::RingHeader>(start + slot);
        std::memset(static_cast<void *>(&header), 0, sizeof header);
        header.header = media::header_of(media::Magic::ring_header, volume.sb().header.fsid.get(),
                                         start + slot, 0);
        header.generation.set(100 + slot);
        header.tail_seq.set(7);
        header.boot_id[0] = 1;
        media::seal_block(header);
    }
    struct Record {
        media::RecordHeader header;
        media::RecordEntry entries[4];
        std::byte line[64];
    };
    auto *records = reinterpret_cast<Record *>(&volume.block<std::byte>(start + 2));
    const std::uint64_t last = volume.sb().block_count.get() - 1;
    for (unsigned i = 0; i < 2; ++i) {
        Record &r = records[i];
        std::memset(static_cast<void *>(&r), 0, sizeof r);
        r.header.magic.set(static_cast<std::uint32_t>(media::Magic::record));
        r.header.seq.set(7 + i);
        r.header.size.set(sizeof r);
        r.header.kind.set(static_cast<std::uint32_t>(media::RecordKind::transaction));
        r.header.entries.set(i == 0 ? 1 : 1000);
        r.entries[0] = {media::le64(last), media::le64(1)};
        r.header.crc32c.set(journal::record_checksum({}, std::as_bytes(std::span(&r, 1))));
    }
    CHECK(errno_of(volume.reopen()) == EUCLEAN);
}

TEST_CASE("hostile: a blob whose end overflows cannot be freed") {
    Tampered volume;
    const InodeNo ino = make_file(*volume, "f");
    const std::string value(20000, 'x');
    REQUIRE(volume->setxattr(ino, "user.x", std::as_bytes(std::span(value)), 0, kUser).ok());
    volume.close();
    const std::uint64_t root = volume.inode(ino).xattr_root.get();
    const auto tamper = [&](std::uint64_t start, std::uint64_t blocks) {
        auto &node = volume.block<media::NodeHeader>(root);
        const media::BlobRun run{media::le64(start), media::le64(blocks)};
        std::memcpy(entry(node, 0) + media::kEntryHeader + sizeof(media::XattrValue) + 6, &run,
                    sizeof run);
        media::seal_block(std::span(reinterpret_cast<std::byte *>(&node), media::kBlockSize));
    };
    tamper(1ull << 63, 1ull << 63);
    REQUIRE(volume.reopen().ok());
    CHECK(volume->removexattr(ino, "user.x", kUser).error().errno_value() == EUCLEAN);
    volume.close();
    tamper(512 * 3, ~0ull - 512 * 3);
    REQUIRE(volume.reopen().ok());
    CHECK(volume->removexattr(ino, "user.x", kUser).error().errno_value() == EUCLEAN);
}

TEST_CASE("hostile: entries of a tree that share a subtree are damage, and not many ways to walk") {
    Tampered volume(64 << 20);
    const std::string name(250, 'n');
    for (int i = 0; i < 6000; ++i)
        REQUIRE(volume->make(kRoot, name + std::to_string(i), S_IFREG | 0644, 0, kUser).ok());
    volume.close();
    const auto child = [&](media::NodeHeader &node, unsigned slot) {
        return load<media::le64>(ConstBytes(entry(node, slot) + media::kEntryHeader, 8)).get();
    };
    const auto point = [&](media::NodeHeader &node, std::uint64_t block) {
        const media::le64 to(block);
        for (unsigned slot = 0; slot < node.count.get(); ++slot)
            std::memcpy(entry(node, slot) + media::kEntryHeader, &to, sizeof to);
    };
    auto &root = volume.block<media::NodeHeader>(volume.inode(kRoot).map_root.get());
    REQUIRE((root.level == 2 && root.count.get() > 1));
    const std::uint64_t middle_block = child(root, 0);
    auto &middle = volume.block<media::NodeHeader>(middle_block);
    const std::uint64_t leaf_block = child(middle, 0);
    auto &leaf = volume.block<media::NodeHeader>(leaf_block);
    leaf.count.set(0);  // no keys that could be out of order
    leaf.dead_bytes.set(static_cast<std::uint16_t>(media::kBlockSize - leaf.heap_start.get()));
    point(middle, leaf_block);
    point(root, middle_block);
    for (const std::uint64_t block : {leaf_block, middle_block, volume.inode(kRoot).map_root.get()})
        volume.seal(block);
    REQUIRE(volume.reopen().ok());
    const auto seen = volume->readdir(kRoot, 2, [](const DirEntry &) { return true; });
    CHECK((!seen.ok() && seen.error().errno_value() == EUCLEAN));
}

TEST_CASE("hostile: a node with overlapping entries is damaged") {
    Tampered volume;
    const InodeNo ino = make_file(*volume, "f");
    for (int i = 0; i < 4; ++i) {
        const std::string value(800, 'x');
        REQUIRE(volume
                    ->setxattr(ino, "user." + std::to_string(i), std::as_bytes(std::span(value)), 0,
                               kUser)
                    .ok());
    }
    volume.close();
    auto &node = volume.block<media::NodeHeader>(volume.inode(ino).xattr_root.get());
    REQUIRE(node.count.get() == 4);
    auto *slots = reinterpret_cast<media::le16 *>(&node + 1);
    slots[1] = slots[0];  // as long as the one that it hides
    media::seal_block(std::span(reinterpret_cast<std::byte *>(&node), media::kBlockSize));
    REQUIRE(volume.reopen().ok());
    CHECK(errno_of(volume->listxattr(ino)) == EUCLEAN);
}

TEST_CASE("hostile: keys out of order end a walk, which could loop otherwise") {
    Tampered volume;
    const InodeNo ino = make_file(*volume, "f");
    for (int i = 0; i < 400; ++i) write(*volume, ino, i * 8192, std::string(4096, 'a'));
    volume.close();
    auto &root = volume.block<media::NodeHeader>(volume.inode(ino).map_root.get());
    REQUIRE(root.level == 1);
    REQUIRE(root.count.get() >= 2);
    media::le64 child;
    std::memcpy(&child, entry(root, 1) + media::kEntryHeader, 8);
    auto &leaf = volume.block<media::NodeHeader>(child.get());
    const media::le64 key(0);
    std::memcpy(entry(leaf, 0), &key, 8);  // behind the first leaf, and before all of it
    media::seal_block(std::span(reinterpret_cast<std::byte *>(&leaf), media::kBlockSize));
    REQUIRE(volume.reopen().ok());
    CHECK(errno_of(volume->file_info(ino)) == EUCLEAN);
    CHECK(errno_of(volume->read(ino, 0, 4 << 20, [](auto) {})) == EUCLEAN);
}

TEST_CASE("hostile: a file larger than the maximum is damage") {
    Tampered volume;
    const InodeNo ino = make_file(*volume, "f");
    volume.close();
    media::Inode &inode = volume.inode(ino);
    inode.size.set(~0ull);
    media::seal_block(inode);
    REQUIRE(volume.reopen().ok());
    std::size_t given = 0;
    const auto n = volume->read(ino, 1ull << 63, 4096, [&](auto pieces) {
        for (const iovec &p : pieces) given += p.iov_len;
    });
    CHECK(errno_of(n) == EUCLEAN);
    CHECK(given <= 4096);
}

TEST_CASE("hostile: a directory entry that has taken another name's key") {
    Tampered volume;
    REQUIRE(volume->make(kRoot, "d", S_IFDIR | 0755, 0, kUser).ok());
    const InodeNo dir = volume->lookup(kRoot, "d").take().ino;
    for (int i = 0; i < 40; ++i)
        REQUIRE(
            volume->make(dir, std::string(180, 'n') + std::to_string(i), S_IFREG | 0644, 0, kUser)
                .ok());
    volume.close();
    auto &root = volume.block<media::NodeHeader>(volume.inode(dir).map_root.get());
    REQUIRE(root.level == 1);
    // The last leaf of the left child says that it holds `wanted`; the next collision index belongs
    // to a leaf that is full.
    media::le64 left, right;
    std::memcpy(&left, entry(root, 0) + media::kEntryHeader, 8);
    std::memcpy(&right, entry(root, 1) + media::kEntryHeader, 8);
    auto &a = volume.block<media::NodeHeader>(left.get());
    auto &b = volume.block<media::NodeHeader>(right.get());
    media::le64 least;
    std::memcpy(&least, entry(b, 0), 8);
    std::string wanted;
    std::uint64_t hash = 0, greatest = 0;
    {
        media::le64 k;
        std::memcpy(&k, entry(a, a.count.get() - 2u), 8);
        greatest = k.get();
    }
    for (int i = 0; hash <= greatest || hash >= least.get(); ++i) {
        wanted = std::string(240, 'w') + std::to_string(i);
        hash = core::name_hash(volume.sb(), wanted);
    }
    const media::le64 taken(hash), next(hash + 1);
    std::memcpy(entry(a, a.count.get() - 1u), &taken, 8);
    std::memcpy(entry(root, 1), &next, 8);  // the separator
    // No room in the right leaf: its first entry's value takes all that is free.
    while (b.heap_start.get() - (sizeof b + b.count.get() * 2u) + b.dead_bytes.get() > 200) {
        const std::size_t size = media::kEntryHeader + 8 + 150;
        auto *bytes = reinterpret_cast<std::byte *>(&b);
        const std::uint16_t at = static_cast<std::uint16_t>(b.heap_start.get() - size);
        std::byte *e = bytes + at;
        std::memset(e, 'z', size);
        media::le64 last;
        std::memcpy(&last, entry(b, b.count.get() - 1u), 8);
        const media::le64 key(last.get() + 256);
        const media::le16 length(8 + 150), slot(at);
        std::memcpy(e, &key, 8);
        std::memcpy(e + 8, &length, 2);
        std::memcpy(bytes + sizeof b + b.count.get() * 2u, &slot, 2);
        b.count.set(static_cast<std::uint16_t>(b.count.get() + 1));
        b.heap_start.set(at);
    }
    for (auto *node : {&a, &b, &root})
        media::seal_block(std::span(reinterpret_cast<std::byte *>(node), media::kBlockSize));
    REQUIRE(volume.reopen().ok());
    const auto made = volume->make(dir, wanted, S_IFREG | 0644, 0, kUser);
    CHECK(made.ok());
    CHECK(volume->lookup(dir, wanted).ok());
}

TEST_CASE("hostile: one sound copy of a group's summary is enough to mount") {
    for (unsigned copy = 0; copy < 2; ++copy) {
        Tampered volume;
        make_file(*volume, "f");
        volume.close();
        const auto layout = media::layout_of(0);
        volume.block<media::Summary>(copy == 0 ? layout.summary_a : layout.summary_b)
            .orphan_head.set(99);
        REQUIRE(volume.reopen().ok());
        CHECK(volume->lookup(kRoot, "f").ok());
        CHECK(volume->make(kRoot, "g", S_IFREG | 0644, 0, kUser).ok());
        CHECK(volume->info().inodes_used == 3);
    }
}

TEST_CASE("hostile: an orphan that cannot be freed does not prevent a mount") {
    Tampered volume;
    const InodeNo ino = make_file(*volume, "f"), other = make_file(*volume, "g");
    write(*volume, ino, 0, "text");
    write(*volume, other, 0, "text");
    volume.close();
    // As a crash leaves it between unlink and the last close, with a map that is damaged.
    media::Inode &inode = volume.inode(ino);
    extents_of(inode)[0].start.set(1ull << 60);
    inode.nlink.set(0);
    media::seal_block(inode);
    for (const std::uint64_t copy :
         {media::layout_of(0).summary_a, media::layout_of(0).summary_b}) {
        auto &summary = volume.block<media::Summary>(copy);
        summary.orphan_head.set(ino.value());
        media::seal_block(summary);
    }
    REQUIRE(volume.reopen().ok());
    CHECK(volume->lookup(kRoot, "g").ok());
}

TEST_CASE("hostile: a guest that makes a file of no type") {
    Tampered volume;
    CHECK(errno_of(volume->make(kRoot, "f", 0, 0, kUser)) == EINVAL);
    CHECK(errno_of(volume->make(kRoot, "f", S_IFLNK | 0777, 0, kUser)) == EINVAL);
    CHECK(errno_of(volume->make(kRoot, "f", 0150000 | 0644, 0, kUser)) == EINVAL);
    CHECK(errno_of(volume->lookup(kRoot, "f")) == ENOENT);
}

TEST_CASE("hostile: a file whose blocks are metadata can be neither read nor written") {
    Tampered volume;
    const InodeNo ino = make_file(*volume, "f"), other = make_file(*volume, "g");
    write(*volume, ino, 0, std::string(4096, 'a'));
    const std::string value(100, 'x');
    REQUIRE(volume->setxattr(other, "user.x", std::as_bytes(std::span(value)), 0, kUser).ok());
    volume.close();
    media::Inode &inode = volume.inode(ino);
    extents_of(inode)[0].start.set(volume.inode(other).xattr_root.get());
    media::seal_block(inode);
    REQUIRE(volume.reopen().ok());
    CHECK(errno_of(volume->read(ino, 0, 4096, [](auto) {})) == EUCLEAN);
    const std::string text(4096, 'b');
    CHECK(errno_of(volume->write(ino, 0, std::as_bytes(std::span(text)), false, kUser)) == EUCLEAN);
    CHECK(volume->getxattr(other, "user.x").ok());
}

TEST_CASE("hostile: a tree inside of a file's data is not used") {
    Tampered volume;
    const InodeNo ino = make_file(*volume, "f"), other = make_file(*volume, "g");
    write(*volume, ino, 0, std::string(4096, 'a'));
    const std::string value(100, 'x');
    REQUIRE(volume->setxattr(other, "user.x", std::as_bytes(std::span(value)), 0, kUser).ok());
    volume.close();
    const std::uint64_t forged = extents_of(volume.inode(ino))[0].start.get();
    media::Inode &inode = volume.inode(other);
    auto &node = volume.block<media::NodeHeader>(forged);
    std::memcpy(static_cast<void *>(&node), &volume.block<std::byte>(inode.xattr_root.get()),
                media::kBlockSize);
    node.header.self.set(forged);
    media::seal_block(std::span(reinterpret_cast<std::byte *>(&node), media::kBlockSize));
    inode.xattr_root.set(forged);
    media::seal_block(inode);
    REQUIRE(volume.reopen().ok());
    CHECK(errno_of(volume->getxattr(other, "user.x")) == EUCLEAN);
}

TEST_CASE(
    "hostile: a damaged free inode is not made sound by its neighbours' changes, and hinders no "
    "file") {
    Tampered volume;
    volume.close();
    const InodeNo free(volume.sb().root_block.get() * media::kInodesPerBlock + 1);
    media::Inode &damaged = volume.inode(free);
    const auto at = reinterpret_cast<std::byte *>(&damaged) - &volume.block<std::byte>(0);
    damaged.next.set(5);  // and no checksum
    REQUIRE(volume.reopen().ok());
    for (int i = 0; i < 100; ++i) make_file(*volume, "n" + std::to_string(i));
    volume.close();
    CHECK_FALSE(media::block_ok({&volume.block<std::byte>(0) + at, media::kInodeSize},
                                media::Magic::inode, volume.sb().header.fsid.get(), free.value()));
}

TEST_CASE("hostile: directories that are each other's parents") {
    Tampered volume;
    REQUIRE(volume->make(kRoot, "a", S_IFDIR | 0755, 0, kUser).ok());
    const InodeNo a = volume->lookup(kRoot, "a").take().ino;
    REQUIRE(volume->make(a, "b", S_IFDIR | 0755, 0, kUser).ok());
    const InodeNo b = volume->lookup(a, "b").take().ino;
    REQUIRE(volume->make(kRoot, "c", S_IFDIR | 0755, 0, kUser).ok());
    volume.close();
    media::Inode &inode = volume.inode(a);
    inode.parent.set(b.value());
    media::seal_block(inode);
    REQUIRE(volume.reopen().ok());
    CHECK(errno_of(volume->rename(kRoot, "c", b, "c", 0)) == EUCLEAN);
}

namespace {

// The entry of a leaf whose value ends in `text`, and its value.
std::byte *entry_with(media::NodeHeader &node, std::string_view text) {
    for (unsigned slot = 0; slot < node.count.get(); ++slot) {
        std::byte *at = entry(node, slot);
        media::le16 size;
        std::memcpy(&size, at + 8, sizeof size);
        const std::string_view value(reinterpret_cast<char *>(at) + media::kEntryHeader,
                                     size.get());
        if (value.find(text) != value.npos) return at;
    }
    FAIL("no such entry");
    return nullptr;
}
void cut_value(media::NodeHeader &node, std::byte *at, std::uint16_t size) {
    media::le16 was;
    std::memcpy(&was, at + 8, sizeof was);
    const media::le16 now(size);
    std::memcpy(at + 8, &now, sizeof now);
    node.dead_bytes.set(static_cast<std::uint16_t>(node.dead_bytes.get() + was.get() - size));
    media::seal_block(std::span(reinterpret_cast<std::byte *>(&node), media::kBlockSize));
}

}  // namespace

TEST_CASE("hostile: an entry that is too short for what it should hold is damage") {
    Tampered volume;
    const InodeNo ino = make_file(*volume, "file");
    REQUIRE(volume->setxattr(ino, "user.x", bytes_of("words"), 0, kUser).ok());
    volume.close();
    auto &names = volume.block<media::NodeHeader>(volume.inode(kRoot).map_root.get());
    cut_value(names, entry_with(names, "file"), sizeof(media::DirValue));
    auto &values = volume.block<media::NodeHeader>(volume.inode(ino).xattr_root.get());
    cut_value(values, entry_with(values, "user.x"), sizeof(media::XattrValue) - 1);
    REQUIRE(volume.reopen().ok());
    CHECK(errno_of(volume->lookup(kRoot, "file")) == EUCLEAN);
    CHECK(errno_of(volume->readdir(kRoot, 2, [](const DirEntry &) { return true; })) == EUCLEAN);
    CHECK(errno_of(volume->getxattr(ino, "user.x")) == EUCLEAN);
    CHECK(errno_of(volume->setxattr(ino, "user.x", bytes_of("more"), 0, kUser)) == EUCLEAN);
    CHECK(volume->getattr(ino).ok());
}

TEST_CASE(
    "hostile: a block of a large value is used only if it is whole and belongs to that value") {
    const std::string value(9000, 'v');
    for (const char *how : {"damaged", "another owner", "another piece"}) {
        CAPTURE(how);
        Tampered volume;
        const InodeNo ino = make_file(*volume, "f");
        REQUIRE(volume->setxattr(ino, "user.x", bytes_of(value), 0, kUser).ok());
        volume.close();
        auto &values = volume.block<media::NodeHeader>(volume.inode(ino).xattr_root.get());
        media::BlobRun run;
        std::memcpy(&run, entry(values, 0) + media::kEntryHeader + sizeof(media::XattrValue) + 6,
                    sizeof run);
        auto &blob = volume.block<media::BlobBlock>(run.start.get());
        if (how[0] == 'd') {
            blob.bytes[7] ^= 1;
        } else if (how[8] == 'o') {
            blob.owner.set(blob.owner.get() + 1);
            media::seal_block(blob);
        } else {
            blob.offset.set(4032);
            media::seal_block(blob);
        }
        REQUIRE(volume.reopen().ok());
        CHECK(errno_of(volume->getxattr(ino, "user.x")) == EUCLEAN);
        CHECK(volume->removexattr(ino, "user.x", kUser).ok());  // which frees its blocks
        CHECK(errno_of(volume->getxattr(ino, "user.x")) == ENODATA);
    }
}

TEST_CASE("hostile: a name of a missing file, or of one without links, is damage") {
    Tampered volume;
    const InodeNo lost = make_file(*volume, "lost"), unlinked = make_file(*volume, "unlinked");
    (void)make_file(*volume, "sound");
    volume.close();
    auto &names = volume.block<media::NodeHeader>(volume.inode(kRoot).map_root.get());
    // Free, and in a block of inodes.
    const media::le64 packed((lost.value() | 7) | std::uint64_t{S_IFREG >> 12}
                                                      << media::kDirTypeShift);
    REQUIRE(volume.inode(InodeNo(lost.value() | 7)).mode.get() == 0);
    std::memcpy(entry_with(names, "lost") + media::kEntryHeader, &packed, sizeof packed);
    media::seal_block(std::span(reinterpret_cast<std::byte *>(&names), media::kBlockSize));
    media::Inode &inode = volume.inode(unlinked);
    inode.nlink.set(0);
    media::seal_block(inode);
    REQUIRE(volume.reopen().ok());
    CHECK(errno_of(volume->lookup(kRoot, "lost")) == EUCLEAN);
    CHECK(errno_of(volume->rename(kRoot, "sound", kRoot, "unlinked", 0)) == EUCLEAN);
    CHECK(volume->lookup(kRoot, "sound").ok());
}

TEST_CASE("hostile: a root that is no directory is not mounted") {
    Tampered volume;
    volume.close();
    media::Inode &root = volume.inode(kRoot);
    root.mode.set(S_IFREG | 0755);
    media::seal_block(root);
    CHECK(errno_of(volume.reopen()) == EUCLEAN);
}

TEST_CASE("hostile: a record of no known kind, or with too many entries, fails the mount") {
    for (const bool kind : {true, false}) {
        CAPTURE(kind);
        Tampered volume;
        volume.close();
        const std::uint64_t start = volume.sb().journal_start.get();
        for (unsigned slot = 0; slot < 2; ++slot) {
            auto &header = volume.block<media::RingHeader>(start + slot);
            header.generation.set(100);
            header.tail_seq.set(7);
            header.tail_offset.set(0);
            header.boot_id[0] = 1;
            std::memset(header.secret, 0, sizeof header.secret);
            media::seal_block(header);
        }
        auto &record = volume.block<media::RecordHeader>(start + media::kRingHeaders);
        std::memset(static_cast<void *>(&record), 0, sizeof record);
        record.magic.set(static_cast<std::uint32_t>(media::Magic::record));
        record.seq.set(7);
        record.size.set(sizeof record);
        record.kind.set(kind ? 9 : static_cast<std::uint32_t>(media::RecordKind::mark));
        record.entries.set(kind ? 0 : 1);
        record.crc32c.set(journal::record_checksum({}, std::as_bytes(std::span(&record, 1))));
        CHECK(errno_of(volume.reopen()) == EUCLEAN);
    }
}
