// Replay, then a clean header: see recover.h.
#include "journal/recover.h"

#include <utility>

namespace pmfs::journal {

Result<Chain> recover(pm::Region &region, const media::Superblock &sb, const BootId &boot_id) {
    const auto replayed = replay_home(region, sb, boot_id);
    if (!replayed.ok() || replayed.value().ring.clean()) return replayed;

    // Empty and clean, with a secret that no record was ever made with.
    const Chain &chain = replayed.value();
    const RingState clean{
        chain.ring.generation + 1, chain.last_seq + 1, 0, 0, TRY(random_secret()), BootId{}};
    const RingPlace place = ring_place(sb);
    TRY(write_ring_headers(region, place, sb.header.fsid.get(), clean));
    TRY(check_ring_headers_kept(region, place, sb.header.fsid.get(), clean));
    if (region.is_image()) TRY(region.sync());
    return replayed;
}

}  // namespace pmfs::journal
