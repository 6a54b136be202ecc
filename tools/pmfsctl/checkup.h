// What pmfsctl doctor looks at: the machine and a device, as /sys, /proc and /dev show them.
#pragma once
#include <string>
#include <vector>

namespace pmfs::ctl {

struct Finding {
    enum class Grade { good, note, wrong } grade = Grade::good;
    std::string about;     // a short key: fuse, io_uring, memlock, device, mode, align, size
    std::string sentence;  // what is so
    std::string command;   // what mends it; may be empty
};

// /sys, /proc and /dev are looked for below `root` (empty: the machine's own).
std::vector<Finding> check_machine(const std::string &root);

// `device` is a path such as /dev/dax0.0 or /dev/pmem0.  It is not opened.
std::vector<Finding> check_device(const std::string &root, const std::string &device);

}  // namespace pmfs::ctl
