// How SimMedia records, and how it plays the record back up to a power cut.
#include "support/sim_media.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>

#include "base/assert.h"
#include "base/bytes.h"
#include "pm/fault.h"
#include "support/outcome.h"

namespace pmfs::test {

namespace {

constexpr std::uint64_t kLine = 64;
constexpr std::uint64_t kSector = 512;
constexpr unsigned kWord = 8;  // both have at most 64 words: a bit mask holds them
constexpr std::uint64_t kEveryWord = ~std::uint64_t{0};
constexpr std::array<std::byte, kSector> kZeroes = {};

std::uint64_t byte_mask(unsigned start, unsigned size) {
    return (size >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << size) - 1) << start;
}

// What SimMedia::lend() gives: every call goes on to the medium.
class Lent final : public pm::Region {
public:
    explicit Lent(SimMedia &media) : media_(media) {
        kind_ = media.kind();
        size_ = media.size();
        mapping_unit_ = media.mapping_unit();
        meta_ = media.meta();
        data_ = media.data();
        path_ = media.path();
        disk_sequence_ = media.disk_sequence();
    }
    Result<> sync() override { return media_.sync(); }
    void store_home(std::uint64_t offset, std::span<const std::byte> bytes) override {
        media_.store_home(offset, bytes);
    }
    void drop_private(std::uint64_t offset) override { media_.drop_private(offset); }
    bool lost(std::uint64_t offset, std::uint64_t size) const override {
        return media_.lost(offset, size);
    }
    bool failed() const override { return media_.failed(); }

protected:
    void do_write(std::uint64_t offset, std::span<const std::byte> bytes) override {
        media_.defer(media_.write(offset, bytes));
    }
    void do_zero(std::uint64_t offset, std::uint64_t size) override {
        media_.defer(media_.zero(offset, size));
    }
    void do_store_meta(std::uint64_t offset, std::span<const std::byte> bytes) override {
        media_.defer(media_.store_meta(offset, bytes));
    }
    void do_fence() override { media_.fence(pm::Unfenced()); }
    void do_fence_everywhere() override { media_.fence_everywhere(); }

private:
    SimMedia &media_;
};

}  // namespace

SimMedia::SimMedia(Flavour flavour, const MediaImage &image)
    : flavour_(flavour),
      unit_size_(flavour == Flavour::dax ? kLine : kSector),
      base_(image),
      shared_(image) {
    kind_ = flavour == Flavour::dax ? pm::MediumKind::devdax : pm::MediumKind::image;
    size_ = image.size();
    path_ = "a simulated medium";
    const Lock lock(mutex_);
    data_ = meta_ = shared_.data();
    if (flavour == Flavour::image) {
        private_ = std::make_unique<MediaBuffer>(image);
        meta_ = private_->data();
        copied_.resize(size_ / kImagePage);
    }
}

std::unique_ptr<pm::Region> SimMedia::lend() {
    return std::make_unique<Lent>(*this);
}

// --- recording

void SimMedia::plant(Plant what, std::size_t nth) {
    const Lock lock(mutex_);
    plant_ = what;
    plant_countdown_ = nth;
}

bool SimMedia::planted_locked(What what) {
    const bool concerns =
        (plant_ == Plant::drop_flushes && what == What::flush) ||
        (plant_ == Plant::drop_fences && what == What::fence) ||
        (plant_ == Plant::drop_fences_everywhere && what == What::fence_everywhere) ||
        (plant_ == Plant::drop_syncs && what == What::sync) ||
        (plant_ == Plant::fail_syncs && what == What::sync);
    return concerns && goes_off_locked();
}

bool SimMedia::goes_off_locked() {
    if (plant_countdown_ == kEvery) return true;
    return plant_countdown_ > 0 ? (--plant_countdown_, false) : (plant_ = Plant::none, true);
}

bool SimMedia::failed() const {
    const Lock lock(mutex_);
    return sync_failed_;
}

bool SimMedia::plant_is_spent() const {
    const Lock lock(mutex_);
    return plant_ == Plant::none;
}

