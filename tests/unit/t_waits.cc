// Operations that wait, for the journal, for one another or for blocks that are being freed: each
// goes on when it can, and what one of them left behind when it was dropped does no harm.
#include <doctest/doctest.h>
#include <linux/falloc.h>

#include <chrono>
#include <condition_variable>
#include <functional>
#include <future>
#include <mutex>
#include <thread>

#include "base/clock.h"
#include "unit/small_volume.h"
#include "unit/space_world.h"

using namespace pmfs;
using namespace pmfs::test;

namespace {

// A file of which every second block is a hole, and which no single transaction can free.
constexpr unsigned kPieces = 300;

InodeNo in_pieces(SmallVolume &volume, const std::string &name) {
    const InodeNo ino = make_file(*volume, name);
    const std::string text(kBlock, 'o');
    for (std::uint64_t i = 0; i < kPieces; ++i)
        REQUIRE(volume
                    .retry([&] {
                        return volume->write(ino, (2 * i + 1) * kBlock, bytes_of(text), false,
                                             kUser);
                    })
                    .ok());
    return ino;
}

// A truncation that has to wait in its middle, and is dropped there.
void leave_truncation(SmallVolume &volume, InodeNo ino, std::uint64_t size) {
    Progress place;
    volume.wait_behind(1);
    REQUIRE(errno_of(volume->setattr(ino, size_of(size), user(&place))) == kParkErrno);
    volume.wait_no_more();
    REQUIRE(place.kept());
    place.drop();
    REQUIRE(volume->getattr(ino).take().size == size);
    REQUIRE(volume->file_info(ino).take().in_trim);
}

}  // namespace

TEST_CASE(
    "waits: blocks that a dropped truncation left are freed before any other change of the file") {
    struct Act {
        const char *name;
        std::function<Result<>(Volume &, InodeNo, const Caller &)> run;
        std::uint64_t size, extents;  // afterwards
    };
    const std::string text(kBlock, 'n');
    std::uint64_t bad = 0;
    const Act acts[] = {
        {"write",
         [&](Volume &v, InodeNo ino, const Caller &caller) -> Result<> {
             TRY(v.write(ino, 100 * kBlock, bytes_of(text), false, caller));
             return {};
         },
         101 * kBlock, 2},
        {"truncation",
         [](Volume &v, InodeNo ino, const Caller &caller) -> Result<> {
             TRY(v.setattr(ino, size_of(100 * kBlock), caller));
             return {};
         },
         100 * kBlock, 1},
        {"fallocate",
         [](Volume &v, InodeNo ino, const Caller &caller) {
             return v.fallocate(0, ino, 0, 100 * kBlock, kBlock, caller);
         },
         101 * kBlock, 2},
        {"seal",
         [&](Volume &v, InodeNo ino, const Caller &caller) {
             return v.seal(ino, SealLevel::as_is, caller, true, &bad);
         },
         3 * kBlock, 1},
        {"prepare",
         [](Volume &v, InodeNo ino, const Caller &caller) {
             return v.prepare(ino, 0, 0, kBlock, caller);
         },
         3 * kBlock, 1},
    };
    for (const Act &act : acts) {
        CAPTURE(act.name);
        SmallVolume volume(16 << 20);
        const InodeNo ino = in_pieces(volume, "f");
        leave_truncation(volume, ino, 3 * kBlock);
        Progress place;
        REQUIRE(volume.retry([&] { return act.run(*volume, ino, user(&place)); }).ok());
        const auto info = volume->file_info(ino).take();
        CHECK_FALSE(info.in_trim);
        CHECK(info.attr.size == act.size);
        const std::string wanted = std::string(kBlock, 0) + std::string(kBlock, 'o');
        CHECK((read_at(*volume, ino, 0, 2 * kBlock) == wanted));
        // No byte of what was cut off is seen again.
        const std::string rest = read_at(*volume, ino, 2 * kBlock, act.size);
        CHECK(rest.find('o') == std::string::npos);
        if (act.extents == 2) CHECK(info.extents == 2);
        volume.check();
    }
}

