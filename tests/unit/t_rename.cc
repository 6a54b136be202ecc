// Renaming between directories: what lies above them.
#include <doctest/doctest.h>
#include <linux/fs.h>

#include "base/clock.h"
#include "base/hold_watch.h"
#include "unit/files.h"
#include "unit/tampered.h"

using namespace pmfs;
using namespace pmfs::test;

namespace {

// A directory in it, in that one another, and so on; the last one.
InodeNo make_deep(Volume &v, InodeNo dir, unsigned depth) {
    for (unsigned i = 0; i < depth; ++i) {
        const auto made = v.make(dir, "d", S_IFDIR | 0755, 0, kUser);
        REQUIRE(made.ok());
        dir = made.value().ino;
    }
    return dir;
}

InodeNo make_directory(Volume &v, InodeNo dir, const char *name) {
    const auto made = v.make(dir, name, S_IFDIR | 0755, 0, kUser);
    REQUIRE(made.ok());
    return made.value().ino;
}

}  // namespace

TEST_CASE("rename: no directory can move into itself, at any depth or by an exchange") {
    Tampered volume;
    Volume &v = *volume;
    const InodeNo top = make_directory(v, kRoot, "top");
    InodeNo deep = top;
    for (const unsigned more : {0u, 1u, 511u, 1u, 1000u}) {
        deep = make_deep(v, deep, more);
        CAPTURE(deep.value());
        CHECK(errno_of(v.rename(kRoot, "top", deep, "in", 0)) == EINVAL);
        make_directory(v, deep, "below");
        CHECK(errno_of(v.rename(kRoot, "top", deep, "below", RENAME_EXCHANGE)) == EINVAL);
        CHECK(errno_of(v.rename(deep, "below", kRoot, "top", RENAME_EXCHANGE)) == EINVAL);
        CHECK(v.rename(deep, "below", kRoot, "beside", 0).ok());
        CHECK(v.rename(kRoot, "beside", deep, "below", 0).ok());
        CHECK(v.rmdir(deep, "below").ok());
    }
    CHECK(errno_of(v.rename(kRoot, "top", top, "top", 0)) == EINVAL);
    CHECK(v.rename(kRoot, "top", kRoot, "other", 0).ok());
}

TEST_CASE(
    "rename: other operations do not wait while the parents of a deep directory are checked") {
    Tampered volume(256 << 20);
    Volume &v = *volume;
    const InodeNo deep = make_deep(v, kRoot, 20'000);
    const InodeNo a = make_directory(v, deep, "a"), b = make_directory(v, deep, "b");
    make_directory(v, a, "moved");
    watch_holds(true);
    constexpr unsigned kTimes = 20;
    const std::uint64_t begin = read_clock_ns(CLOCK_THREAD_CPUTIME_ID);
    for (unsigned i = 0; i < kTimes; ++i)
        REQUIRE(v.rename(i % 2 == 0 ? a : b, "moved", i % 2 == 0 ? b : a, "moved", 0).ok());
    const std::uint64_t one = (read_clock_ns(CLOCK_THREAD_CPUTIME_ID) - begin) / kTimes;
    const std::uint64_t longest = longest_hold_ns();
    watch_holds(false);
    CHECK(longest < one / 4);  // nearly all of the time goes into the way through the parents
}
