// pmfsctl's verbs, one function each: they ask libpmfs, and print for a person or as JSON.
#pragma once
#include <cstdint>
#include <string>

namespace pmfs::ctl {

enum Exit { kDone = 0, kFailed = 1, kUsage = 2 };

enum class Color { automatic, always, never };

struct Options {
    std::string path;
    bool json = false;
    // seal
    bool as_is = false;
    bool prepare = false;
    // prepare
    std::uint64_t offset = 0, length = 0, unit = 0;
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
int holders(const Options &options);

}  // namespace pmfs::ctl