TEST_CASE("waits: a kept operation is dropped when another one takes its place") {
    SmallVolume volume(16 << 20);
    const InodeNo ino = in_pieces(volume, "f"), other = make_file(*volume, "g");
    const std::string text(64 * kBlock, 'n');
    Progress place;
    volume.wait_behind(5);
    REQUIRE(errno_of(volume->write(ino, 0, bytes_of(text), false, user(&place))) == kParkErrno);
    volume.wait_no_more();
    CHECK(errno_of(volume->setattr(ino, size_of(5), kUser)) == kClaimErrno);
    // The same place, and another file: the write into the first one is not under way any more.
    CHECK(volume.retry([&] { return volume->setattr(other, size_of(5), user(&place)); }).ok());
    CHECK(volume.retry([&] { return volume->setattr(ino, size_of(5), kUser); }).ok());
    CHECK_FALSE(place.kept());
    volume.check();
}

TEST_CASE("waits: an operation that comes to wait after the claim was released runs at once") {
    SmallVolume volume(16 << 20);
    const InodeNo ino = in_pieces(volume, "f");
    const std::string text(64 * kBlock, 'n');
    Progress place;
    volume.wait_behind(5);
    REQUIRE(errno_of(volume->write(ino, 0, bytes_of(text), false, user(&place))) == kParkErrno);
    volume.wait_no_more();
    const auto refused = volume->setattr(ino, size_of(5), kUser);
    REQUIRE(errno_of(refused) == kClaimErrno);
    place.drop();
    bool ran = false;
    volume->when_ready(refused.error(), [&] { ran = true; });
    volume->tend(0);
    CHECK(ran);
}

TEST_CASE("waits: operations that wait for a claim at the end are dropped, and never run") {
    bool ran = false;
    const auto life = std::make_shared<int>(0);
    Progress place;
    {
        SmallVolume volume(16 << 20);
        const InodeNo ino = in_pieces(volume, "f");
        const std::string text(64 * kBlock, 'n');
        volume.wait_behind(5);
        REQUIRE(errno_of(volume->write(ino, 0, bytes_of(text), false, user(&place))) == kParkErrno);
        volume.wait_no_more();
        const auto refused = volume->setattr(ino, size_of(5), kUser);
        REQUIRE(errno_of(refused) == kClaimErrno);
        volume->when_ready(refused.error(), [&ran, life] { ran = true; });
        CHECK(life.use_count() == 2);
        volume->quiesce();
        CHECK(life.use_count() == 1);
        place.drop();
        volume.check();
    }
    CHECK_FALSE(ran);
}

TEST_CASE("waits: without threads, a request that waits for the journal runs after a commit") {
    SmallVolume volume(16 << 20);
    const InodeNo ino = make_file(*volume, "f");
    const std::uint64_t before = volume->info().tx_last;
    CHECK(volume->info().tx_durable < before);
    volume.wait_behind(0);
    const auto refused = volume->setattr(ino, size_of(5), kUser);
    REQUIRE(errno_of(refused) == kParkErrno);
    Result<> done = Error(EIO, "it has not run");
    volume->when_ready(refused.error(), [&] {
        const auto again = volume->setattr(ino, size_of(5), kUser);
        done = again.ok() ? Result<>() : again.error();
    });
    CHECK(done.ok());
    CHECK(volume->info().tx_durable >= before);
    CHECK(volume->getattr(ino).take().size == 5);
}

TEST_CASE("waits: a mount finishes what a crash interrupted, wherever the journal is full") {
    const MediaImage killed = [] {
        SmallVolume volume(16 << 20);
        const InodeNo cut = in_pieces(volume, "cut"), gone = in_pieces(volume, "gone");
        REQUIRE(volume.retry([&] { return volume->unlink(kRoot, "gone"); }).ok());
        leave_truncation(volume, cut, kBlock);
        REQUIRE(volume->getattr(gone).ok());  // it was open, so to say
        REQUIRE(volume->commit_group().ok());
        return volume.media().after_kill();
    }();
    unsigned waited = 0;
    for (unsigned nth = 0; nth < 16; ++nth) {
        CAPTURE(nth);
        SimMedia media(SimMedia::Flavour::image, killed);
        unsigned begun = 0;
        bool mounting = true;
        MountOptions options;
        options.no_background = true;
        options.park_hook = [&] { return mounting && begun++ == nth; };
        {
            const auto volume = Volume::open(media.lend(), options).take();
            mounting = false;
            waited += begun > nth;
            const Attr cut = volume->lookup(kRoot, "cut").take();
            CHECK(cut.size == kBlock);
            CHECK(cut.blocks < 4);  // of 300; a tree that is empty may stay
            CHECK(errno_of(volume->lookup(kRoot, "gone")) == ENOENT);
            CHECK_FALSE(volume->file_info(cut.ino).take().in_trim);
            // None of both files' 600 blocks is held back.
            const auto info = volume->info();
            CHECK(info.blocks_total - info.blocks_free < 40);
            REQUIRE(volume->close().ok());
        }
        check_clean(*media.lend());
    }
    CHECK(waited > 8);
}

