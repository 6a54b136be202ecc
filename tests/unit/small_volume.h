// A small volume on simulated media, with the smallest journal: where nearly everything has to wait
// sooner or later, and where a test can say which transaction does.
#pragma once
#include <atomic>
#include <cstring>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "base/errors.h"
#include "mkfs/make.h"
#include "support/sim_media.h"
#include "unit/files.h"

namespace pmfs::test {

class SmallVolume {
public:
    enum class Threads { no, yes };  // those of the volume; without them, a test's own calls do all

    explicit SmallVolume(std::uint64_t size, SimMedia::Flavour flavour = SimMedia::Flavour::image,
                         std::uint64_t journal = media::kJournalSizeMin,
                         Threads threads = Threads::no)
        : flavour_(flavour), threads_(threads) {
        auto region = std::move(pm::memory_region(size)).take();
        mkfs::MakeOptions options;
        options.journal_size = journal;
        REQUIRE(mkfs::make(*region, options).ok());
        media_ = std::make_unique<SimMedia>(
            flavour, MediaImage(std::vector<std::byte>(region->meta(), region->meta() + size)));
        open();
    }
    Volume *operator->() { return volume_.get(); }
    Volume &operator*() { return *volume_; }

    // The transaction behind so many more has to wait, once.
    void wait_behind(std::size_t transactions) { waits_ = begun_ + transactions; }
    void wait_no_more() { waits_ = kNever; }
    std::size_t begun() const { return begun_; }  // transactions

    // From now on no block of metadata is in memory, until it is read in by code that declares that
    // it is not there (pm/no_waiting.h).
    void nothing_in_memory() {
        in_memory_.emplace();
        read_in_ = 0;
    }
    std::size_t read_in() const { return read_in_; }  // blocks since

    // As a front end does, but not for ever.
    template <class F>
    auto retry(F operation, int most = 2000) {
        auto done = operation();
        for (; most > 0 && !done.ok() && must_park(done.error()); --most) {
            REQUIRE(volume_->commit_group().ok());
            volume_->tend(0);
            done = operation();
        }
        return done;
    }
    // Overwrites the records of the journal, as poison that reads as zeroes does.
    void spoil_journal() {
        media::Superblock sb;
        std::memcpy(static_cast<void *>(&sb), volume_->region().data(), sizeof sb);
        const std::vector<std::byte> zeroes(media::kBlockSize);
        for (std::uint64_t b = media::kRingHeaders; b < sb.journal_blocks.get(); ++b)
            media_->store_direct((sb.journal_start.get() + b) * media::kBlockSize, zeroes);
    }
    SimMedia &media() { return *media_; }
    // The server dies, what it stored stays, and the volume is mounted again.
    void kill() {
        const MediaImage left = media_->after_kill();
        volume_.reset();
        media_ = std::make_unique<SimMedia>(flavour_, left);
        open();
    }
    // Of the volume when it is closed.
    void check() {
        REQUIRE(volume_->close().ok());
        check_clean(*media_->lend());
    }

private:
    void open() {
        MountOptions mount;
        mount.no_background = threads_ == Threads::no;
        mount.park_hook = [this] { return begun_++ == waits_; };
        mount.absent_hook = [this](BlockNo block) {
            const bool absent = in_memory_ && in_memory_->insert(block.value()).second;
            read_in_ += absent;
            return absent;
        };
        auto opened = Volume::open(media_->lend(), mount);
        REQUIRE(opened.ok());
        volume_ = std::move(opened).take();
    }
    static constexpr std::size_t kNever = ~std::size_t{0};
    const SimMedia::Flavour flavour_;
    const Threads threads_;
    std::atomic<std::size_t> begun_{0}, waits_{kNever};
    std::optional<std::set<std::uint64_t>> in_memory_;  // none: all
    std::size_t read_in_ = 0;
    std::unique_ptr<SimMedia> media_;
    std::unique_ptr<Volume> volume_;
};

}  // namespace pmfs::test