std::uint32_t SimMedia::thread_locked() {
    // Not std::thread::id, which a later thread may get again.
    static std::atomic<std::uint64_t> next = 0;
    thread_local const std::uint64_t self = next++;
    return threads_.try_emplace(self, static_cast<std::uint32_t>(threads_.size())).first->second;
}

// False when the event was planted to go wrong.
bool SimMedia::record_locked(What what, std::uint64_t offset, std::uint64_t size,
                             std::span<const std::byte> bytes) {
    const bool ignored = planted_locked(what);
    events_.push_back({what, ignored, thread_locked(), offset, size, stored_.size()});
    stored_.insert(stored_.end(), bytes.begin(), bytes.end());
    return !ignored;
}

// `bytes` is empty for a zero.  The private view follows where it was not copied.
void SimMedia::change_shared_locked(What what, std::uint64_t offset, std::uint64_t size,
                                    std::span<const std::byte> bytes) {
    PMFS_ASSERT(offset <= size_ && size <= size_ - offset);
    if (size == 0 || plant_ == Plant::drop_stores) return;
    if (plant_ == Plant::fail_writes && goes_off_locked()) {
        pm::raise_fault();
        sync_failed_ = flavour_ == Flavour::image;
        return;
    }
    if (what == What::zero) {
        shared_.fill(offset, size);
    } else {
        shared_.store(offset, bytes);
    }
    record_locked(what, offset, size, bytes);
    if (private_ == nullptr) return;
    const std::uint64_t end = offset + size;
    for (std::uint64_t next = 0; offset < end; offset = next) {
        next = std::min(end, align_down(offset, kImagePage) + kImagePage);
        if (!copied_[offset / kImagePage])
            private_->store(offset, std::span(shared_.data() + offset, next - offset));
    }
}

void SimMedia::do_write(std::uint64_t offset, std::span<const std::byte> bytes) {
    const Lock lock(mutex_);
    change_shared_locked(What::write, offset, bytes.size(), bytes);
}

void SimMedia::do_zero(std::uint64_t offset, std::uint64_t size) {
    const Lock lock(mutex_);
    change_shared_locked(What::zero, offset, size, {});
}

void SimMedia::do_store_meta(std::uint64_t offset, std::span<const std::byte> bytes) {
    const Lock lock(mutex_);
    PMFS_ASSERT(offset <= size_ && bytes.size() <= size_ - offset);
    if (bytes.empty()) return;
    if (private_ == nullptr) {
        change_shared_locked(What::store, offset, bytes.size(), bytes);
        record_locked(What::flush, offset, bytes.size());
        return;
    }
    private_->store(offset, bytes);
    for (std::uint64_t page = offset / kImagePage; page <= (offset + bytes.size() - 1) / kImagePage;
         ++page)
        copied_[page] = true;
}

void SimMedia::store_direct(std::uint64_t offset, std::span<const std::byte> bytes) {
    const Lock lock(mutex_);
    change_shared_locked(What::store, offset, bytes.size(), bytes);
}

void SimMedia::flush_direct(std::uint64_t offset, std::uint64_t size) {
    const Lock lock(mutex_);
    PMFS_ASSERT(offset <= size_ && size <= size_ - offset);
    if (flavour_ == Flavour::dax && size != 0) record_locked(What::flush, offset, size);
}

void SimMedia::store_home(std::uint64_t offset, std::span<const std::byte> bytes) {
    if (flavour_ == Flavour::dax) return do_store_meta(offset, bytes);
    const Lock lock(mutex_);
    change_shared_locked(What::store, offset, bytes.size(), bytes);
}

void SimMedia::drop_private(std::uint64_t offset) {
    const Lock lock(mutex_);
    PMFS_ASSERT(is_aligned(offset, kImagePage) && offset < size_);
    if (private_ == nullptr || !copied_[offset / kImagePage]) return;
    copied_[offset / kImagePage] = false;
    private_->store(offset, std::span(shared_.data() + offset, kImagePage));
}

void SimMedia::do_fence() {
    const Lock lock(mutex_);
    if (flavour_ == Flavour::dax) record_locked(What::fence);
}

