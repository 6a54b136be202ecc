// Reads /proc/PID/mountinfo, and /proc/PID/ns/mnt to tell namespaces apart.  proc(5) has the rows:
// "36 35 98:0 /root /mnt rw,noatime shared:1 - fuse.pmfs /dev/dax0.0 rw,user_id=0"
#include "base/mounts.h"

#include <dirent.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <charconv>
#include <fstream>
#include <set>
#include <sstream>
#include <string_view>

namespace pmfs {
namespace {

std::string proc_path(pid_t process, const char *name) {
    const std::string who = process == 0 ? "self" : std::to_string(process);
    return "/proc/" + who + "/" + name;
}

// Does not look at its target, which may be on a filesystem whose server hangs.
std::string link_text(pid_t process, const char *name) {
    char text[4096];
    const ssize_t size = ::readlink(proc_path(process, name).c_str(), text, sizeof text);
    return size < 0 ? std::string() : std::string(text, static_cast<std::size_t>(size));
}

// Blanks, line ends, backslashes and '#' stand in the table as \ and three octal digits.
std::string unescaped(std::string_view text) {
    std::string plain;
    for (std::size_t i = 0; i < text.size(); ++i) {
        unsigned value = 0;
        const char *digits = text.data() + i + 1;
        if (text[i] == '\\' && i + 3 < text.size() &&
            std::from_chars(digits, digits + 3, value, 8).ptr == digits + 3) {
            plain += static_cast<char>(value);
            i += 3;
        } else {
            plain += text[i];
        }
    }
    return plain;
}

bool parse(const std::string &line, Mount *mount) {
    const std::size_t dash = line.find(" - ");
    if (dash == std::string::npos) return false;
    std::istringstream words(line.substr(0, dash)), behind(line.substr(dash + 3));
    std::string id, parent, root, point, source;
    unsigned major_number = 0, minor_number = 0;
    char colon = 0;
    words >> id >> parent >> major_number >> colon >> minor_number >> root >> point;
    behind >> mount->type >> source;
    if (!words) return false;
    mount->device = makedev(major_number, minor_number);
    mount->point = unescaped(point);
    mount->source = unescaped(source);
    return true;
}

std::vector<pid_t> all_processes() {
    std::vector<pid_t> all;
    DIR *proc = ::opendir("/proc");
    if (proc == nullptr) return all;
    while (const dirent *entry = ::readdir(proc)) {
        const std::string_view name(entry->d_name);
        pid_t pid = 0;
        const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), pid);
        if (error == std::errc() && end == name.data() + name.size()) all.push_back(pid);
    }
    ::closedir(proc);
    return all;
}

}  // namespace

std::vector<Mount> mounts_of(pid_t process) {
    std::vector<Mount> all;
    std::ifstream table(proc_path(process, "mountinfo"));
    Mount mount;
    for (std::string line; std::getline(table, line);)
        if (parse(line, &mount)) all.push_back(mount);
    return all;
}

std::vector<MountPlace> find_mounts(const std::function<bool(const Mount &)> &wanted) {
    const std::string mine = link_text(0, "ns/mnt");
    std::vector<pid_t> processes = all_processes();
    processes.insert(processes.begin(), ::getpid());
    std::vector<MountPlace> places;
    std::set<std::string> done;  // namespaces in which there was one, and roots that saw none
    for (const pid_t process : processes) {
        const std::string where = link_text(process, "ns/mnt");
        // A process with another root sees other mounts of the same namespace.
        const std::string view = where + " " + link_text(process, "root");
        if (where.empty() || done.contains(where) || !done.insert(view).second) continue;
        for (const Mount &mount : mounts_of(process)) {
            if (!wanted(mount)) continue;
            done.insert(where);
            places.push_back({process, where == mine, mount});
        }
    }
    return places;
}

bool shares_mount_namespace() {
    const std::string mine = link_text(0, "ns/mnt");
    for (const pid_t process : all_processes())
        if (process != ::getpid() && link_text(process, "ns/mnt") == mine) return true;
    return false;
}

}  // namespace pmfs
