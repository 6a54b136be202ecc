// Checks a volume: an independent reader of the format, which shares no code with the engine.
//
// Reads every metadata block, and uses none before it is known to be whole, ours and sane; the
// region may contain any bytes.  Each problem is reported once: its consequences (such as blocks
// that seem leaked because their owner cannot be read) are not, and Report::unjudged says so.
#pragma once
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "base/result.h"
#include "fsck/problem.h"
#include "journal/replay.h"
#include "media/format.h"
#include "pm/region.h"

namespace pmfs::fsck {

struct Options {
    std::size_t problems_kept_max = 1000;  // later ones are only counted
};

// What a repair writes: bytes of a block or an inode whose right value follows from the rest of the
// volume.
struct Change {
    std::uint64_t block = 0;
    media::Magic magic{};    // inode: of one in a block of inodes
    unsigned slot = 0;       // which
    std::uint64_t self = 0;  // its number
    bool anew = false;       // the block is not whole: all its other bytes but the header are zero
    std::size_t offset = 0;  // of the bytes in the block, or in the inode
    std::vector<std::byte> bytes = {};
};

struct Report {
    std::vector<Problem> problems;
    std::vector<Change> changes;  // that repair() makes
    std::uint64_t found = 0;      // kept or not
    std::uint64_t repaired = 0;   // of these
    bool unjudged = false;        // damage hides what some blocks or names belong to
    bool gave_up = false;         // too many problems: the rest was not checked
    bool medium_failed = false;   // such as a bad page, which was read as zeroes

    // Facts about the volume.
    bool was_clean = false;  // the journal's header says unmounted
    std::uint64_t inodes = 0, directories = 0, orphans = 0, sealed = 0, grants = 0;
    std::uint64_t blocks = 0, blocks_used = 0;

    bool clean() const { return found == 0; }
    void add(Problem problem, std::size_t kept_max) {
        ++found;
        if (problems.size() < kept_max) problems.push_back(std::move(problem));
    }
};

// Replays the journal of a volume that was not unmounted, so that check() finds it at rest; on a
// private copy of a region in memory only.  Returns how many transactions.  A journal that cannot
// be read is a problem of the volume like any other: it goes to `report`, unless check() will
// report it.  `boot_id`: the running kernel's, journal::current_boot_id() but in tests; an image
// that another boot wrote has lost its page cache.  Errors: media::find_superblock's; ENOTSUP: a
// feature that this program may not write; EIO.
Result<std::uint64_t> replay_journal(pm::Region &region, const journal::BootId &boot_id,
                                     bool may_write, Report *report);

// Checks what region.meta() and region.data() contain now; replays nothing (see above) and writes
// nothing, but plans what a repair would.  The volume must not be in use.  No state outlives the
// call.  Errors, if nothing can be checked: media::find_superblock's; ENOMEM.
Result<Report> check(pm::Region &region, const Options &options = {});

}  // namespace pmfs::fsck