void SimMedia::do_fence_everywhere() {
    const Lock lock(mutex_);
    if (flavour_ == Flavour::dax) record_locked(What::fence_everywhere);
}

Result<> SimMedia::sync() {
    const Lock lock(mutex_);
    if (flavour_ == Flavour::dax) return {};
    if (sync_failed_) return Error(EIO, "an earlier sync failed");
    const bool would_fail = plant_ == Plant::fail_syncs;
    sync_failed_ = !record_locked(What::sync) && would_fail;
    if (sync_failed_) return Error(EIO, "this sync was made to fail");
    return {};
}

std::size_t SimMedia::events() const {
    const Lock lock(mutex_);
    return events_.size();
}

void SimMedia::cut_power_after(std::size_t events) {
    const Lock lock(mutex_);
    cut_ = events;
}

std::size_t SimMedia::cut_now() const {
    const Lock lock(mutex_);
    return std::min(cut_, events_.size());
}

std::string SimMedia::describe(std::size_t cut, unsigned seed) const {
    static constexpr const char *kNames[] = {
        "write", "zero", "store", "flush", "fence", "fence everywhere", "sync"};
    const Lock lock(mutex_);
    std::string text = "power cut before event " + std::to_string(cut) + " of " +
                       std::to_string(events_.size()) + ", seed " + std::to_string(seed);
    if (cut >= events_.size()) return text;
    const Event &event = events_[cut];
    text += std::string(": ") + kNames[static_cast<int>(event.what)];
    if (event.size != 0)
        text += " at " + std::to_string(event.offset) + " of " + std::to_string(event.size);
    return text + " by thread " + std::to_string(event.thread);
}

// --- playing it back

SimMedia::Moment &SimMedia::move_to_locked(std::size_t cut) const {
    PMFS_ASSERT(cut <= events_.size());
    if (moment_ == nullptr || moment_->at > cut) {
        moment_ = nullptr;  // its memory serves the next one
        moment_ = std::make_unique<Moment>(base_);
    }
    for (; moment_->at < cut; ++moment_->at)
        play_locked(*moment_, static_cast<std::uint32_t>(moment_->at));
    return *moment_;
}

void SimMedia::play_locked(Moment &moment, std::uint32_t index) const {
    const Event &event = events_[index];
    if (event.ignored) return;
    switch (event.what) {
        case What::write:
        case What::zero:
        case What::store:
            return wait_locked(moment, index);
        case What::flush:
            for (auto it = moment.waiting.lower_bound(event.offset / unit_size_);
                 it != moment.waiting.end() &&
                 it->first <= (event.offset + event.size - 1) / unit_size_;
                 ++it)
                moment.flushed[event.thread].push_back({it->first, index});
            return;
        case What::fence:
            return settle_thread_locked(moment, event.thread);
        case What::fence_everywhere:
            for (std::uint32_t thread = 0; thread < threads_.size(); ++thread)
                settle_thread_locked(moment, thread);
            return;
        case What::sync:
            for (const auto &[unit, pieces] : moment.waiting)
                for (const Piece &piece : pieces)
                    apply_locked(moment.medium, unit, piece, kEveryWord);
            moment.waiting.clear();
            return;
    }
}

// Cuts a store into what falls into each unit.
void SimMedia::wait_locked(Moment &moment, std::uint32_t index) const {
    const Event &event = events_[index];
    const bool non_temporal = flavour_ == Flavour::dax && event.what != What::store;
    const std::uint64_t end = event.offset + event.size;
    for (std::uint64_t at = event.offset, next = 0; at < end; at = next) {
        next = std::min(end, align_down(at, unit_size_) + unit_size_);
        const auto start = static_cast<std::uint16_t>(at % unit_size_);
        const auto size = static_cast<std::uint16_t>(next - at);
        const std::uint64_t live = unit_size_ == kLine ? byte_mask(start, size) : 0;
        moment.waiting[at / unit_size_].push_back({index, start, size, non_temporal, false, live});
        if (non_temporal) moment.written[event.thread].push_back(at / unit_size_);
    }
}

