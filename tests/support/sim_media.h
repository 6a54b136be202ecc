// A medium that forgets, in every way that real media may: for power-cut and kill sweeps.
//
// SimMedia records what is stored, written, flushed, fenced and synced, by which thread.  From the
// record it makes, for any moment, images that a power cut at that moment could have left; so one
// run of an operation gives all of its cuts:
//
//     SimMedia media(SimMedia::Flavour::dax, before);
//     { auto volume = Volume::open(media.lend(), ...); ... }
//     for (std::size_t cut = 0; cut <= media.events(); ++cut)
//         for (unsigned seed = 0; seed < 8; ++seed) {
//             CAPTURE(media.describe(cut, seed));   // all it takes to run it again
//             SimMedia found(SimMedia::Flavour::dax, media.after_power_cut(cut, seed));
//             ...recover, check...
//         }
//
// What is modelled, of DAX media (Intel SDM volume 1, 10.4.6.2 and 11.6.13, volume 2 CLWB, SFENCE,
// MOVNTDQ; volume 3, 8.2.2 and 11.3.1; formalised as Px86 by Raad, Wickerson, Neiger and Vafeiadis,
// "Persistency semantics of the Intel-x86 architecture", POPL 2020, and with non-temporal stores
// by Raad, Maranget and Vafeiadis, "Extending Intel-x86 consistency and persistency", POPL 2022):
//   - A cached store reaches the medium when its line is evicted, at any time, or by flush and
//     fence.  Lines in any order; of one line some prefix of its stores, and of the next store,
//     if it was under way, any subset of its aligned 8-byte words (memcpy promises no order).
//   - A non-temporal write leaves any subset of its aligned 8-byte words, in any order with
//     whatever else, until a fence by the thread that wrote it.
//   - A flush covers what was stored to the line before it by any thread, and is complete only
//     once the thread that flushed has fenced.  Never flushed: no fence helps.
//   - fence_everywhere() is a fence of every thread (docs/decisions/0002).
//   - Of one word, never an older value after a newer one was made durable.
// Not modelled: a cut inside an aligned word; failing or lying media; caches that persist (eADR),
// which would only forbid some of these states.
//
// Of image files: the shared view is the page cache, store_meta() changes private memory only.
// Until a sync() that returned well, every 512-byte sector may hold any of the versions that it
// had in the page cache since the last sync, independently of all others; of a store that was
// under way any subset of its words (the kernel may write a page back while it is stored to).
#pragma once
#include <map>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "pm/region.h"
#include "support/media_image.h"

namespace pmfs::test {

// What SimMedia can be made to get wrong, so that a test shows that it would notice.
enum class Plant {
    none,
    drop_flushes,  // a flush does nothing
    drop_fences,   // a fence does nothing
    drop_fences_everywhere,
    drop_syncs,  // a sync says ok and does nothing
    fail_syncs,  // a sync fails, does nothing, and so do all later ones
    // A write, or a store home, does nothing and raises the thread's fault flag, as a SIGBUS or a
    // pwrite that failed does; on an image every later sync fails.
    fail_writes,
    drop_stores,  // writes and stores do nothing: the host gave the medium read-only
};

class SimMedia final : public pm::Region {
public:
    enum class Flavour { dax, image };
    static constexpr std::size_t kEvery = ~std::size_t{0};

    SimMedia(Flavour flavour, const MediaImage &image);
    // A region for an owner: all it does happens here.  This must outlive it.
    std::unique_ptr<pm::Region> lend();

    // Of an image: the disk below it, for regions that are lent from now on.
    void lie_on_disk(std::uint64_t sequence) { disk_sequence_ = sequence; }

    // The nth (from 0) flush, fence or sync from now on goes wrong, or every one.
    void plant(Plant what, std::size_t nth = kEvery);

    // What has happened to the medium: on DAX each write, store, flush and fence (a store_meta()
    // is a store and a flush); on an image each write, store_home() and sync().
    std::size_t events() const;
    // "power cut before event 17 of 43, seed 5: fence by thread 0"
    std::string describe(std::size_t cut, unsigned seed) const;

    // Events from this one on change the running views only, as far as after_...() without a cut
    // are concerned.
    void cut_power_after(std::size_t events);

    // What the medium may hold after a power cut before event `cut`.  Seed 0: nothing that was not
    // durable; seed 1: everything; others: chosen at random, in several manners.
    MediaImage after_power_cut(std::size_t cut, unsigned seed) const;
    MediaImage after_power_cut(unsigned seed) const { return after_power_cut(cut_now(), seed); }
    // What it holds when the process is killed before event `cut`: every store that was executed.
    MediaImage after_kill(std::size_t cut) const { return after_power_cut(cut, 1); }
    MediaImage after_kill() const { return after_kill(cut_now()); }
    // Lines or sectors of which after_power_cut may hold more than one version.
    std::size_t undecided(std::size_t cut) const;

