// The SIGBUS handler and its registry.  Everything that the handler uses is lock-free: atomics,
// memory that is never freed, and three system calls (mmap, sigaction, raise).
#include "pm/fault.h"

#include <atomic>
#include <csignal>
#include <mutex>

#include "base/assert.h"
#include "base/bytes.h"
#include "pm/region.h"

namespace pmfs::pm {

// One watched mapping.  Watches are never freed, only taken into use again, so that the handler
// may walk the list at any moment; `size` is 0 while it is unused.
struct FaultGuard::Watch {
    std::atomic<std::uintptr_t> start = 0;
    std::atomic<std::uint64_t> size = 0;
    std::atomic<UnitSet *> lost = nullptr;
    std::atomic<Whose> whose = Whose::medium;
    std::atomic<bool> taken = false;
    Watch *next = nullptr;  // written once, before the watch is in the list
};

namespace {

std::atomic<FaultGuard::Watch *> watches = nullptr;
struct sigaction previous;
constinit thread_local volatile std::sig_atomic_t fault_flag = 0, client_fault_flag = 0;

bool take(volatile std::sig_atomic_t &flag) {
    if (flag == 0) [[likely]]
        return false;
    flag = 0;
    return true;
}

bool map_zeroes(std::uintptr_t at, std::uint64_t size) {
    return ::mmap(reinterpret_cast<void *>(at), size, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) != MAP_FAILED;
}

// Of a client's mapping.  A process may have 65,530 mappings (vm.max_map_count), and each lost unit
// may take two of them.
constexpr std::uint64_t kClientUnitsMax = 1024;

// Maps zeroes over the unit that holds `address`; over the whole mapping if its client has taken
// away so much that only requests from before use it (UnitSet::count()).
bool replace_unit(FaultGuard::Watch &watch, std::uintptr_t address) {
    UnitSet &lost = *watch.lost.load(std::memory_order_acquire);
    const std::uint64_t unit = lost.unit();
    const std::uintptr_t start = watch.start.load();
    const std::uint64_t offset = align_down(address - start, unit);
    lost.add(offset);  // before the zeroes can be seen, so that no reader takes them for data
    if (watch.whose.load() == FaultGuard::Whose::client && lost.count() > kClientUnitsMax)
        return map_zeroes(start, watch.size.load(std::memory_order_acquire));
    return map_zeroes(start + offset, unit);
}

// What happens without pmfs.
void chain(int signal_number, siginfo_t *info, void *context) {
    if ((previous.sa_flags & SA_SIGINFO) != 0) {
        previous.sa_sigaction(signal_number, info, context);
    } else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
        previous.sa_handler(signal_number);
    } else if (info->si_code > 0 || previous.sa_handler == SIG_DFL) {
        struct sigaction fatal {};
        fatal.sa_handler = SIG_DFL;
        ::sigaction(SIGBUS, &fatal, nullptr);
        // A fault happens again when the handler returns, and kills the process; a signal that was
        // sent does not.
        if (info->si_code <= 0) ::raise(SIGBUS);
    }
}

void on_sigbus(int signal_number, siginfo_t *info, void *context) {
    const int saved_errno = errno;
    const auto address = reinterpret_cast<std::uintptr_t>(info->si_addr);
    bool handled = false;
    if (info->si_code > 0) {  // a fault, not a signal that was sent
        for (FaultGuard::Watch *w = watches.load(std::memory_order_acquire); w != nullptr;
             w = w->next) {
            if (address - w->start.load() >= w->size.load(std::memory_order_acquire)) continue;
            // "Action optional": the kernel found poison that has not been accessed yet.  A thread
            // that accesses it gets a signal of its own.
            handled = info->si_code == BUS_MCEERR_AO || replace_unit(*w, address);
            if (info->si_code != BUS_MCEERR_AO)
                (w->whose.load() == FaultGuard::Whose::client ? client_fault_flag : fault_flag) = 1;
            break;
        }
    }
    if (!handled) chain(signal_number, info, context);
    errno = saved_errno;
}

void install_handler() {
    struct sigaction action {};
    action.sa_sigaction = on_sigbus;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
    ::sigemptyset(&action.sa_mask);
    PMFS_ASSERT(::sigaction(SIGBUS, &action, &previous) == 0);
}

FaultGuard::Watch *take_watch() {
    for (FaultGuard::Watch *w = watches.load(std::memory_order_acquire); w != nullptr; w = w->next)
        if (!w->taken.exchange(true)) return w;
    auto *const made = new FaultGuard::Watch;
    made->taken = true;
    made->next = watches.load(std::memory_order_relaxed);
    while (!watches.compare_exchange_weak(made->next, made, std::memory_order_acq_rel)) {
    }
    return made;
}

}  // namespace

FaultGuard::FaultGuard(std::byte *start, std::uint64_t size, UnitSet &lost, Whose whose) {
    static std::once_flag installed;
    std::call_once(installed, install_handler);
    watch_ = take_watch();
    watch_->start = reinterpret_cast<std::uintptr_t>(start);
    watch_->lost = &lost;
    watch_->whose = whose;
    watch_->size.store(size, std::memory_order_release);
}

FaultGuard::~FaultGuard() {
    if (watch_ == nullptr) return;
    watch_->size = 0;
    watch_->taken = false;
}

void FaultGuard::extend(std::uint64_t size) {
    watch_->size.store(size, std::memory_order_release);
}

void raise_fault() {
    fault_flag = 1;
}

bool take_fault() {
    return take(fault_flag);
}

bool take_client_fault() {
    return take(client_fault_flag);
}

FaultScope::FaultScope() : outer_(take_fault()), outer_client_(take_client_fault()) {}
FaultScope::~FaultScope() {
    fault_flag = outer_ ? 1 : 0;
    client_fault_flag = outer_client_ ? 1 : 0;
}

}  // namespace pmfs::pm
