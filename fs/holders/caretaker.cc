// Waiting for leases and processes: see caretaker.h.
#include "holders/caretaker.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <limits>

#include "base/clock.h"
#include "base/thread.h"
#include "pm/region.h"

namespace pmfs {

namespace {
constexpr std::uint64_t kMillisecond = 1'000'000;
constexpr std::uint64_t kLookEvery = 250 * kMillisecond;
constexpr std::uint64_t kWakeKey = 0;  // no record's number
constexpr std::uint32_t kSystem = 0;   // for work that no user waits for
}  // namespace

Caretaker::Caretaker(Callbacks callbacks, FairPool *pool)
    : callbacks_(std::move(callbacks)),
      pool_(pool),
      wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      epoll_(::epoll_create1(EPOLL_CLOEXEC)) {}

Caretaker::~Caretaker() {
    stop();
}

void Caretaker::stop() {
    std::thread thread;
    // Waiting operations are dropped without the lock: their destructors take other locks.
    std::map<std::uint64_t, Break> breaks;
    std::vector<Waiting> ready;
    std::multimap<std::uint64_t, Waiting> timed;
    {
        Lock held(mutex_);
        stopping_ = true;
        breaks.swap(breaks_);
        ready.swap(ready_);
        timed.swap(timed_);
        processes_.clear();
        looked_for_.clear();
        if (thread_.joinable()) wake();
        thread.swap(thread_);
    }
    if (thread.joinable()) thread.join();
}

// Now, and not when a request has to wait: then the lack of a thread could not be reported.
Result<> Caretaker::start() {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = kWakeKey;
    if (!wake_.ok() || !epoll_.ok() ||
        ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, wake_.get(), &event) != 0)
        return Error(EMFILE, "too few descriptors to watch processes with");
    if (pool_ == nullptr) return {};
    auto started = TRY(start_thread("pmfs-caretaker", [this] { loop(); }));
    Lock held(mutex_);
    thread_ = std::move(started);
    return {};
}

void Caretaker::wake() {
    const std::uint64_t one = 1;
    (void)!::write(wake_.get(), &one, sizeof one);  // fails only if it is awake already
}

void Caretaker::begin_break(InodeNo ino, std::uint64_t deadline_ns) {
    Lock held(mutex_);
    if (stopping_ || !breaks_.try_emplace(ino.value(), Break{deadline_ns, false, {}}).second)
        return;
    wake();
}

bool Caretaker::breaking(InodeNo ino) {
    Lock held(mutex_);
    return breaks_.contains(ino.value());
}

std::optional<std::uint32_t> Caretaker::time_left_ms(InodeNo ino, std::uint64_t now_ns) {
    Lock held(mutex_);
    const auto found = breaks_.find(ino.value());
    if (found == breaks_.end()) return std::nullopt;
    const std::uint64_t deadline = found->second.deadline_ns;
    const std::uint64_t left = deadline > now_ns ? (deadline - now_ns) / kMillisecond : 0;
    return static_cast<std::uint32_t>(
        std::clamp<std::uint64_t>(left, 1, std::numeric_limits<std::uint32_t>::max()));
}

bool Caretaker::has_turns(InodeNo ino) {
    Lock held(mutex_);
    return turns_.contains(ino.value());
}

void Caretaker::make_ready(Waiting waiting) {
    if (waiting.ino != 0) ++turns_[waiting.ino];
    ready_.push_back(std::move(waiting));
    wake();
}

void Caretaker::wait(InodeNo ino, std::uint32_t user, std::function<void()> again) {
    Lock held(mutex_);
    if (stopping_) return;
    Waiting waiting{ino.value(), user, std::move(again)};
    const auto found = breaks_.find(ino.value());
    if (found != breaks_.end()) return found->second.waiting.push_back(std::move(waiting));
    make_ready(std::move(waiting));  // the break ended meanwhile
}

void Caretaker::run(std::function<void()> again) {
    Lock held(mutex_);
    if (!stopping_) make_ready({0, kSystem, std::move(again)});
}

void Caretaker::run_at(std::uint64_t at_ns, std::uint32_t user, std::function<void()> again) {
    Lock held(mutex_);
    if (stopping_) return;
    timed_.emplace(at_ns, Waiting{0, user, std::move(again)});
    wake();
}

void Caretaker::leases_gone(InodeNo ino) {
    Lock held(mutex_);
    const auto found = breaks_.find(ino.value());
    if (found == breaks_.end()) return;
    for (Waiting &waiting : found->second.waiting) make_ready(std::move(waiting));
    breaks_.erase(found);
    wake();
}