// A fence by `thread`: what it wrote, and what it flushed, is on the medium.
void SimMedia::settle_thread_locked(Moment &moment, std::uint32_t thread) const {
    std::vector<std::uint64_t> units;
    for (const std::uint64_t unit : std::exchange(moment.written[thread], {})) {
        const auto found = moment.waiting.find(unit);
        if (found == moment.waiting.end()) continue;
        for (Piece &piece : found->second)
            piece.durable |= piece.non_temporal && events_[piece.event].thread == thread;
        units.push_back(unit);
    }
    for (const Flushed &flushed : std::exchange(moment.flushed[thread], {})) {
        const auto found = moment.waiting.find(flushed.unit);
        if (found == moment.waiting.end()) continue;
        for (Piece &piece : found->second)
            piece.durable |= !piece.non_temporal && piece.event < flushed.event;
        units.push_back(flushed.unit);
    }
    for (const std::uint64_t unit : units) settle_unit_locked(moment, unit);
}

void SimMedia::settle_unit_locked(Moment &moment, std::uint64_t unit) const {
    const auto found = moment.waiting.find(unit);
    if (found == moment.waiting.end()) return;
    std::vector<Piece> &pieces = found->second;
    for (std::size_t i = 0; i < pieces.size(); ++i) {
        if (!pieces[i].durable) continue;
        apply_locked(moment.medium, unit, pieces[i], kEveryWord);
        // An older store that is still under way can no longer show in these bytes.
        for (std::size_t older = 0; older < i; ++older)
            pieces[older].live &= ~byte_mask(pieces[i].start, pieces[i].size);
    }
    std::erase_if(pieces, [](const Piece &p) { return p.durable || p.live == 0; });
    if (pieces.empty()) moment.waiting.erase(found);
}

// Stores those words of a piece that `words` has a bit for.
template <class Target>
void SimMedia::apply_locked(Target &to, std::uint64_t unit, const Piece &piece,
                            std::uint64_t words) const {
    const Event &event = events_[piece.event];
    const std::uint64_t at = unit * unit_size_ + piece.start;
    const std::byte *bytes = event.what == What::zero
                                 ? kZeroes.data()
                                 : stored_.data() + event.bytes + (at - event.offset);
    const bool whole = unit_size_ != kLine || piece.live == byte_mask(piece.start, piece.size);
    if (whole && words == kEveryWord) return to.store(at, {bytes, piece.size});
    for (unsigned i = piece.start, next = 0; i < piece.start + piece.size; i = next) {
        next = std::min(unsigned{piece.start} + piece.size, (i / kWord + 1) * kWord);
        if ((words >> (i / kWord) & 1) == 0) continue;
        if (whole) {
            to.store(unit * unit_size_ + i, {bytes + (i - piece.start), next - i});
            continue;
        }
        for (unsigned b = i; b < next; ++b)
            if ((piece.live >> b & 1) != 0)
                to.store(unit * unit_size_ + b, {bytes + (b - piece.start), 1});
    }
}

MediaImage SimMedia::after_power_cut(std::size_t cut, unsigned seed) const {
    const Lock lock(mutex_);
    Moment &moment = move_to_locked(cut);
    MediaEdit edit(moment.medium);
    Outcome outcome(seed, moment.waiting.size());
    for (const auto &[unit, pieces] : moment.waiting) {
        const auto ordered = std::ranges::count(pieces, false, &Piece::non_temporal);
        std::size_t whole = outcome.next_unit(static_cast<std::size_t>(ordered));
        bool torn = false;  // the store after the prefix had its turn
        for (const Piece &piece : pieces) {
            std::uint64_t words = 0;
            if (piece.non_temporal) {
                words = outcome.words();
            } else if (whole > 0) {
                words = kEveryWord;
                --whole;
            } else if (!torn) {
                words = outcome.words();
                torn = true;
            }
            if (words != 0) apply_locked(edit, unit, piece, words);
        }
    }
    return std::move(edit).image();
}

std::size_t SimMedia::undecided(std::size_t cut) const {
    const Lock lock(mutex_);
    return move_to_locked(cut).waiting.size();
}

}  // namespace pmfs::test
