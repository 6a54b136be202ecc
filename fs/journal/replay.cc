// Replaying the journal: see replay.h.
#include "journal/replay.h"

#include <memory>
#include <utility>

#include "base/bytes.h"

namespace pmfs::journal {

namespace {

Result<> trust_cache(pm::Region &region, const media::Superblock &sb) {
    if (!region.is_image()) return {};
    const auto synced = region.sync();
    if (synced.ok()) return {};
    RingState ring = TRY(read_ring_header(region, sb));
    if (!ring.clean()) {
        ++ring.generation;
        ring.boot_id = kLostCache;
        static_cast<void>(write_ring_headers(region, ring_place(sb), sb.header.fsid.get(), ring));
    }
    return synced.error();
}

Result<Chain> sound_chain(const pm::Region &region, const media::Superblock &sb,
                          const BootId &boot_id) {
    Chain chain = TRY(verify_chain(region, sb, boot_id));
    if (chain.flaw.kind != Flaw::Kind::none) return corrupt(chain.flaw.sentence);
    return chain;
}

Result<> apply_all(const pm::Region &region, const media::Superblock &sb, const Chain &chain,
                   const Apply &apply) {
    pm::FaultScope faults;
    const auto buffer = std::make_unique<std::byte[]>(media::kRecordSizeMax);
    ChainReader reader(region, ring_place(sb), chain.ring.secret, chain.ring.tail_seq,
                       chain.ring.tail_offset, {buffer.get(), media::kRecordSizeMax});
    TRY(apply_chain(reader, chain.last_seq + 1, Homes(sb), apply));
    if (faults.met())
        return Error(EIO,
                     "the medium failed while the journal was replayed (is the disk below the "
                     "image full?)");
    return {};
}

}  // namespace

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
    Chain chain = TRY(sound_chain(region, sb, boot_id));
    TRY(apply_all(region, sb, chain, apply));
    return chain;
}

Result<Chain> replay_home(pm::Region &region, const media::Superblock &sb, const BootId &boot_id) {
    TRY(trust_cache(region, sb));
    Chain chain = TRY(sound_chain(region, sb, boot_id));
    if (chain.records == 0) return chain;
    if (!region.is_image()) {
        pm::Unfenced owed;
        const auto applied = apply_all(region, sb, chain, [&](std::uint64_t at, auto bytes) {
            owed.add(region.store_meta(at, bytes));
        });
        if (owed.owed()) region.fence(std::move(owed));
        TRY(applied);
        return chain;
    }
    if (!chain.power_was_cut) {
        ++chain.ring.generation;
        chain.ring.covers = chain.last_seq;
        TRY(write_ring_headers(region, ring_place(sb), sb.header.fsid.get(), chain.ring));
    }
    TRY(apply_all(region, sb, chain,
                  [&](std::uint64_t at, auto bytes) { region.store_home(at, bytes); }));
    TRY(region.sync());
    return chain;
}

}  // namespace pmfs::journal
