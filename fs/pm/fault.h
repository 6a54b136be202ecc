// SIGBUS: what happens when a load or store meets a page that the medium cannot give (poison, a
// truncated image, a hole on a full disk).  docs/persistence.md "SIGBUS" has the contract.
//
// The handler never jumps.  It finds the region that holds the address, notes the unit as lost,
// maps zeroes over it, sets the thread's fault flag and returns; the access then goes on with
// zeroes and the flag turns its result into EIO.  For an address outside of all regions the earlier
// handler is called, or the process dies as it would have without this one.
//
// Memory that a client shares with us (a guest's) may be taken away at any time, too. That has a
// flag of its own, because it is no failure of the medium: take_client_fault().  Each lost unit
// takes a mapping of the process, and memory when it is stored to, so the client must not be let to
// lose as many as it likes: code that uses its memory asks UnitSet::count().
#pragma once
#include <cstddef>
#include <cstdint>

#include "pm/unit_set.h"

namespace pmfs::pm {

// Lets the handler serve a mapping as long as this object lives.  `start` is offset 0 of the medium
// whose lost units are noted in `lost`, which must outlive this and stay where it is.  Install the
// guard after the mapping and destroy it before.
class FaultGuard {
public:
    enum class Whose : bool { medium, client };
    FaultGuard() = default;
    FaultGuard(std::byte *start, std::uint64_t size, UnitSet &lost, Whose whose = Whose::medium);
    FaultGuard(FaultGuard &&o) noexcept : watch_(std::exchange(o.watch_, nullptr)) {}
    FaultGuard &operator=(FaultGuard &&o) noexcept {
        std::swap(watch_, o.watch_);
        return *this;
    }
    ~FaultGuard();
    // The mapping has become longer.
    void extend(std::uint64_t size);

    struct Watch;

private:
    Watch *watch_ = nullptr;
};

// Sets the calling thread's fault flag, as the handler does: for an error that a system call on
// the medium reported (a failed pwrite stands for a store that would have been a SIGBUS).
void raise_fault();

}  // namespace pmfs::pm
