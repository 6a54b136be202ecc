// Replaying the journal: see replay.h.
#include "journal/replay.h"

#include <memory>

#include "base/bytes.h"

namespace pmfs::journal {

Result<> apply_chain(ChainReader &reader, std::uint64_t end_seq, const Homes &homes,
                     const Apply &apply) {
    while (reader.seq() < end_seq) {
        const auto record = reader.next();
        if (record.empty()) return Error(EIO, "the medium lost a record of the journal");
        TRY(apply_record(record, homes, apply));
    }
    return {};
}

Result<Chain> replay(const pm::Region &region, const media::Superblock &sb, const BootId &boot_id,
                     const Apply &apply) {
    pm::FaultScope faults;
    Chain chain = TRY(verify_chain(region, sb, boot_id));
    if (chain.flaw.kind != Flaw::Kind::none) return corrupt(chain.flaw.sentence);
    const auto buffer = std::make_unique<std::byte[]>(media::kRecordSizeMax);
    ChainReader reader(region, ring_place(sb), chain.ring.secret, chain.ring.tail_seq,
                       chain.ring.tail_offset, {buffer.get(), media::kRecordSizeMax});
    TRY(apply_chain(reader, chain.last_seq + 1, Homes(sb), apply));
    if (faults.met())
        return Error(EIO,
                     "the medium failed while the journal was replayed (is the disk below the "
                     "image full?)");
    return chain;
}

}  // namespace pmfs::journal
