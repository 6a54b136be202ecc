// revoke, and quarantine: blocks that are held back because a holder that lost
// its grant may still map them.
#include <fmt/format.h>

#include <cerrno>

#include "base/printable.h"
#include "base/units.h"
#include "json.h"
#include "sentences.h"
#include "verbs.h"

namespace pmfs::ctl {
namespace {

bool is_set(const pmfs_quarantined &entry, std::uint32_t flag) {
    return (entry.flags & flag) != 0;
}

std::string who_has(const pmfs_quarantined &entry) {
    if (entry.pid == 0) return "an unknown process";
    if (is_set(entry, PMFS_QUARANTINE_ALIVE))
        return fmt::format("process {} ({})", entry.pid,
                           printable(process_of_thread(entry.pid).name));
    if (is_set(entry, PMFS_QUARANTINE_MAPPED))
        return fmt::format("a process that has the memory of process {}", entry.pid);
    return fmt::format("process {} (perhaps gone)", entry.pid);
}

struct Reason {
    const char *key, *words;
};
Reason reason_of(const pmfs_quarantined &entry) {
    switch (entry.reason) {
        case PMFS_REASON_SERVER_DIED:
            return {"server_died", "its server died"};
        case PMFS_REASON_LATE:
            return {"revoked", "its lease was not given back in time"};
        case PMFS_REASON_REVOKED:
            return {"revoked_by_root", "root revoked its grant"};
        case PMFS_REASON_HANDLE_CLOSED:
            return {"handle_closed", "its file was closed under the mapping"};
        case PMFS_REASON_CUT_OFF:
            return {"cut_off", "its connection to the server ended"};
        case PMFS_REASON_STILL_MAPPED:
            return {"still_mapped", "its grant was given back, but a process still maps"};
        default:
            return {"unknown", "for an unknown reason"};
    }
}

Json to_json(const pmfs_quarantined &entry) {
    const bool alive = is_set(entry, PMFS_QUARANTINE_ALIVE);
    return {{"id", entry.id},
            {"inode", entry.inode},
            {"held", entry.held},
            {"total", entry.total},
            {"pid", entry.pid},
            {"process", alive ? process_of_thread(entry.pid).name : ""},
            {"start_time", entry.start_time},
            {"uid", entry.uid},
            {"alive", alive},
            {"mapped", is_set(entry, PMFS_QUARANTINE_MAPPED)},
            {"stores", is_set(entry, PMFS_QUARANTINE_STORES)},
            {"reason", reason_of(entry).key}};
}

std::string words_of(const pmfs_quarantined &entry) {
    return fmt::format("{}: {}, user {}, maps {} of inode {}{}; {} held back; {}", entry.id,
                       who_has(entry), entry.uid, size_words(entry.total), entry.inode,
                       is_set(entry, PMFS_QUARANTINE_STORES) ? " and may store" : "",
                       size_words(entry.held), reason_of(entry).words);
}

int release_all(const File &file) {
    std::vector<pmfs_quarantined> all;
    if (const int error = file.quarantine(&all)) return error;
    for (const pmfs_quarantined &entry : all) {
        const int error = file.release_quarantine(entry.id);
        if (error != 0 && error != ENOENT) return error;  // it may have ended by itself
    }
    return 0;
}

}  // namespace

int revoke(const Options &options) {
    const File file(options.path, File::Access::read);
    pmfs_io_revoke io{};
    io.inode = options.inode;
    io.grant = options.grant;
    io.pid = options.pid;
    if (const int error = file.revoke(&io)) return complain(file, Verb::revoke, error);
    if (options.json) return print({{"ended", io.ended}});
    fmt::print("{} ended\n", counted(io.ended, "grant"));
    return kDone;
}

int quarantine(const Options &options) {
    const File file(options.path, File::Access::read);
    int error = 0;
    if (options.release_all) error = release_all(file);
    if (options.release != 0) error = file.release_quarantine(options.release);
    if (error != 0) return complain(file, Verb::quarantine, error);
    const bool released = options.release_all || options.release != 0;
    if (released && !options.json) return kDone;

    std::vector<pmfs_quarantined> all;
    error = file.quarantine(&all);
    if (error != 0) return complain(file, Verb::quarantine, error);
    if (options.json) {
        Json list = Json::array();
        std::uint64_t held = 0;
        for (const pmfs_quarantined &entry : all) {
            list.push_back(to_json(entry));
            held += entry.held;
        }
        return print({{"held", held}, {"holders", list}});
    }
    for (const pmfs_quarantined &entry : all) fmt::print("{}\n", words_of(entry));
    if (all.empty()) fmt::print("nothing is in quarantine\n");
    return kDone;
}

}  // namespace pmfs::ctl