    // What a client with a direct mapping does: stores to the shared view that are not flushed,
    // and a flush without a fence.
    void store_direct(std::uint64_t offset, std::span<const std::byte> bytes);
    void flush_direct(std::uint64_t offset, std::uint64_t size);

    Result<> sync() override;
    void store_home(std::uint64_t offset, std::span<const std::byte> bytes) override;
    void drop_private(std::uint64_t offset) override;
    bool lost(std::uint64_t, std::uint64_t) const override { return false; }
    bool failed() const override EXCLUDES(mutex_);
    // The nth event that was planted has gone wrong.
    bool plant_is_spent() const EXCLUDES(mutex_);

protected:
    void do_write(std::uint64_t offset, std::span<const std::byte> bytes) override;
    void do_zero(std::uint64_t offset, std::uint64_t size) override;
    void do_store_meta(std::uint64_t offset, std::span<const std::byte> bytes) override;
    void do_fence() override;
    void do_fence_everywhere() override;

private:
    enum class What : std::uint8_t { write, zero, store, flush, fence, fence_everywhere, sync };
    struct Event {
        What what;
        bool ignored;          // planted
        std::uint32_t thread;  // counted from 0 in order of appearance
        std::uint64_t offset = 0;
        std::uint64_t size = 0;
        std::uint64_t bytes = 0;  // where they start in stored_; none for a zero
    };
    // The part of a store or write that is in one unit: a line, or a sector.
    struct Piece {
        std::uint32_t event;
        std::uint16_t start, size;  // inside the unit
        bool non_temporal;
        bool durable;
        std::uint64_t live;  // lines only: bytes that no later durable store has overwritten
    };
    struct Flushed {
        std::uint64_t unit;
        std::uint32_t event;  // covers cached pieces of earlier events
    };
    // How far the record has been played, and what is certain and uncertain there.
    struct Moment {
        explicit Moment(const MediaImage &base) : medium(base) {}
        std::size_t at = 0;
        MediaBuffer medium;                                           // what is certainly there
        std::map<std::uint64_t, std::vector<Piece>> waiting;          // by unit, in event order
        std::map<std::uint32_t, std::vector<Flushed>> flushed;        // by thread
        std::map<std::uint32_t, std::vector<std::uint64_t>> written;  // units, by thread
    };

    std::size_t cut_now() const EXCLUDES(mutex_);
    std::uint32_t thread_locked() REQUIRES(mutex_);
    bool planted_locked(What what) REQUIRES(mutex_);
    bool goes_off_locked() REQUIRES(mutex_);
    bool record_locked(What what, std::uint64_t offset = 0, std::uint64_t size = 0,
                       std::span<const std::byte> bytes = {}) REQUIRES(mutex_);
    void change_shared_locked(What what, std::uint64_t offset, std::uint64_t size,
                              std::span<const std::byte> bytes) REQUIRES(mutex_);

    Moment &move_to_locked(std::size_t cut) const REQUIRES(mutex_);
    void play_locked(Moment &moment, std::uint32_t index) const REQUIRES(mutex_);
    void wait_locked(Moment &moment, std::uint32_t index) const REQUIRES(mutex_);
    void settle_thread_locked(Moment &moment, std::uint32_t thread) const REQUIRES(mutex_);
    void settle_unit_locked(Moment &moment, std::uint64_t unit) const REQUIRES(mutex_);
    template <class Target>
    void apply_locked(Target &to, std::uint64_t unit, const Piece &piece, std::uint64_t words) const
        REQUIRES(mutex_);

    const Flavour flavour_;
    const std::uint64_t unit_size_;
    const MediaImage base_;

    mutable Mutex mutex_;
    MediaBuffer shared_ GUARDED_BY(mutex_);                    // the view data() shows
    std::unique_ptr<MediaBuffer> private_ GUARDED_BY(mutex_);  // image: what meta() shows
    std::vector<bool> copied_ GUARDED_BY(mutex_);              // image: private pages
    std::map<std::uint64_t, std::uint32_t> threads_ GUARDED_BY(mutex_);
    std::vector<Event> events_ GUARDED_BY(mutex_);
    std::vector<std::byte> stored_ GUARDED_BY(mutex_);
    std::size_t cut_ GUARDED_BY(mutex_) = kEvery;
    Plant plant_ GUARDED_BY(mutex_) = Plant::none;
    std::size_t plant_countdown_ GUARDED_BY(mutex_) = kEvery;
    bool sync_failed_ GUARDED_BY(mutex_) = false;
    mutable std::unique_ptr<Moment> moment_ GUARDED_BY(mutex_);
};

}  // namespace pmfs::test
