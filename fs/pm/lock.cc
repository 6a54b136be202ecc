// Takes the lock, and reads /proc/locks to name its holder.
#include "pm/lock.h"

#include <sys/file.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <set>
#include <thread>

#include "base/mounts.h"
#include "base/mutex.h"

namespace pmfs::pm {

namespace {

// The sentence of an Error must live for ever (result.h), and these contain numbers: one string for
// each different sentence, never freed.
const char *lasting(const std::string &sentence) {
    static Mutex mutex;
    static auto &sentences = *new std::set<std::string>;
    const Lock lock(mutex);
    return sentences.insert(sentence).first->c_str();
}

// Where a pmfs volume on `path` is mounted; in this mount namespace if it is there.
std::optional<MountPlace> mounted_place(const std::string &path) {
    const std::unique_ptr<char, decltype(&std::free)> real(::realpath(path.c_str(), nullptr),
                                                           &std::free);
    const std::string source = real ? real.get() : path;
    const auto places = find_mounts([&source](const Mount &mount) {
        return mount.type == "fuse.pmfs" && mount.source == source;
    });
    if (places.empty()) return {};
    return places.front();
}

// The server may be in another mount namespace: the volume has to be unmounted there.
Error busy(pid_t holder, const std::optional<MountPlace> &place) {
    std::string sentence = "is mounted or being checked by another process";
    if (holder != 0) sentence += " (pid " + std::to_string(holder) + ")";
    if (place && !place->here)
        sentence += "; process " + std::to_string(place->process) +
                    ", in another mount namespace, has it mounted on " + place->mount.point;
    return Error(EBUSY, lasting(sentence));
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
        // If a holder forked and ended, its child has the lock under the holder's number.
        if (pid > 0 && (::kill(pid, 0) == 0 || errno == EPERM)) holder = pid;
    }
    std::fclose(locks);
    return holder;
}

Result<> lock_volume(int fd) {
    if (::flock(fd, LOCK_EX | LOCK_NB) == 0) return {};
    if (errno != EWOULDBLOCK) return Error(errno, "cannot lock the medium");
    return busy(lock_holder(fd), {});
}

Result<> lock_volume_patiently(int fd, const std::string &path) {
    using namespace std::chrono_literals;
    const auto give_up = std::chrono::steady_clock::now() + 10s;
    for (;;) {
        auto locked = lock_volume(fd);
        if (locked.ok() || locked.error().errno_value() != EBUSY) return locked;
        const auto place = mounted_place(path);
        if (place || std::chrono::steady_clock::now() > give_up)
            return busy(lock_holder(fd), place);
        std::this_thread::sleep_for(20ms);
    }
}

}  // namespace pmfs::pm
