// Errors as sentences: the file, what is wrong, and what to do.
#pragma once
#include "file.h"
#include "verbs.h"

namespace pmfs::ctl {

enum class Verb {
    info,
    status,
    prepare,
    prepare_contiguous,
    seal,
    unseal,
    map,
    holders,
    watch,
    lease,
    pin,
    quarantine,
    revoke,
    grow,
    tune,
    compact,
    layout,
    run
};

// Prints to standard error why `verb` failed on `file`, and gives the exit code.  bad_offset:
// where, for EINVAL of seal.
int complain(const File &file, Verb verb, int error, std::uint64_t bad_offset = 0);

// "temporary grant of process 71 (db), user 0, bytes 0 to 4096, stores".
std::string describe(const pmfs_holder &holder);

}  // namespace pmfs::ctl
