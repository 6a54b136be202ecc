// Replaying the journal: what a mount and fsck store home before they read a volume. It adds no
// records, so it may be interrupted and run again.
#pragma once
#include <cstdint>

#include "base/result.h"
#include "journal/chain.h"
#include "journal/ring.h"
#include "media/format.h"
#include "pm/region.h"

namespace pmfs::journal {

// Hands each logged run of lines of each record that counts, oldest first, to `apply` (offset in
// the region, bytes): all of them, or none.
// EUCLEAN: verify_chain's, and a chain with a flaw; EIO: the journal cannot be read.
Result<Chain> replay(const pm::Region &region, const media::Superblock &superblock,
                     const BootId &boot_id, const Apply &apply);
// Stores them home, and makes them durable there; the ring stays as it is.
// An image is synced before its ring is looked at, and that is EIO if pages could not be written
// after the last server had died: the kernel says so to the first who syncs the file and to nobody
// else, so a header is left that tells the next mount.  Before the first store a header says that
// the records are covered: of homes that reached the disk before a power cut none may be later than
// the last record that counts.
Result<Chain> replay_home(pm::Region &region, const media::Superblock &superblock,
                          const BootId &boot_id);

// Hands out the records of a verified chain up to `end_seq`, exclusive. EIO: the medium does not
// return the same bytes any more.
Result<> apply_chain(ChainReader &reader, std::uint64_t end_seq, const Homes &homes,
                     const Apply &apply);

}  // namespace pmfs::journal