void Caretaker::watch(InodeNo record, FileDescriptor process, bool look) {
    Lock held(mutex_);
    if (stopping_) return;
    if (process.ok()) {
        epoll_event event{};
        event.events = EPOLLIN;
        event.data.u64 = record.value();
        const bool watched = ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, process.get(), &event) == 0;
        // If the kernel cannot watch one more process, its end is polled for.
        if (watched) processes_.insert_or_assign(record.value(), std::move(process));
        look = look || !watched;
    }
    if (look) looked_for_.insert(record.value());
    wake();
}

void Caretaker::forget(InodeNo record) {
    Lock held(mutex_);
    processes_.erase(record.value());
    looked_for_.erase(record.value());
}

// --- what is due

std::vector<InodeNo> Caretaker::late(std::uint64_t now_ns) {
    std::vector<InodeNo> all;
    for (auto &[ino, one] : breaks_)
        if (one.deadline_ns <= now_ns && !std::exchange(one.revoking, true))
            all.push_back(InodeNo(ino));
    return all;
}

std::vector<InodeNo> Caretaker::ended() {
    std::vector<InodeNo> all;
    epoll_event events[64];
    for (;;) {
        const int ready = ::epoll_wait(epoll_.get(), events, 64, 0);
        int news = 0;
        for (int i = 0; i < ready; ++i) {
            const std::uint64_t key = events[i].data.u64;
            std::uint64_t count;
            if (key == kWakeKey) {
                (void)!::read(wake_.get(), &count, sizeof count);
                continue;
            }
            processes_.erase(key);  // closing it ends the watch
            all.push_back(InodeNo(key));
            ++news;
        }
        if (news == 0) return all;
    }
}

std::vector<InodeNo> Caretaker::looks(std::uint64_t now_ns) {
    std::vector<InodeNo> all;
    if (next_look_ns_ > now_ns || looking_ || looked_for_.empty()) return all;
    for (const std::uint64_t record : looked_for_) all.push_back(InodeNo(record));
    looking_ = true;
    return all;
}

void Caretaker::dispatch(std::uint32_t user, std::uint64_t file, std::function<void()> what) {
    auto run = [what = std::move(what)] {
        const pm::FaultScope faults;
        what();
    };
    if (pool_ == nullptr || !pool_->submit({user, file, run})) run();
}

void Caretaker::had_turn(std::uint64_t ino) {
    Lock held(mutex_);
    const auto turn = turns_.find(ino);
    if (turn != turns_.end() && --turn->second == 0) turns_.erase(turn);
}

void Caretaker::tend(std::uint64_t now_ns) {
    std::vector<InodeNo> late_ones, ended_ones, look_at;
    {
        Lock held(mutex_);
        late_ones = late(now_ns);
        ended_ones = ended();
        look_at = looks(now_ns);
        for (; !timed_.empty() && timed_.begin()->first <= now_ns; timed_.erase(timed_.begin()))
            ready_.push_back(std::move(timed_.begin()->second));
    }
    for (const InodeNo ino : late_ones)
        dispatch(kSystem, ino.value(), [this, ino] {
            callbacks_.revoke(ino);
            leases_gone(ino);
        });
    for (const InodeNo record : ended_ones)
        dispatch(kSystem, record.value(), [this, record] { callbacks_.process_ended(record); });
    if (!look_at.empty())
        dispatch(kSystem, look_at[0].value(), [this, look_at, now_ns] {
            for (const InodeNo record : look_at) callbacks_.look_again(record);
            Lock held(mutex_);
            looking_ = false;
            next_look_ns_ = now_ns + kLookEvery;
            wake();
        });
    std::vector<Waiting> ready;
    {
        Lock held(mutex_);
        ready.swap(ready_);
    }
    for (Waiting &one : ready)
        dispatch(one.user, one.ino, [this, ino = one.ino, again = std::move(one.again)] {
            again();
            had_turn(ino);
        });
}

int Caretaker::milliseconds_left() {
    Lock held(mutex_);
    if (!ready_.empty()) return 0;
    std::uint64_t first = std::numeric_limits<std::uint64_t>::max();
    for (const auto &[ino, one] : breaks_)
        if (!one.revoking) first = std::min(first, one.deadline_ns);
    if (!timed_.empty()) first = std::min(first, timed_.begin()->first);
    if (!looked_for_.empty() && !looking_) first = std::min(first, next_look_ns_);
    if (first == std::numeric_limits<std::uint64_t>::max()) return -1;
    const std::uint64_t now = monotonic_ns();
    if (first <= now) return 0;
    const std::uint64_t left = (first - now + kMillisecond - 1) / kMillisecond;
    return static_cast<int>(std::min<std::uint64_t>(left, std::numeric_limits<int>::max()));
}

void Caretaker::loop() {
    for (;;) {
        {
            Lock held(mutex_);
            if (stopping_) return;
        }
        epoll_event event;
        (void)::epoll_wait(epoll_.get(), &event, 1, milliseconds_left());
        tend(monotonic_ns());
    }
}

}  // namespace pmfs
