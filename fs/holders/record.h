// The contents of a grant record (media/format.h "GrantHolder"), and sets of device blocks.
#pragma once
#include <cstring>
#include <vector>

#include "base/ids.h"
#include "base/process.h"
#include "core/quarantine.h"
#include "media/format.h"

namespace pmfs {

inline constexpr FileBlock kAllBlocks(~std::uint64_t{0} >> 1);
// The place in a record's map of a block that it claims.
inline FileBlock claim_of(BlockNo block) {
    return FileBlock(block.value());
}

inline media::GrantHolder holder_of(const media::Inode &record) {
    media::GrantHolder holder;
    static_assert(sizeof holder == sizeof record.seal_digest);
    std::memcpy(static_cast<void *>(&holder), record.seal_digest, sizeof holder);
    return holder;
}
inline void store_holder(media::Inode *record, const media::GrantHolder &holder) {
    std::memcpy(record->seal_digest, &holder, sizeof holder);
}

// All zero in a record of minor version 1: nothing is known.
inline media::GrantPlace place_of(const media::Inode &record) {
    media::GrantPlace place{};
    if ((holder_of(record).flags.get() & media::kGrantPlaced) != 0)
        std::memcpy(static_cast<void *>(&place),
                    reinterpret_cast<const std::byte *>(&record) + offsetof(media::Inode, atime),
                    sizeof place);
    return place;
}
inline void store_place(media::Inode *record, const media::GrantPlace &place) {
    std::memcpy(reinterpret_cast<std::byte *>(record) + offsetof(media::Inode, atime), &place,
                sizeof place);
}

inline Process process_of(const media::Inode &record) {
    const media::GrantHolder holder = holder_of(record);
    const media::GrantPlace place = place_of(record);
    return {holder.pid.get(), holder.start_time.get(), place.serial.get(),
            place.pid_namespace.get(), place.time_namespace.get()};
}

// Of the lock on the descriptor that was lent (media/format.h "GrantPlace").
inline std::uint64_t lock_number(InodeNo record, const media::Inode &inode) {
    constexpr unsigned kInodeBits = 42;
    return (inode.generation.get() & 0xfffff) << kInodeBits |
           (record.value() & ((std::uint64_t{1} << kInodeBits) - 1));
}

// `from` without the blocks of `taken`; both in order of the device.
inline std::vector<core::Run> difference(const std::vector<core::Run> &from,
                                         const std::vector<core::Run> &taken) {
    std::vector<core::Run> left;
    auto t = taken.begin();
    for (const core::Run &run : from) {
        BlockNo at = run.start;
        while (t != taken.end() && t->end() <= at) ++t;
        for (auto u = t; u != taken.end() && u->start < run.end(); ++u) {
            if (u->start > at) left.push_back({at, u->start - at});
            at = std::max(at, u->end());
        }
        if (at < run.end()) left.push_back({at, run.end() - at});
    }
    return left;
}

}  // namespace pmfs
