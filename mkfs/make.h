// Makes a volume on a region: what mkfs.pmfs does once its words are understood.  Tests call it
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
    std::uint32_t root_reserve = 100;  // what only root may fill, in ten-thousandths
    std::uint32_t root_uid = 0, root_gid = 0;

    // What makes a volume unlike any other.  Unset: random, and the clock.  Golden images set them,
    // for a volume's bytes follow from these options and the region's size alone.
    std::optional<std::array<std::uint8_t, 16>> uuid;
    std::optional<std::array<std::uint8_t, 16>> hash_key;
    std::optional<std::array<std::uint8_t, 16>> journal_secret;
    std::optional<std::uint64_t> fsid;
    std::optional<Timespec> time;
};

// The journal that a volume of `volume_size` bytes gets when nobody says otherwise.
std::uint64_t default_journal_size(std::uint64_t volume_size);

// The superblock that make() would write on a region of this size, not yet sealed.
// EINVAL: too small, too large, or an option that does not fit the region; EIO: no random numbers.
Result<media::Superblock> plan(std::uint64_t region_size, std::uint64_t region_mapping_unit,
                               const MakeOptions &options);

// Replaces an old superblock by a mark, writes everything else, then the superblock: cut short
// anywhere, it leaves what is not a pmfs volume.  All is durable when it returns.  Asks no
// questions about what was there.  Errors: plan()'s; EROFS; what the medium's sync() says.
Result<media::Superblock> make(pm::Region &region, const MakeOptions &options);

}  // namespace pmfs::mkfs
