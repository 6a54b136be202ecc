// Checks a volume: an independent reader of the format, which shares no code with the engine.
//
// Reads every metadata block and believes none before it is whole, ours and sane; any bytes may
// stand on the region.  One problem is named once: what only follows from it (blocks that seem
// leaked because their owner cannot be read, say) is held back, and Report::unjudged tells so.
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

struct Report {
    std::vector<Problem> problems;
    std::uint64_t found = 0;     // kept or not
    std::uint64_t repaired = 0;  // of these
    bool unjudged = false;       // damage hides what some blocks or names belong to
    bool gave_up = false;        // too many problems: the rest was not looked at
    bool medium_failed = false;  // a bad page, say; what lies there was read as zeroes

    // What was seen.
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
// be read is a problem of the volume like any other: it goes to `report`, unless check() will say
// it. `boot_id`: the running kernel's, journal::current_boot_id() but in tests; an image that
// another boot wrote has lost its page cache. Errors: media::find_superblock's; ENOTSUP: a feature
// that this program may not write; EIO.
Result<std::uint64_t> replay_journal(pm::Region &region, const journal::BootId &boot_id,
                                     bool may_write, Report *report);

// Looks at what region.meta() and region.data() show now; replays nothing (see above) and writes
// nothing.  The volume must be at rest.  No state outlives the call.
// Errors, where nothing can be checked: media::find_superblock's; ENOMEM.
Result<Report> check(pm::Region &region, const Options &options = {});

}  // namespace pmfs::fsck
