// Attributes that a hostile image filed in the wrong place, and chunks that are to be emptied of
// them: emptying them ends.
#include <doctest/doctest.h>

#include <cstring>

#include "media/geometry.h"
#include "unit/files.h"
#include "unit/tampered.h"

using namespace pmfs;
using namespace pmfs::test;

namespace {

// Broken chunks, with a large attribute in one of them.
class Attributes : public Tampered {
public:
    Attributes() : Tampered(16 << 20) {
        Volume &v = **this;
        ino = make_file(v, "x");
        constexpr unsigned kFiles = 300;
        std::vector<InodeNo> files;
        for (unsigned i = 0; i < kFiles; ++i) {
            files.push_back(make_file(v, "f" + std::to_string(i)));
            const std::string text(4 * 4096, 'a');
            REQUIRE(v.write(files[i], 0, bytes_of(text), false, kUser).ok());
            if (i != 200) continue;
            const std::string value(20'000, 'x');
            REQUIRE(v.setxattr(ino, "user.x", bytes_of(value), 0, kUser).ok());
        }
        REQUIRE(v.setxattr(files[0], "user.y", bytes_of("small"), 0, kUser).ok());
        small = files[0];
        for (unsigned i = 0; i < kFiles; ++i) {
            if (i % 4 == 0) continue;
            REQUIRE(v.unlink(kRoot, "f" + std::to_string(i)).ok());
            v.forget(files[i], 1);
        }
    }
    // The key of the only attribute of a file becomes `change` of what it was.
    template <class F>
    void refile(InodeNo file, F change) {
        close();
        const std::uint64_t root = inode(file).xattr_root.get();
        auto &node = block<media::NodeHeader>(root);
        auto *bytes = reinterpret_cast<std::byte *>(&node);
        media::le16 at;
        std::memcpy(&at, bytes + sizeof node, sizeof at);
        media::le64 key;
        std::memcpy(&key, bytes + at.get(), sizeof key);
        key.set(change(key.get()));
        std::memcpy(bytes + at.get(), &key, sizeof key);
        seal(root);
        REQUIRE(reopen().ok());
    }
    // Transactions that it took.
    std::uint64_t compact() {
        const std::uint64_t before = (*this)->info().tx_last;
        for (GroupNo from;;) {
            Progress place;
            Caller caller = kAdmin;
            caller.progress = &place;
            const auto done = (*this)->compact(from, caller);
            REQUIRE(done.ok());
            if (!done.value().more) return (*this)->info().tx_last - before;
            from = done.value().next;
        }
    }
    InodeNo ino, small;
};

}  // namespace

TEST_CASE("hostile: an attribute under a wrong key is not moved, instead of again and again") {
    Attributes volume;
    volume.refile(volume.ino, [](std::uint64_t key) { return key ^ 0x1000; });
    CHECK(volume.compact() < 10'000);
}

TEST_CASE("hostile: an attribute with the last of all keys is the last one") {
    Attributes volume;
    volume.refile(volume.small, [](std::uint64_t) { return ~std::uint64_t{0}; });
    CHECK(volume.compact() < 10'000);
    CHECK((*volume.operator->()).getxattr(volume.ino, "user.x").take() ==
          std::vector<std::byte>(20'000, std::byte{'x'}));
}

TEST_CASE("hostile: a damaged copy of a summary is restored, with the change applied once") {
    for (const bool first : {true, false}) {
        CAPTURE(first);
        Tampered volume(16 << 20);
        make_file(*volume, "a");
        volume.close();
        const auto layout = media::layout_of(std::uint64_t{0});
        volume.block<std::uint64_t>(first ? layout.summary_a : layout.summary_b) ^= 1;
        REQUIRE(volume.reopen().ok());
        make_file(*volume, "b");
        volume.close();
        const auto &a = volume.block<media::Summary>(layout.summary_a);
        const auto &b = volume.block<media::Summary>(layout.summary_b);
        CHECK(a.inodes_used.get() == b.inodes_used.get());
        CHECK(a.inodes_made.get() == b.inodes_made.get());
        CHECK(volume.problems() == "");
    }
}
