// Reading metadata of an image file without waiting for the disk with a lock held.
//
// A page of an image that nobody has read yet comes from the disk when it is touched, and whoever
// touches it waits.  So a thread that works under a lock that everybody needs says that it does not
// want to wait: a first read of a block that is not in memory (journal/blocks.h) is then an error,
// kAbsentErrno, and noted here.  No transaction that met one is committed, for somebody may have
// taken the error for damage.  The thread lets go of the lock, reads the page in, and does the same
// again.
//
// Once a transaction is committed the work is not to be done again, so from then on a read waits,
// lock or no lock; it is rarely one of a page that nobody has touched.  Neither is a page noticed
// that was read once and that the kernel has taken out of memory since.
#pragma once
#include <cstdint>
#include <utility>

#include "pm/region.h"

namespace pmfs::pm {

// A page of metadata that is not in memory.
struct Absent {
    const Region *region = nullptr;  // null: none
    std::uint64_t offset = 0;        // bytes
    explicit operator bool() const { return region != nullptr; }
    void read_in() const { region->read_in(offset); }  // blocks
};

// For a scope of this thread.
class NoWaiting {
public:
    // Not `on`: what is done here may wait, whatever is on around it.
    explicit NoWaiting(bool on = true) : outer_(here_) { here_ = {on, false, {}}; }
    ~NoWaiting() {
        const bool committed = here_.committed;
        here_ = outer_;
        if (committed) end();
    }
    NoWaiting(const NoWaiting &) = delete;
    NoWaiting &operator=(const NoWaiting &) = delete;

    static bool on() { return here_.on; }
    // Something was committed.
    static void end() {
        here_.on = false;
        here_.committed = true;
    }
    static void note(const Region &region, std::uint64_t offset) {
        here_.absent = {&region, offset};
    }
    // Whether a page was met that is not in memory.
    static bool met() { return here_.absent.region != nullptr; }
    // The page that was met, if one was: it has been met no more.
    static Absent take() { return std::exchange(here_.absent, {}); }

private:
    struct State {
        bool on;
        bool committed;
        Absent absent;  // the last one
    };
    static inline thread_local constinit State here_{false, false, {}};

    const State outer_;
};

// So often one piece of work is done again; then it waits, so that it ends on a machine that takes
// pages out of memory faster than they are read.
inline constexpr unsigned kReadInsMax = 64;

}  // namespace pmfs::pm
