// Volumes that lead the engine to take one block for two things: a bitmap for a tree node, a block
// in use for a free one.  Each is EUCLEAN when the transaction begins, and nothing is read or
// written past a block's end.
#include <doctest/doctest.h>
#include <sys/stat.h>

#include "base/bytes.h"
#include "media/geometry.h"
#include "unit/files.h"
#include "unit/tampered.h"

using namespace pmfs;
using namespace pmfs::media;
using namespace pmfs::test;

namespace {

int truncate(Volume &v, InodeNo ino, std::uint64_t size) {
    return errno_of(v.setattr(ino, size_of(size), kUser));
}

// A file of so many blocks, each with a hole behind it: more than eleven need a tree.
InodeNo scattered_file(Volume &v, const std::string &name, unsigned blocks) {
    const InodeNo ino = make_file(v, name);
    const std::vector<std::byte> one(kBlockSize, std::byte{'x'});
    for (std::uint64_t b = 0; b < blocks; ++b)
        REQUIRE(v.write(ino, 2 * b * kBlockSize, one, false, kUser).ok());
    return ino;
}

void newer_minor(Tampered &volume) {
    const std::uint64_t copy = volume.sb().copy_block.get();
    for (const std::uint64_t block : {std::uint64_t{0}, copy}) {
        volume.block<Superblock>(block).version_minor.set(kVersionMinor + 1);
        volume.seal(block);
    }
}

// Says that `block` is free, and the summaries agree.
void call_free(Tampered &volume, std::uint64_t block) {
    const GroupLayout layout = layout_of(0);
    const std::uint64_t chunk = block / kChunkBlocks;
    for (const std::uint64_t first : {layout.bitmaps, layout.classes}) {
        const std::uint64_t at = first + bitmap_index(chunk);
        le64 &word =
            volume.block<BitmapBlock>(at).bits[bitmap_row(chunk)][block % kChunkBlocks / 64];
        REQUIRE((word.get() >> (block % 64) & 1) == 1);
        word.set(word.get() & ~(std::uint64_t{1} << (block % 64)));
        volume.seal(at);
    }
    for (const std::uint64_t copy : {layout.summary_a, layout.summary_b}) {
        auto &summary = volume.block<Summary>(copy);
        summary.partial_free.set(summary.partial_free.get() + 1);
        volume.seal(copy);
    }
}

// Operations that take and free metadata blocks, until one of them meets the damage.
int use(Volume &v) {
    for (unsigned i = 0; i < 400; ++i) {
        const std::string name = "n" + std::to_string(i) + std::string(200, 'n');
        const auto made = v.make(kRoot, name, S_IFREG | 0644, 0, kUser);
        if (!made.ok()) return made.error().errno_value();
        const std::vector<std::byte> value(800, std::byte{'v'});
        const auto set = v.setxattr(made.value().ino, "user.x", value, 0, kUser);
        if (!set.ok()) return set.error().errno_value();
    }
    return 0;
}

}  // namespace

TEST_CASE("hostile: a tree whose child is a bitmap that the same transaction edits") {
    for (const bool newer : {false, true})  // then reserved bytes are not checked
        for (const unsigned count : {1u, 2u, 100u, 2016u, 20453u, 0xffffu}) {
            CAPTURE(newer);
            CAPTURE(count);
            Tampered volume;
            const InodeNo ino[] = {scattered_file(*volume, "f", 14),
                                   scattered_file(*volume, "g", 14)};
            volume.close();
            Inode *in[] = {&volume.inode(ino[0]), &volume.inode(ino[1])};
            const std::uint64_t leaf = in[0]->map_root.get(), top = in[1]->map_root.get();
            const std::uint64_t bitmap = layout_of(0).bitmaps;
            // The other file's leaf becomes an inner node of the first: a bitmap, then its leaf.
            auto &node = volume.block<NodeHeader>(top);
            auto *bytes = reinterpret_cast<std::byte *>(&node);
            std::memset(bytes + sizeof node, 0, kBlockSize - sizeof node);
            node.owner.set(ino[0].value());
            node.level = 1;
            node.count.set(2);
            node.heap_start.set(4096 - 36);
            node.dead_bytes.set(0);
            const std::uint64_t children[] = {bitmap, leaf};
            for (unsigned i = 0; i < 2; ++i) {
                const std::size_t where = 4096 - 18 * (i + 1);
                const le16 slot(static_cast<std::uint16_t>(where)), size(8);
                const le64 key(0), child(children[i]);
                std::memcpy(bytes + 64 + 2 * i, &slot, 2);
                std::memcpy(bytes + where, &key, 8);
                std::memcpy(bytes + where + 8, &size, 2);
                std::memcpy(bytes + where + 10, &child, 8);
            }
            volume.seal(top);
            auto &fake = volume.block<NodeHeader>(bitmap);
            fake.owner.set(ino[0].value());
            fake.kind = 1;
            fake.count.set(static_cast<std::uint16_t>(count));
            volume.seal(bitmap);
            in[0]->map_root.set(top);
            seal_block(*in[0]);
            in[1]->map_root.set(0);
            seal_block(*in[1]);
            if (newer) newer_minor(volume);
            REQUIRE(volume.reopen().ok());
            CHECK(truncate(*volume, ino[0], 0) == EUCLEAN);
            CHECK(volume->lookup(kRoot, "g").ok());
        }
}

