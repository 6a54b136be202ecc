// Replay, then a clean header: see recover.h.
#include "journal/recover.h"

#include <utility>

namespace pmfs::journal {

Result<Chain> recover(pm::Region &region, const media::Superblock &sb, const BootId &boot_id) {
    TRY(trust_cache(region, sb));
    pm::Unfenced owed;
    const auto replayed = replay(region, sb, boot_id, [&](std::uint64_t at, auto bytes) {
        if (region.is_image())
            region.store_home(at, bytes);
        else
            owed.add(region.store_meta(at, bytes));
    });
    if (owed.owed()) region.fence(std::move(owed));
    if (!replayed.ok() || replayed.value().ring.clean()) return replayed;
    if (region.is_image()) TRY(region.sync());

    // Empty and clean, with a secret that no record was ever made with.
    const Chain &chain = replayed.value();
    const RingState clean{chain.ring.generation + 1, chain.last_seq + 1, 0, TRY(random_secret()),
                          BootId{}};
    const RingPlace place = ring_place(sb);
    TRY(write_ring_headers(region, place, sb.header.fsid.get(), clean));
    TRY(check_ring_headers_kept(region, place, sb.header.fsid.get(), clean));
    if (region.is_image()) TRY(region.sync());
    return replayed;
}

}  // namespace pmfs::journal
