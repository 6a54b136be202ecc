// Replay, then a clean header: see recover.h.
#include "journal/recover.h"

#include <sys/random.h>

#include <cstring>
#include <utility>

#include "base/bytes.h"
#include "media/verify.h"

namespace pmfs::journal {
namespace {

// The header that stands behind `ring`: clean, empty, in the other slot, with a secret that no
// record was ever made with.
Result<pm::Unfenced> write_clean_header(pm::Region &region, const media::Superblock &sb,
                                        const RingState &ring, std::uint64_t next_seq) {
    media::RingHeader header{};
    const std::uint64_t block = sb.journal_start.get() + (ring.slot ^ 1u);
    header.header = media::header_of(media::Magic::ring_header, sb.header.fsid.get(), block, 0);
    header.generation.set(ring.generation + 1);
    header.tail_seq.set(next_seq);
    if (::getrandom(header.secret, sizeof header.secret, 0) !=
        static_cast<ssize_t>(sizeof header.secret))
        return Error(EIO, "the kernel gives no random numbers");
    media::seal_block(header);
    return region.write(block * media::kBlockSize, bytes_of(header));
}

}  // namespace

Result<ReplayReport> recover(pm::Region &region, const media::Superblock &sb,
                             const BootId &boot_id) {
    pm::Unfenced owed;
    const auto report = replay(region, sb, boot_id, [&](std::uint64_t at, auto bytes) {
        if (region.is_image())
            region.store_home(at, bytes);
        else
            owed.add(region.store_meta(at, bytes));
    });
    region.fence(std::move(owed));
    if (!report.ok() || report.value().ring.clean()) return report;
    if (region.is_image()) TRY(region.sync());

    const ReplayReport &done = report.value();
    region.fence(TRY(write_clean_header(region, sb, done.ring, done.last_seq + 1)));
    if (region.is_image()) TRY(region.sync());
    return report;
}

}  // namespace pmfs::journal
