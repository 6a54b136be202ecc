// quarantine: blocks that are held back because a holder who lost his grant may still map them.
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
            {"stores", is_set(entry, PMFS_QUARANTINE_STORES)},
            {"reason", is_set(entry, PMFS_QUARANTINE_REVOKED) ? "revoked" : "server_died"}};
}

std::string words_of(const pmfs_quarantined &entry) {
    const bool alive = is_set(entry, PMFS_QUARANTINE_ALIVE);
    const std::string who = alive ? fmt::format("process {} ({})", entry.pid,
                                                printable(process_of_thread(entry.pid).name))
                                  : fmt::format("process {} (perhaps gone)", entry.pid);
    return fmt::format(
        "{}: {}, user {}, maps {} of inode {}{}; {} held back; {}", entry.id, who, entry.uid,
        size_words(entry.total), entry.inode,
        is_set(entry, PMFS_QUARANTINE_STORES) ? " and may store" : "", size_words(entry.held),
        is_set(entry, PMFS_QUARANTINE_REVOKED) ? "its lease was not given back in time"
                                               : "its server died");
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
    if (all.empty()) fmt::print("nothing is quarantined\n");
    return kDone;
}

}  // namespace pmfs::ctl