TEST_CASE("hostile: a block that is in use but marked free is not allocated") {
    const auto check = [](const char *what, auto pick) {
        CAPTURE(std::string(what));
        Tampered volume;
        const InodeNo ino = scattered_file(*volume, "f", 14);
        volume.close();
        const std::uint64_t block = pick(volume, ino);
        call_free(volume, block);
        CHECK_FALSE(volume.problems().empty());
        const std::vector<std::byte> was(&volume.block<std::byte>(block),
                                         &volume.block<std::byte>(block) + kBlockSize);
        if (!volume.reopen().ok()) return;
        CHECK(use(*volume) == EUCLEAN);
        if (volume->close().ok()) CHECK(volume->region().size() != 0);
    };
    check("the superblock", [](Tampered &, InodeNo) { return std::uint64_t{0}; });
    check("a summary", [](Tampered &, InodeNo) { return std::uint64_t{1}; });
    check("a bitmap", [](Tampered &, InodeNo) { return std::uint64_t{2}; });
    check("the inode map of chunk 0", [](Tampered &, InodeNo) { return layout_of(0).inode_map; });
    check("the root's inode", [](Tampered &v, InodeNo) { return v.sb().root_block.get(); });
    check("the journal's header", [](Tampered &v, InodeNo) { return v.sb().journal_start.get(); });
    check("the ring", [](Tampered &v, InodeNo) { return v.sb().journal_start.get() + 3; });
    check("the superblock's copy", [](Tampered &v, InodeNo) { return v.sb().copy_block.get(); });
}

TEST_CASE("hostile: a block of inodes, or of a tree, that is marked free and allocated again") {
    const auto check = [](auto pick) {
        Tampered volume;
        for (unsigned i = 0; i < kInodesPerBlock; ++i)  // the root's block of inodes is a fixed one
            REQUIRE(volume->make(kRoot, "a" + std::to_string(i), S_IFREG | 0644, 0, kUser).ok());
        const InodeNo ino = scattered_file(*volume, "f", 14);
        volume.close();
        call_free(volume, pick(volume, ino));
        REQUIRE(volume.reopen().ok());
        const int error = use(*volume);
        CHECK((error == EUCLEAN || error == 0));  // 0: that block was not used meanwhile
        (void)truncate(*volume, ino, 0);
        (void)volume->unlink(kRoot, "f").ok();
    };
    check([](Tampered &, InodeNo ino) { return ino.value() / kInodesPerBlock; });
    check([](Tampered &v, InodeNo ino) { return v.inode(ino).map_root.get(); });
    check([](Tampered &v, InodeNo) { return v.inode(kRoot).map_root.get(); });
}

TEST_CASE("hostile: data in unused bytes makes a block count as damaged") {
    struct Place {
        const char *what, *code;
        std::size_t offset;
        std::uint64_t (*block)(Tampered &, InodeNo);
    };
    const Place places[] = {
        {"a summary", "PM0401", 100, [](Tampered &, InodeNo) { return std::uint64_t{1}; }},
        {"a bitmap", "PM0404", 40, [](Tampered &, InodeNo) { return std::uint64_t{2}; }},
        {"a summary's reserved bytes", "PM0401", 2000,
         [](Tampered &, InodeNo) { return layout_of(0).summary_b; }},
        {"an inode map", "PM0301", 3000,
         [](Tampered &, InodeNo) { return layout_of(0).inode_map; }},
        {"a node", "PM0501", 50,
         [](Tampered &v, InodeNo ino) { return v.inode(ino).map_root.get(); }},
    };
    for (const Place &place : places)
        for (const bool newer : {false, true}) {
            CAPTURE(std::string(place.what));
            CAPTURE(newer);
            Tampered volume;
            const InodeNo ino = scattered_file(*volume, "f", 14);
            volume.close();
            const std::uint64_t block = place.block(volume, ino);
            (&volume.block<std::byte>(block))[place.offset] = std::byte{1};
            volume.seal(block);
            if (newer) newer_minor(volume);
            const std::string found = volume.problems();
            CAPTURE(found);
            // Of a newer version it is a field; only that two copies differ may be said then.
            CHECK((found.find(place.code) == 0) == !newer);
            REQUIRE(volume.reopen().ok());
            const int error = truncate(*volume, ino, 0);
            const bool has_copy =
                place.code != std::string("PM0404") && place.code != std::string("PM0501");
            CHECK(error == (newer || has_copy ? 0 : EUCLEAN));
        }
}

TEST_CASE("hostile: an inode with something in its padding") {
    Tampered volume;
    const InodeNo ino = scattered_file(*volume, "f", 1);
    volume.close();
    Inode &inode = volume.inode(ino);
    inode.mtime.zero.set(7);
    seal_block(inode);
    CHECK(volume.problems().find("PM0601") == 0);
    REQUIRE(volume.reopen().ok());
    CHECK(errno_of(volume->getattr(ino)) == EUCLEAN);
    CHECK(volume->make(kRoot, "g", S_IFREG | 0644, 0, kUser).ok());
}

TEST_CASE("hostile: a list of orphans with an inode not in use is lost, without harm to others") {
    for (const std::uint64_t head : {std::uint64_t{20}, std::uint64_t{1} << 40}) {
        Tampered volume;
        scattered_file(*volume, "f", 14);
        REQUIRE(volume->make(kRoot, "g", S_IFREG | 0644, 0, kUser).ok());
        volume.close();
        for (const std::uint64_t copy : {layout_of(0).summary_a, layout_of(0).summary_b}) {
            volume.block<Summary>(copy).orphan_head.set(head);
            volume.seal(copy);
        }
        REQUIRE(volume.reopen().ok());
        CHECK(volume->unlink(kRoot, "f").ok());
        CHECK(volume->unlink(kRoot, "g").ok());
        CHECK(volume->make(kRoot, "h", S_IFREG | 0644, 0, kUser).ok());
    }
}
