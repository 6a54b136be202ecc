// The chain of records that count. It is verified as a whole before it is used.
//
// A crash may leave the last record torn, so the chain ends at the first record that is not whole.
// But a record that is not whole and has a whole one after it was once whole, and was damaged
// later. The records before it are an older state than the one that the volume promised to keep,
// and storing them over newer homes would destroy those. So no line is applied before all of this
// is known.
#pragma once
#include <cstdint>
#include <functional>
#include <span>

#include "base/ids.h"
#include "base/result.h"
#include "journal/ring.h"
#include "media/format.h"
#include "pm/region.h"

namespace pmfs::journal {

// Where a record's lines may go: into the volume, but neither into the journal nor over a
// superblock.
struct Homes {
    explicit Homes(const media::Superblock &superblock);
    bool allow(BlockNo block) const;

    BlockNo end, journal, journal_end, superblock_copy;
};

// Reads the chain record by record.
class ChainReader {
public:
    // `buffer`: kRecordSizeMax bytes.
    ChainReader(const pm::Region &region, const RingPlace &place, const Secret &secret,
                std::uint64_t tail_seq, std::uint64_t tail_offset, std::span<std::byte> buffer);

    // The next record, or nothing where the chain ends.  Overlapping records end it too.
    std::span<const std::byte> next();
    std::uint64_t seq() const { return seq_; }        // that the next record must have
    std::uint64_t offset() const { return offset_; }  // where the next record must be

private:
    const pm::Region &region_;
    const RingPlace place_;
    const Secret &secret_;
    std::uint64_t seq_, offset_, read_ = 0;
    std::span<std::byte> buffer_;
};

// The fault of a chain.
struct Flaw {
    enum class Kind {
        none,
        broken,      // a record that counts is damaged
        impossible,  // a record is whole, but its contents are impossible
    };
    Kind kind = Kind::none;
    std::uint64_t seq = 0;  // of the record
    BlockNo block;          // in which it begins
    const char *sentence = nullptr;
};

struct Chain {
    RingState ring;
    std::uint64_t records = 0;   // that count
    std::uint64_t last_seq = 0;  // of the last one, or before the tail
    bool power_was_cut = false;  // an image whose page cache did not survive
    Flaw flaw;
};

// Which records count, and whether all of them are whole.  Reads the ring once or twice and the
// homes of what the records change; never more.  Writes nothing.
// On an image file that another boot wrote, the records that the last group mark covers count and
// must be whole; later ones may never have reached the disk.  Elsewhere all records count.
// EUCLEAN: read_ring_header's; EIO: a part of the ring cannot be read.
Result<Chain> verify_chain(const pm::Region &region, const media::Superblock &superblock,
                           const BootId &boot_id);

// Calls `apply` for each run of lines of a whole record (offset in the region, bytes).  A record
// with impossible contents is EUCLEAN; some lines may have been passed to `apply` by then.
using Apply = std::function<void(std::uint64_t offset, std::span<const std::byte> bytes)>;
Result<> apply_record(std::span<const std::byte> record, const Homes &homes, const Apply &apply);

}  // namespace pmfs::journal
