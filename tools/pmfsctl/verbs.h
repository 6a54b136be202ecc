// pmfsctl's verbs, one function each: they call libpmfs, and print for people or as JSON.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace pmfs::ctl {

enum Exit { kDone = 0, kFailed = 1, kUsage = 2 };

enum class Color { automatic, always, never };

struct Options {
    std::string path;
    bool json = false;
    // seal
    bool as_is = false;
    bool prepare = false;
    // unseal: how long to wait for holders
    double wait_seconds = 0;
    // prepare, and seal with that
    bool contiguous = false;
    // prepare; lease and pin without unit
    std::uint64_t offset = 0, length = 0, unit = 0;
    // lease, pin: hold while this runs; run: what to run, and with which files
    std::vector<std::string> command;
    std::vector<std::string> paths;
    // layout: QEMU's words
    bool qemu = false;
    // revoke
    std::uint64_t grant = 0, inode = 0;
    std::uint32_t pid = 0;
    bool all = false;
    // quarantine
    std::uint64_t release = 0;
    bool release_all = false;
    // grow: bytes; 0: as large as the medium is
    std::uint64_t size = 0;
    // tune: ten-thousandths
    std::optional<std::uint32_t> reserve;
    // probe: for udev's IMPORT
    bool udev = false;
    // doctor: where /sys, /proc and /dev are; empty: here
    std::string root;
    // map
    Color color = Color::automatic;
    bool ascii = false;
    unsigned width = 0;  // 0: as wide as the terminal
};

int info(const Options &options);
int status(const Options &options);
int prepare(const Options &options);
int seal(const Options &options);
int unseal(const Options &options);
int map(const Options &options);
int layout(const Options &options);
int holders(const Options &options);
int watch(const Options &options);
int quarantine(const Options &options);
int compact(const Options &options);
int revoke(const Options &options);
int grow(const Options &options);
int tune(const Options &options);
// These two take a device that need not be mounted.
int probe(const Options &options);
int doctor(const Options &options);
// These two end with the exit code of the command, if there is one.
int lease(const Options &options);
int pin(const Options &options);
// Does not return if the command could be executed.
int run(const Options &options);

}  // namespace pmfs::ctl
