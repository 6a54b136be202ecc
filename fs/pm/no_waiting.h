// Reading metadata of an image file without waiting for the disk with a lock held.
//
// A page of an image that was not read yet comes from the disk when it is touched, and the thread
// that touches it waits. So a thread that works under a lock that all others need declares that it
// does not want to wait: the first read of a block that is not in memory (journal/blocks.h) is then
// an error, kAbsentErrno, and noted here. A transaction that met such an error is never committed,
// because the error may have been taken for damage. The thread releases the lock, reads the page
// in, and starts again.
//
// Once a transaction is committed the work must not be repeated, so from then on a read waits, even
// with a lock held; it is rarely one of a page that was not touched before. A page that was read
// once and that the kernel has since evicted is not noticed either.
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
    // With `on` false: this scope may wait, even inside one that may not.
    explicit NoWaiting(bool on = true) : outer_(here_) { here_ = {on, false, {}}; }
    ~NoWaiting() {
        const bool committed = here_.committed;
        here_ = outer_;
        if (committed) end();
    }
    NoWaiting(const NoWaiting &) = delete;
    NoWaiting &operator=(const NoWaiting &) = delete;

    static bool on() { return here_.on; }
    // A transaction was committed.
    static void end() {
        here_.on = false;
        here_.committed = true;
    }
    static void note(const Region &region, std::uint64_t offset) {
        here_.absent = {&region, offset};
    }
    // Whether the thread met a page that is not in memory.
    static bool met() { return here_.absent.region != nullptr; }
    // Returns that page, if there was one, and forgets it.
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

// How often one piece of work is repeated; after that it waits, so that it ends even on a machine
// that evicts pages faster than they are read.
inline constexpr unsigned kReadInsMax = 64;

}  // namespace pmfs::pm
