// The common steps of operations that move a file's blocks: see donor.h.
#include "volume/donor.h"

#include <algorithm>

#include "core/inode.h"
#include "media/geometry.h"

namespace pmfs {

using core::Change;
using core::MapPermit;
using core::Reader;
using core::Run;
using media::byte_of;
using media::kBlockSize;

Result<std::vector<DonorSource>> donor_sources(const Reader &reader, InodeNo ino, FileBlock at,
                                               BlockNo to, std::uint64_t blocks) {
    const auto *inode = TRY(core::read_inode(reader, ino));
    std::vector<DonorSource> sources;
    for (std::uint64_t done = 0; done < blocks;) {
        const Extent e = TRY(core::find_extent(reader, *inode, ino, at + done));
        const std::uint64_t n = std::min(e.end(), at + blocks) - (at + done);
        const bool zeroes = e.hole() || e.unwritten;
        sources.push_back({zeroes ? BlockNo(0) : e.place_of(at + done), to + done, n});
        done += n;
    }
    return sources;
}

Result<> fill_donor(Engine &e, std::span<const DonorSource> sources) {
    pm::Unfenced unfenced;
    bool lost = false;
    for (const DonorSource &s : sources) {
        const std::uint64_t from = byte_of(s.from), size = s.blocks * kBlockSize;
        if (s.from == BlockNo(0)) {
            unfenced.add(e.journal->zero_data(byte_of(s.to), size));
            continue;
        }
        unfenced.add(e.journal->write_data(byte_of(s.to), {e.region->data() + from, size}));
        lost = lost || e.region->lost(from, size);
    }
    e.journal->persist(std::move(unfenced));
    if (lost) return Error(EIO, "the medium has lost a page of the file");
    if (pm::take_fault()) return Error(EIO, "the medium has a bad page here");
    return {};
}

Result<> add_donor(Change &change, media::Inode *inode, InodeNo ino, FileBlock at, Run run,
                   const MapPermit &permit) {
    TRY(core::map_insert(change, inode, ino, {at, run.start, run.blocks, true, false}, permit));
    inode->blocks.set(inode->blocks.get() + run.blocks);
    if ((inode->flags.get() & media::kTrimPending) != 0) return {};  // set for an earlier part
    inode->flags.set(inode->flags.get() | media::kTrimPending);
    inode->trim_from.set(media::kDonorBase);
    if (inode->nlink.get() == 0) return {};  // it is on the list already
    return core::add_orphan(change, ino, inode);
}

Result<std::uint64_t> exchange_donor(Engine &e, InodeNo ino, FileBlock at, FileBlock donor,
                                     std::uint64_t most) {
    const Reader reader(*e.core);
    const auto *was = TRY(core::read_inode(reader, ino));
    const Extent there = TRY(core::find_extent(reader, *was, ino, at));
    std::uint64_t n = std::min(there.end(), at + most) - at;
    if (!there.hole()) n = e.allocator->piece({there.place_of(at), n}).blocks;
    TRY(core::map_make_room(*e.core, ino, at, 2));
    TRY(core::map_make_room(*e.core, ino, at + n, 2));
    TRY(core::map_make_room(*e.core, ino, donor + n, 2));

    Change change(*e.core);
    TRY(change.begin());
    auto *inode = TRY(core::edit_inode(change, ino));
    const MapPermit permit = TRY(e.holders->permit(ino, *inode, core::Move::relocate, at, at + n));
    if (!there.hole()) {
        const Run old = TRY(core::map_remove(change, inode, ino, at, at + n, permit));
        TRY(e.allocator->give_back(change, old));
        inode->blocks.set(inode->blocks.get() - old.blocks);
    }
    const Run fresh = TRY(core::map_remove(change, inode, ino, donor, donor + n, permit));
    TRY(core::map_insert(change, inode, ino, {at, fresh.start, n, false, false}, permit));
    TRY(change.commit());
    return n;
}

}  // namespace pmfs
