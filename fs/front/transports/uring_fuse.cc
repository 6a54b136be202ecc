// Making rings and their threads, starting all together, and ending them.
#include "front/transports/uring_fuse.h"

#include <sched.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <fstream>
#include <string>
#include <string_view>

#include "base/thread.h"

namespace pmfs::front {
namespace {

// The limit of memory that empty entries of all rings keep.
constexpr std::size_t kResidentMax = std::size_t{64} << 20,
                      kResidentOfOneMin = std::size_t{1} << 20;

std::string first_line(const char *path) {
    std::ifstream file(path);
    std::string line;
    std::getline(file, line);
    return line;
}

// "0-3,8": sysfs' lists of CPUs.
std::vector<unsigned> cpus_of(std::string_view list) {
    std::vector<unsigned> cpus;
    while (!list.empty()) {
        const std::string_view range = list.substr(0, list.find(','));
        list.remove_prefix(std::min(list.size(), range.size() + 1));
        unsigned first = 0, last = 0;
        const auto [end, error] = std::from_chars(range.begin(), range.end(), first);
        if (error != std::errc()) return {};
        last = first;
        if (end != range.end()) std::from_chars(end + 1, range.end(), last);
        for (unsigned cpu = first; cpu <= last; ++cpu) cpus.push_back(cpu);
    }
    return cpus;
}

// Whether this process may run on all of them.
bool may_run_on(const std::vector<unsigned> &cpus) {
    // As large as the kernel's own mask, or the call fails.
    constexpr std::size_t kCpusMax = 8192;
    std::vector<cpu_set_t> set(kCpusMax / CPU_SETSIZE);
    const std::size_t size = set.size() * sizeof(cpu_set_t);
    if (::sched_getaffinity(0, size, set.data()) != 0) return false;
    return std::ranges::all_of(
        cpus, [&](unsigned cpu) { return CPU_ISSET_S(cpu, size, set.data()) != 0; });
}

Result<> offered() {
    constexpr const char *kSwitch = "/sys/module/fuse/parameters/enable_uring";
    const std::string is = first_line(kSwitch);
    if (is.empty()) return Error(EOPNOTSUPP, "this kernel has no FUSE over io_uring");
    if (is != "Y")
        return Error(EOPNOTSUPP,
                     "FUSE over io_uring is switched off (write Y to "
                     "/sys/module/fuse/parameters/enable_uring)");
    return {};
}

}  // namespace

Result<std::unique_ptr<UringFuse>> UringFuse::make(Dispatcher &dispatcher, Traffic &traffic,
                                                   int device, int ended) {
    TRY(offered());
    const std::size_t queues = cpus_of(first_line("/sys/devices/system/cpu/possible")).size();
    std::vector<unsigned> here = cpus_of(first_line("/sys/devices/system/cpu/online"));
    std::erase_if(here, [queues](unsigned cpu) { return cpu >= queues; });
    if (here.empty()) return Error(EOPNOTSUPP, "the list of CPUs cannot be read");
    if (!may_run_on(here))
        return Error(EOPNOTSUPP, "the server may not run on all CPUs, each of which has a queue");

    std::vector<std::vector<unsigned>> served;  // queues, by the ring
    for (const unsigned cpu : here) served.push_back({cpu});
    std::size_t next = 0;
    for (unsigned queue = 0; queue < queues; ++queue)  // also those of CPUs that may come online
        if (std::ranges::find(here, queue) == here.end())
            served[next++ % served.size()].push_back(queue);

    std::unique_ptr<UringFuse> made(new UringFuse(ended, queues));
    const std::size_t resident = std::max(kResidentMax / here.size(), kResidentOfOneMin);
    for (std::size_t i = 0; i < here.size(); ++i)
        made->rings_.push_back(std::make_unique<FuseRing>(dispatcher, traffic, device, here[i],
                                                          std::move(served[i]), resident));
    for (const auto &ring : made->rings_)
        made->threads_.push_back(
            TRY(start_thread("pmfs-ring", [raw = made.get(), &ring = *ring] { raw->run(ring); })));
    TRY(made->all_reported());
    return made;
}

UringFuse::~UringFuse() {
    join();
}

Result<> UringFuse::start() {
    reach(Phase::enlisting);
    TRY(all_reported());
    started_ = true;
    reach(Phase::serving);
    return {};
}

void UringFuse::stop() {
    if (!started_) return;
    for (const auto &ring : rings_) ring->hold();
}

void UringFuse::join() {
    reach(Phase::ending);
    for (const auto &ring : rings_) ring->end();
    for (std::thread &thread : threads_) thread.join();
    threads_.clear();
    rings_.clear();
}

void UringFuse::run(FuseRing &ring) {
    report(ring.set_up());
    if (!reached(Phase::enlisting)) return;
    report(ring.enlist());
    if (!reached(Phase::serving)) return;
    if (const Result<> served = ring.serve(); !served.ok()) {
        spdlog::error("{} ({})", served.error().what(),
                      std::strerror(served.error().errno_value()));
        failed_ = true;
    }
    ::eventfd_write(ended_, 1);
}

// --- phases: all threads begin one together

void UringFuse::reach(Phase phase) {
    Lock held(mutex_);
    phase_ = phase;
    reports_ = 0;
    changed_.notify_all();
}

// Waits for the phase.  False: the threads are to end instead.
bool UringFuse::reached(Phase phase) {
    Lock held(mutex_);
    while (phase_ < phase) changed_.wait(mutex_);
    return phase_ == phase;
}

void UringFuse::report(const Result<> &done) {
    Lock held(mutex_);
    ++reports_;
    if (report_.ok()) report_ = done;
    changed_.notify_all();
}

Result<> UringFuse::all_reported() {
    Lock held(mutex_);
    while (reports_ < threads_.size()) changed_.wait(mutex_);
    return report_;
}

}  // namespace pmfs::front
