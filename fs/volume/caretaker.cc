// Waiting for leases and processes: see caretaker.h.
#include "volume/caretaker.h"

#include <poll.h>
#include <signal.h>
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
}  // namespace

Caretaker::Caretaker(Duties duties, bool without_thread)
    : duties_(std::move(duties)),
      without_thread_(without_thread),
      wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

Caretaker::~Caretaker() {
    stop();
}

void Caretaker::stop() {
    std::thread thread;
    {
        Lock held(mutex_);
        stopping_ = true;
        breaks_.clear();
        ready_.clear();
        processes_.clear();
        looked_for_.clear();
        if (thread_.joinable()) wake();
        thread.swap(thread_);
    }
    if (thread.joinable()) thread.join();
}

// At once and not when somebody has to wait: it could not be told that there is no thread.
Result<> Caretaker::start() {
    if (without_thread_) return {};
    auto started = TRY(start_thread("pmfs-caretaker", [this] { loop(); }));
    Lock held(mutex_);
    thread_ = std::move(started);
    return {};
}

void Caretaker::wake() {
    const std::uint64_t one = 1;
    (void)!::write(wake_.get(), &one, sizeof one);  // only fails when it is already awake
}

void Caretaker::begin_break(InodeNo ino, std::uint64_t deadline_ns) {
    Lock held(mutex_);
    if (stopping_ || !breaks_.try_emplace(ino.value(), Break{deadline_ns, {}}).second) return;
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

void Caretaker::make_ready(std::uint64_t ino, std::function<void()> again) {
    ready_.push_back({ino, std::move(again)});
    if (ino != 0) ++turns_[ino];
}

void Caretaker::wait(InodeNo ino, std::function<void()> again) {
    Lock held(mutex_);
    if (stopping_) return;
    const auto found = breaks_.find(ino.value());
    if (found != breaks_.end()) {
        found->second.waiting.push_back(std::move(again));
        return;
    }
    make_ready(ino.value(), std::move(again));  // it ended while the operation was on its way here
    wake();
}

void Caretaker::run(std::function<void()> again) {
    Lock held(mutex_);
    if (stopping_) return;
    make_ready(0, std::move(again));
    wake();
}

void Caretaker::leases_gone(InodeNo ino) {
    Lock held(mutex_);
    const auto found = breaks_.find(ino.value());
    if (found == breaks_.end()) return;
    for (auto &again : found->second.waiting) make_ready(ino.value(), std::move(again));
    breaks_.erase(found);
    wake();
}

void Caretaker::watch(InodeNo record, FileDescriptor process, bool look) {
    Lock held(mutex_);
    if (stopping_) return;
    if (process.ok()) processes_.insert_or_assign(record.value(), std::move(process));
    if (look) looked_for_.insert(record.value());
    wake();
}

void Caretaker::forget(InodeNo record) {
    Lock held(mutex_);
    processes_.erase(record.value());
    looked_for_.erase(record.value());
}

void Caretaker::tend(std::uint64_t now_ns) {
    std::vector<InodeNo> late, ended, looks;
    {
        Lock held(mutex_);
        for (const auto &[ino, one] : breaks_)
            if (one.deadline_ns <= now_ns) late.push_back(InodeNo(ino));
        for (const auto &[record, process] : processes_) {
            pollfd state{process.get(), POLLIN, 0};
            if (::poll(&state, 1, 0) > 0) ended.push_back(InodeNo(record));
        }
        for (const InodeNo record : ended) processes_.erase(record.value());
        if (next_look_ns_ <= now_ns) {
            for (const std::uint64_t record : looked_for_) looks.push_back(InodeNo(record));
            next_look_ns_ = now_ns + kLookEvery;
        }
    }
    for (const InodeNo ino : late) {
        const pm::FaultScope faults;
        duties_.revoke(ino);
        leases_gone(ino);
    }
    for (const InodeNo record : ended) {
        const pm::FaultScope faults;
        duties_.process_ended(record);
    }
    for (const InodeNo record : looks) {
        const pm::FaultScope faults;
        duties_.look_again(record);
    }
    std::vector<Ready> ready;
    {
        Lock held(mutex_);
        ready.swap(ready_);
    }
    for (const Ready &one : ready) {
        const pm::FaultScope faults;
        one.again();
        Lock held(mutex_);
        const auto turn = turns_.find(one.ino);
        if (turn != turns_.end() && --turn->second == 0) turns_.erase(turn);
    }
}

int Caretaker::milliseconds_left() {
    Lock held(mutex_);
    if (!ready_.empty()) return 0;
    std::uint64_t first = std::numeric_limits<std::uint64_t>::max();
    for (const auto &[ino, one] : breaks_) first = std::min(first, one.deadline_ns);
    if (!looked_for_.empty()) first = std::min(first, next_look_ns_);
    if (first == std::numeric_limits<std::uint64_t>::max()) return -1;
    const std::uint64_t now = monotonic_ns();
    if (first <= now) return 0;
    const std::uint64_t left = (first - now + kMillisecond - 1) / kMillisecond;
    return static_cast<int>(std::min<std::uint64_t>(left, std::numeric_limits<int>::max()));
}

void Caretaker::loop() {
    for (;;) {
        std::vector<pollfd> events{{wake_.get(), POLLIN, 0}};
        {
            Lock held(mutex_);
            if (stopping_) return;
            for (const auto &[record, process] : processes_)
                events.push_back({process.get(), POLLIN, 0});
        }
        (void)!::poll(events.data(), events.size(), milliseconds_left());
        std::uint64_t count;
        if (events[0].revents != 0) (void)!::read(wake_.get(), &count, sizeof count);
        tend(monotonic_ns());
    }
}

}  // namespace pmfs
