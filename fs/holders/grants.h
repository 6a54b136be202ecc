// The grants on the block map of one file, besides its persistent seal: temporary grants, breakable
// leases and pins (docs/seal.md). All of them end with the server, except the records of those that
// map the device (records.h).
//
// Guarded by the lock of its shard of the LiveTable.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "base/ids.h"
#include "base/process.h"
#include "core/pin_table.h"
#include "core/seal.h"
#include "holders/types.h"

namespace pmfs {

struct Grant {
    GrantId id = 0;
    HandleId handle = 0;
    InodeNo file;
    GrantKind kind = GrantKind::temporary;
    bool may_store = false;
    bool stores = false;    // ... and may have stored: its end updates the file's times
    bool maps = false;      // its holder has the device, or is about to get it
    bool lent = false;      // ... by a descriptor whose end the kernel reports (pm/lending.h)
    bool bound = false;     // a pin that lets the file shrink around its blocks
    bool breaking = false;  // its holder was asked to give it back
    // It freezes a map in which a store could need a block: no store may go through a page cache
    // then.
    bool freezes_gaps = false;
    std::uint32_t uid = 0;
    Process holder;
    FileBlock first, end;   // rounded out to mapping units
    InodeNo record;         // on the medium, while it maps; 0 = none
    std::uint64_t pin = 0;  // a pin that maps: its number in the pin table
    unsigned lendings = 0;  // descriptors that its holder was given
};

inline constexpr const char *kCached =
    "the file is open through the page cache: see pmfsctl holders";

// Why SEAL as-is and grants are EBUSY then: a store by mmap into a hole could fail only later, in
// write-back, where the error is lost.
inline constexpr const char *kGapsCached =
    "the file has holes, unwritten or shared blocks and is open for cached writing: see pmfsctl "
    "holders";

// Why seals and grants are EBUSY with -o writeback: a write behind the end must fail in write(2).
inline constexpr const char *kKeptBack =
    "the file is open for writing through the page cache, which keeps what is written (-o "
    "writeback): see pmfsctl holders, or open it with O_DIRECT";

class InodeGrants {
public:
    bool empty() const { return grants_.empty() && (!pins_ || pins_->count() == 0); }
    core::Standing standing(FileBlock first, FileBlock end) const;
    // ... for an operation that leaves bound blocks in place.
    core::Standing standing_around(FileBlock first, FileBlock end) const;
    bool storing() const { return storing_ != 0; }
    bool may_store() const { return may_store_ != 0; }
    bool freezes_gaps() const { return freezing_gaps_ != 0; }
    std::size_t count() const { return grants_.size() + (pins_ ? pins_->count() : 0); }

    void add(const Grant &grant);
    std::optional<Grant> remove(HandleId handle, GrantId id);
    // A grant that announces its stores is about to store.
    void begin_stores(HandleId handle, GrantId id);
    Grant *find(HandleId handle, GrantId id);
    // Every grant but the pins that map nothing.
    std::vector<Grant> list() const;
    // Those of one handle, for its end.
    std::vector<Grant> of_handle(HandleId handle) const;
    // Marks all leases as asked for; returns those that were not before.
    std::vector<Grant> ask_leases();
    bool leased() const { return breakable_ != 0; }

    // The pins that do not bind blocks, or those that do.
    core::PinTable &pins(bool bound);
    const core::PinTable *pins_if_any(bool bound) const {
        return bound ? bound_.get() : pins_.get();
    }

private:
    std::map<std::pair<HandleId, GrantId>, Grant> grants_;
    unsigned temporary_ = 0, breakable_ = 0, may_store_ = 0, storing_ = 0, freezing_gaps_ = 0;
    std::unique_ptr<core::PinTable> pins_, bound_;
};

}  // namespace pmfs
