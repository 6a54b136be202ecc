// What pmfsctl doctor checks: the machine and a device, as /sys, /proc and /dev show them.
#pragma once
#include <string>
#include <vector>

namespace pmfs::ctl {

struct Finding {
    enum class Grade { good, note, wrong } grade = Grade::good;
    std::string about;     // a short key: fuse, io_uring, memlock, device, mode, align, size
    std::string sentence;  // the finding
    std::string command;   // the command that fixes it; may be empty
};

// Reads /sys, /proc and /dev below `root` (empty: the machine's own).
std::vector<Finding> check_machine(const std::string &root);

// `device` is a path such as /dev/dax0.0 or /dev/pmem0.  It is not opened.
std::vector<Finding> check_device(const std::string &root, const std::string &device);

}  // namespace pmfs::ctl
