// Takes the lock, and reads /proc/locks for the name of whoever has it.
#include "pm/lock.h"

#include <sys/file.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <set>
#include <sstream>
#include <string_view>
#include <thread>

#include "base/mutex.h"

namespace pmfs::pm {

namespace {

// An Error's sentence lives for ever (result.h), and this one has a number in it.  One string a
// holder that was ever met, never freed.
const char *busy_sentence(pid_t holder) {
    static Mutex mutex;
    static auto &sentences = *new std::set<std::string>;
    char text[96];
    std::snprintf(text, sizeof text, "is mounted or being checked by another process (pid %d)",
                  static_cast<int>(holder));
    const Lock lock(mutex);
    return sentences.insert(text).first->c_str();
}

// A path as it stands in the mount table: blanks, and what could be taken for their escape,
// escaped.
std::string as_in_mount_table(const std::string &path) {
    std::string text;
    for (const char c : path) {
        if (std::string_view(" \t\n\\#").find(c) == std::string_view::npos) {
            text += c;
            continue;
        }
        char escaped[5];
        std::snprintf(escaped, sizeof escaped, "\\%03o", static_cast<unsigned char>(c));
        text += escaped;
    }
    return text;
}

// Whether a pmfs volume on `path` is mounted, in the mount namespace of this process.
bool is_mounted(const std::string &path) {
    const std::unique_ptr<char, decltype(&std::free)> real(::realpath(path.c_str(), nullptr),
                                                           &std::free);
    const std::string source = as_in_mount_table(real ? real.get() : path);
    std::ifstream table("/proc/self/mountinfo");
    // "36 35 98:0 /root /mnt rw,noatime shared:1 - fuse.pmfs /dev/dax0.0 rw,user_id=0"
    for (std::string line; std::getline(table, line);) {
        const std::size_t dash = line.find(" - ");
        if (dash == std::string::npos) continue;
        std::istringstream words(line.substr(dash + 3));
        std::string type, from;
        if (words >> type >> from && type == "fuse.pmfs" && from == source) return true;
    }
    return false;
}

}  // namespace

pid_t lock_holder(int fd) {
    struct stat st {};
    if (::fstat(fd, &st) != 0) return 0;
    std::FILE *const locks = std::fopen("/proc/locks", "re");
    if (locks == nullptr) return 0;
    // "12: FLOCK  ADVISORY  WRITE 702 fe:00:131077 0 EOF"; waiters have "->" after the number.
    char line[256];
    pid_t holder = 0;
    while (holder == 0 && std::fgets(line, sizeof line, locks) != nullptr) {
        char kind[16];
        int pid = 0;
        unsigned major_number = 0, minor_number = 0;
        unsigned long inode = 0;
        if (std::sscanf(line, "%*d: %15s %*s %*s %d %x:%x:%lu", kind, &pid, &major_number,
                        &minor_number, &inode) != 5)
            continue;
        if (std::strcmp(kind, "FLOCK") != 0 || inode != st.st_ino) continue;
        if (major_number != major(st.st_dev) || minor_number != minor(st.st_dev)) continue;
        // A holder that forked and ended left its number behind with its child's lock.
        if (pid > 0 && (::kill(pid, 0) == 0 || errno == EPERM)) holder = pid;
    }
    std::fclose(locks);
    return holder;
}

Result<> lock_volume(int fd) {
    if (::flock(fd, LOCK_EX | LOCK_NB) == 0) return {};
    if (errno != EWOULDBLOCK) return Error(errno, "cannot lock the region");
    const pid_t holder = lock_holder(fd);
    return Error(EBUSY, holder != 0 ? busy_sentence(holder)
                                    : "is mounted or being checked by another process");
}

Result<> lock_volume_patiently(int fd, const std::string &path) {
    using namespace std::chrono_literals;
    const auto give_up = std::chrono::steady_clock::now() + 10s;
    for (;;) {
        auto locked = lock_volume(fd);
        if (locked.ok() || locked.error().errno_value() != EBUSY || is_mounted(path) ||
            std::chrono::steady_clock::now() > give_up)
            return locked;
        std::this_thread::sleep_for(20ms);
    }
}

}  // namespace pmfs::pm
