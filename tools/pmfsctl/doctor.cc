// doctor: what is wrong with this machine, a device or a mounted volume, and the command that fixes
// it.
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>

#include "base/hex.h"
#include "base/printable.h"
#include "base/units.h"
#include "checkup.h"
#include "file.h"
#include "json.h"
#include "probe/identity.h"
#include "verbs.h"

namespace pmfs::ctl {
namespace {

using enum Finding::Grade;

const char *word_for(Finding::Grade grade) {
    return grade == good ? "good" : grade == note ? "note" : "wrong";
}

// The medium of a path on a mounted volume.
std::vector<Finding> check_mounted(const pmfs_volume &volume) {
    std::vector<Finding> found;
    if (volume.flags & PMFS_VOLUME_DAMAGED)
        found.push_back({wrong, "volume", "the volume is damaged",
                         fmt::format("umount it, then fsck.pmfs -n {}", volume.source)});
    else
        found.push_back(
            {good, "volume", fmt::format("the volume on {} is mounted", volume.source), ""});
    if (!(volume.flags & PMFS_VOLUME_BROKER))
        found.push_back({note, "mappings", "the server allows no direct mappings (see its log)",
                         fmt::format("journalctl -t mount.pmfs _PID={}", volume.server_pid)});
    return found;
}

std::vector<Finding> check_volume(const Options &options) {
    const auto identity = probe::identify(options.path);
    if (identity.ok())
        return {{good, "volume",
                 fmt::format("it contains the volume {}, with a mapping unit of {}",
                             uuid_text(identity.value().uuid),
                             size_words(identity.value().mapping_unit)),
                 ""}};
    const bool none = std::string_view(identity.error().what()).starts_with("not a pmfs volume");
    return {{wrong, "volume", identity.error().what(), none ? "mkfs.pmfs " + options.path : ""}};
}

std::vector<Finding> examine(const Options &options) {
    std::vector<Finding> found = check_machine(options.root);
    const auto add = [&found](std::vector<Finding> more) {
        found.insert(found.end(), more.begin(), more.end());
    };
    std::string device = options.path;
    pmfs_volume volume{};
    struct stat status {};
    const bool exists = options.root.empty() && ::stat(options.path.c_str(), &status) == 0;
    const bool mounted = exists && !S_ISCHR(status.st_mode) && !S_ISBLK(status.st_mode) &&
                         File(options.path, File::Access::read).volume(&volume) == 0;
    if (mounted) device = volume.source;
    add(check_device(options.root, device));
    if (!options.root.empty()) return found;
    const bool unusable = std::ranges::any_of(found, [](const Finding &one) {
        return one.grade == wrong && (one.about == "mode" || one.about == "device");
    });
    if (mounted)
        add(check_mounted(volume));
    else if (!unusable)
        add(check_volume(options));
    return found;
}

}  // namespace

int doctor(const Options &options) {
    const std::vector<Finding> found = examine(options);
    const auto bad = std::ranges::count(found, wrong, &Finding::grade);
    if (options.json) {
        Json list = Json::array();
        for (const Finding &one : found)
            list.push_back({{"about", one.about},
                            {"grade", word_for(one.grade)},
                            {"sentence", one.sentence},
                            {"command", one.command}});
        print({{"path", options.path}, {"wrong", bad}, {"findings", list}});
        return bad == 0 ? kDone : kFailed;
    }
    for (const Finding &one : found) {
        fmt::print("{:5}  {:8}  {}\n", word_for(one.grade), one.about, printable(one.sentence));
        if (!one.command.empty()) fmt::print("                 {}\n", printable(one.command));
    }
    return bad == 0 ? kDone : kFailed;
}

}  // namespace pmfs::ctl
