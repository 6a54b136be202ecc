// run: executes a program, usually a virtual machine monitor, that gets sealed files as
// virtio-pmem.
//
// The program is executed in this process.  So no process is between it and its parent: exit status
// and signals are its own, and it is the holder of the grants, which end with it.  It gets a
// descriptor of the device that is open only for reading, and finds it through /proc/self/fd.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/printable.h"
#include "layout.h"
#include "sentences.h"
#include "verbs.h"

namespace pmfs::ctl {
namespace {

constexpr int kNotRun = 127;  // as shells return for a command that cannot be run
constexpr const char *kPlace = "{pmem}";

// Takes the grant, and adds QEMU's options for the file.
int borrow(const std::string &path, std::vector<std::string> *devices, unsigned *number) {
    const File file(path, File::Access::read);
    std::vector<Slice> slices;
    if (!find_slices(file, &slices)) return kFailed;
    const int device = pmfs_borrow(file.fd(), 0, 0);
    if (device < 0) return complain(file, Verb::run, -device);
    slices.clear();  // the grant has frozen them; read them again
    if (!find_slices(file, &slices)) return kFailed;
    const auto words = qemu_words(fmt::format("/proc/self/fd/{}", device), slices, number);
    devices->insert(devices->end(), words.begin(), words.end());
    return kDone;
}

}  // namespace

int run(const Options &options) {
    if (std::ranges::count(options.command, kPlace) != 1) {
        fmt::print(stderr,
                   "pmfsctl: the command must contain the argument {} exactly once: it is replaced "
                   "by the devices of the files\n",
                   kPlace);
        return kUsage;
    }
    std::vector<std::string> devices;
    unsigned number = 0;
    for (const std::string &path : options.paths)
        if (const int failed = borrow(path, &devices, &number)) return failed;
    std::vector<std::string> command = options.command;
    const auto place = std::ranges::find(command, kPlace);
    command.insert(command.erase(place), devices.begin(), devices.end());
    std::vector<char *> words;
    for (std::string &word : command) words.push_back(word.data());
    words.push_back(nullptr);
    std::fflush(nullptr);
    ::execvp(words[0], words.data());
    fmt::print(stderr, "pmfsctl: cannot run {}: {}\n", printable(words[0]), std::strerror(errno));
    return kNotRun;
}

}  // namespace pmfs::ctl
