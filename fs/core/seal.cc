// Permits, digests and what may be mapped: see seal.h.
#include "core/seal.h"

#include <sodium.h>

#include <algorithm>

#include "base/errors.h"
#include "core/extent_map.h"
#include "media/geometry.h"

namespace pmfs::core {

Result<> ask(const media::Inode &inode, Standing standing, Move move) {
    standing.sealed = (inode.flags.get() & media::kSealed) != 0;
    switch (answer(standing, move)) {
        case Answer::go:
            return {};
        case Answer::text_busy:
            return Error(ETXTBSY, "the file's block map is sealed or granted: see pmfsctl holders");
        case Answer::invalid:
            return Error(EINVAL, "the blocks of a sealed or granted file cannot move");
        case Answer::busy:
            return Error(EBUSY, "a process holds a grant on the file: see pmfsctl holders");
        case Answer::ask:
            return Error(kBreakErrno, "the file's leases must be given back first");
    }
    return Error(EINVAL, "there is no such change of a block map");
}

Result<MapPermit> permit(const media::Inode &inode, Standing standing, Move move) {
    TRY(ask(inode, standing, move));
    return MapPermit();
}

namespace {

struct DigestRecord {
    media::le64 file_block, start, blocks;
    media::le32 flags, zero;
};
static_assert(media::is_media_v<DigestRecord> && sizeof(DigestRecord) == 32);

}  // namespace

MapScan::MapScan(const media::Inode &inode) {
    crypto_generichash_init(&state_, nullptr, 0, 32);
    const media::le64 size = inode.size;
    crypto_generichash_update(&state_, reinterpret_cast<const unsigned char *>(&size), sizeof size);
    const std::uint64_t bytes = size.get();
    end_ = media::file_block_of(bytes) + (bytes % media::kBlockSize != 0 ? 1 : 0);
}

void MapScan::add(const Extent &e) {
    const std::uint32_t flags =
        (e.unwritten ? media::kUnwritten : 0u) | (e.shared ? media::kShared : 0u);
    const DigestRecord r{media::le64(e.file_block.value()), media::le64(e.start.value()),
                         media::le64(e.blocks), media::le32(flags), media::le32(0)};
    crypto_generichash_update(&state_, reinterpret_cast<const unsigned char *>(&r), sizeof r);
}

Result<bool> MapScan::scan(const Reader &reader, const media::Inode &inode, InodeNo ino,
                           unsigned extents_max) {
    for (unsigned n = 0; n < extents_max; ++n) {
        const Extent e = TRY(next_extent(reader, inode, ino, at_));
        if (e.hole() || (e.file_block >= kDonorRange && !in_donor_)) {
            if (at_ < end_) gaps_ = true;
            in_donor_ = true;
        }
        if (e.hole()) return true;
        ++extents_;
        if (!in_donor_) {
            if (at_ < end_ && (e.file_block > at_ || e.unwritten || e.shared)) gaps_ = true;
            const bool joins = !joined_.hole() && joined_.end() == e.file_block &&
                               joined_.start + joined_.blocks == e.start &&
                               joined_.unwritten == e.unwritten && joined_.shared == e.shared;
            if (joins) {
                joined_.blocks += e.blocks;
            } else {
                if (!joined_.hole()) add(joined_);
                joined_ = e;
            }
        }
        at_ = e.end();
    }
    return false;
}

Digest MapScan::digest() {
    if (!joined_.hole()) add(joined_);
    joined_ = {};
    Digest digest;
    crypto_generichash_final(&state_, digest.data(), digest.size());
    return digest;
}

Result<> check_mappable(const Reader &reader, const media::Inode &inode, InodeNo ino,
                        FileBlock first, FileBlock end, std::uint64_t unit, FileBlock *bad_block) {
    const auto bad = [&](FileBlock block, const char *why) {
        if (bad_block) *bad_block = block;
        return Error(EINVAL, why);
    };
    end = media::unit_up(end, unit);
    for (FileBlock at = media::unit_down(first, unit); at < end;) {
        const Extent e = TRY(find_extent(reader, inode, ino, at));
        if (e.hole()) return bad(at, "the file has a hole: pmfsctl prepare FILE allocates it");
        if (e.unwritten)
            return bad(at, "the file has unwritten blocks: pmfsctl prepare FILE writes them");
        if (e.shared) return bad(at, "the file shares blocks with another one");
        // Every unit that this extent touches lies wholly in it, at a multiple of the unit.
        if (!media::congruent(e.start, e.file_block, unit))
            return bad(at, "the file's blocks are not aligned: pmfsctl prepare FILE moves them");
        const FileBlock next = std::min(e.end(), end);
        if (next % unit != 0)
            return bad(media::unit_down(next, unit),
                       "a mapping unit is in pieces: pmfsctl prepare FILE makes it whole");
        at = next;
    }
    return {};
}

Result<FileBlock> dense_until(const Reader &reader, const media::Inode &inode, InodeNo ino,
                              FileBlock from, FileBlock end, unsigned extents_max) {
    for (unsigned n = 0; from < end && n < extents_max; ++n) {
        const Extent e = TRY(find_extent(reader, inode, ino, from));
        if (e.hole() || e.unwritten || e.shared) break;
        from = std::min(e.end(), end);
    }
    return from;
}

}  // namespace pmfs::core
