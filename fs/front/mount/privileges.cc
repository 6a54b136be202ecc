// Capability sets by libcap-ng, dumps by prctl(2), files by landlock(7).
#include "front/mount/privileges.h"

#include <cap-ng.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <string>

#include "base/file_descriptor.h"

namespace pmfs::front {
namespace {

// Whether /proc is mounted so that it shows a process to its own user only ("hidepid=", proc(5)).
bool proc_hides_others() {
    std::ifstream table("/proc/self/mountinfo");
    bool hides = false;
    for (std::string line; std::getline(table, line);) {
        if (line.find(" /proc ") == std::string::npos) continue;
        // The last filesystem that was mounted there counts.
        hides = line.find("hidepid=") != std::string::npos &&
                line.find("hidepid=0") == std::string::npos &&
                line.find("hidepid=off") == std::string::npos;
    }
    return hides;
}

// What Landlock can forbid; older kernels know less of it.
constexpr std::uint64_t kOfFirst = (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1;
constexpr std::uint64_t kRefer = std::uint64_t{1} << 13;     // since version 2
constexpr std::uint64_t kTruncate = std::uint64_t{1} << 14;  // since version 3

std::uint64_t rights_for(KeptFiles::For use) {
    switch (use) {
        case KeptFiles::For::reading:
            return LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR;
        case KeptFiles::For::writing:
            return LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE;
        case KeptFiles::For::sockets:
            return LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_REMOVE_FILE;
    }
    return 0;
}

bool allow(const FileDescriptor &rules, const KeptFiles &kept) {
    const FileDescriptor place(::open(kept.path.c_str(), O_PATH | O_CLOEXEC));
    struct stat status {};
    if (!place.ok() || ::fstat(place.get(), &status) != 0) return true;  // it is not there
    landlock_path_beneath_attr rule{};
    rule.parent_fd = place.get();
    rule.allowed_access = rights_for(kept.use);
    if (!S_ISDIR(status.st_mode)) rule.allowed_access &= ~LANDLOCK_ACCESS_FS_READ_DIR;
    return ::syscall(SYS_landlock_add_rule, rules.get(), LANDLOCK_RULE_PATH_BENEATH, &rule, 0) == 0;
}

}  // namespace

std::vector<int> capabilities_to_keep(int medium) {
    std::vector<int> kept;
    struct stat status {};
    // For another user's image: mincore(2) works only for processes that may change the file, and
    // the owner's quota would apply.
    if (::fstat(medium, &status) == 0 && S_ISREG(status.st_mode) && status.st_uid != ::geteuid())
        kept = {CAP_FOWNER, CAP_SYS_RESOURCE};
    // To find the process that asks for a grant, and its groups.
    if (proc_hides_others()) kept.push_back(CAP_SYS_PTRACE);
    return kept;
}

Result<> keep_capabilities(std::span<const int> kept) {
    if (capng_get_caps_process() != 0) return Error(EIO, "cannot read the capabilities");
    std::vector<unsigned> held;
    for (const int capability : kept)
        if (capng_have_capability(CAPNG_PERMITTED, static_cast<unsigned>(capability)) != 0)
            held.push_back(static_cast<unsigned>(capability));
    const bool bounds = capng_have_capability(CAPNG_EFFECTIVE, CAP_SETPCAP) != 0;
    capng_clear(CAPNG_SELECT_ALL);
    for (const unsigned capability : held)
        capng_updatev(CAPNG_ADD, static_cast<capng_type_t>(CAPNG_EFFECTIVE | CAPNG_PERMITTED),
                      capability, -1);
    // A process that may not empty the bounding set does not need to: no new privileges, below.
    if (bounds && capng_apply(CAPNG_SELECT_BOUNDS) != 0)
        return Error(EPERM, "cannot empty the bounding set of capabilities");
    if (capng_apply(CAPNG_SELECT_CAPS) != 0 ||
        ::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0 ||
        ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return Error(EPERM, "cannot give up capabilities");
    return {};
}

Result<> keep_files(std::span<const KeptFiles> kept) {
    if (kInstrumented) return {};
    const long version =
        ::syscall(SYS_landlock_create_ruleset, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION);
    if (version < 1) return Error(EOPNOTSUPP, "the kernel has no Landlock");
    landlock_ruleset_attr all{};
    all.handled_access_fs = kOfFirst | (version >= 2 ? kRefer : 0) | (version >= 3 ? kTruncate : 0);
    const FileDescriptor rules(static_cast<int>(
        ::syscall(SYS_landlock_create_ruleset, &all, sizeof all.handled_access_fs, 0)));
    if (!rules.ok()) return Error(EOPNOTSUPP, "the kernel refuses Landlock rules");
    for (const KeptFiles &one : kept)
        if (!allow(rules, one))
            return Error(errno, "cannot make a Landlock rule for the server's files");
    if (::syscall(SYS_landlock_restrict_self, rules.get(), 0) != 0)
        return Error(errno, "cannot give up access to other files");
    return {};
}

Result<> forbid_dumps() {
    if (kInstrumented) return {};
    constexpr rlimit kNone{0, 0};
    if (::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0 || ::setrlimit(RLIMIT_CORE, &kNone) != 0)
        return Error(errno, "cannot forbid core dumps");
    return {};
}

}  // namespace pmfs::front