TEST_CASE("waits: an unmount updates the times for a grant that it ends, even if it has to wait") {
    SmallVolume volume(16 << 20);
    const InodeNo ino = make_file(*volume, "f");
    const std::string text(kBlock, 'x');
    REQUIRE(volume.retry([&] { return volume->write(ino, 0, bytes_of(text), false, kUser); }).ok());
    OpenRequest open;
    open.write = open.direct = true;
    open.caller = kUser;
    const auto opened = volume->open_file(ino, open);
    REQUIRE(opened.ok());
    GrantRequest request;
    request.kind = GrantKind::temporary;
    request.may_store = true;
    std::uint64_t bad = 0;
    REQUIRE(
        volume
            .retry([&] { return volume->take_grant(opened.value().handle, request, kUser, &bad); })
            .ok());
    const Timespec before = volume->getattr(ino).take().mtime;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    volume.wait_behind(0);
    volume.check();  // closes it
    auto again = Volume::open(volume.media().lend(), {});
    REQUIRE(again.ok());
    CHECK(again.value()->getattr(ino).take().mtime > before);
}

namespace {

// The thread that commits groups stands still until this says so.
class HeldCommits {
public:
    explicit HeldCommits(Volume &volume) {
        volume.fsync(kRoot, [this](const Result<> &) {
            std::unique_lock held(mutex_);
            stands_ = true;
            changed_.notify_all();
            changed_.wait(held, [this] { return go_on_; });
        });
        std::unique_lock held(mutex_);
        REQUIRE(changed_.wait_for(held, std::chrono::seconds(60), [this] { return stands_; }));
    }
    ~HeldCommits() { go_on(); }
    void go_on() {
        const std::lock_guard held(mutex_);
        go_on_ = true;
        changed_.notify_all();
    }

private:
    std::mutex mutex_;
    std::condition_variable changed_;
    bool stands_ = false, go_on_ = false;
};

}  // namespace

TEST_CASE("waits: a volume is not full while a file that lost its last name is being freed") {
    SmallVolume volume(16 << 20, SimMedia::Flavour::image, media::kJournalSizeMin,
                       SmallVolume::Threads::yes);
    const InodeNo gone = make_file(*volume, "gone"), ino = make_file(*volume, "f");
    // All but what is reserved.
    std::uint64_t had = 0;
    for (std::uint64_t step = 2048; step != 0; step /= 2)
        while (volume
                   .retry([&] {
                       return volume->fallocate(0, gone, 0, had * kBlock, step * kBlock, kUser);
                   })
                   .ok())
            had += step;
    const std::string text(64 * kBlock, 'n');
    REQUIRE(errno_of(volume->write(ino, 0, bytes_of(text), false, kUser)) == ENOSPC);
    REQUIRE(volume.retry([&] { return volume->unlink(kRoot, "gone"); }).ok());
    REQUIRE(volume->commit_group().ok());
    HeldCommits held(*volume);
    volume.wait_behind(0);  // before the first of its blocks is free
    volume->forget(gone, 1);
    Progress place;
    const auto refused = volume->write(ino, 0, bytes_of(text), false, user(&place));
    REQUIRE(errno_of(refused) == kClaimErrno);
    CHECK(refused.error().subject() == gone.value());
    std::promise<Result<std::size_t>> done;
    std::function<void()> go_on = [&] {
        auto again = volume->write(ino, 0, bytes_of(text), false, user(&place));
        if (!again.ok() && must_park(again.error()))
            return volume->when_ready(again.error(), go_on);
        done.set_value(std::move(again));
    };
    volume->when_ready(refused.error(), go_on);
    held.go_on();
    auto future = done.get_future();
    REQUIRE(future.wait_for(std::chrono::seconds(60)) == std::future_status::ready);
    CHECK(future.get().value_or(0) == text.size());
    CHECK((read_at(*volume, ino, 0, text.size()) == text));
    volume.check();
}
