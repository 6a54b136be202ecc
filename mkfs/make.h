// Makes a volume on a region: what mkfs.pmfs does after it has parsed its options.  Tests call it
// too.
#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "base/clock.h"
#include "base/result.h"
#include "media/format.h"
#include "pm/region.h"

namespace pmfs::mkfs {

struct MakeOptions {
    std::string label;                 // UTF-8, at most 64 bytes
    std::uint64_t journal_size = 0;    // bytes, ring headers included; 0 = by the volume's size
    std::uint64_t mapping_unit = 0;    // bytes; 0 = the region's
    std::uint32_t root_reserve = 100;  // the reserve for root, in ten-thousandths
    std::uint32_t root_uid = 0, root_gid = 0;

    // What distinguishes volumes.  Unset: random, and the clock.  Golden images set them: then a
    // volume's bytes depend only on these options and the region's size.
    std::optional<std::array<std::uint8_t, 16>> uuid;
    std::optional<std::array<std::uint8_t, 16>> hash_key;
    std::optional<std::array<std::uint8_t, 16>> journal_secret;
    std::optional<std::uint64_t> fsid;
    std::optional<Timespec> time;
};

// The default size of the journal of a volume of `volume_size` bytes.
std::uint64_t default_journal_size(std::uint64_t volume_size);

// The superblock that make() would write on a region of this size, not yet sealed.
// EINVAL: too small, too large, or an option that does not fit the region; EIO: no random numbers.
Result<media::Superblock> plan(std::uint64_t region_size, std::uint64_t region_mapping_unit,
                               const MakeOptions &options);

// Replaces an old superblock by a mark, writes everything else, then the superblock: if it is
// interrupted, the result is not a pmfs volume.  Everything is durable when it returns.  Does not
// check for existing data.  Errors: plan()'s; EROFS; those of the medium's sync().
Result<media::Superblock> make(pm::Region &region, const MakeOptions &options);

}  // namespace pmfs::mkfs
